"""Stored runs, paired by test case: what may be compared, and the columns that a comparison needs, read once.

Runs are comparable when they have ended, measured the same content (the dataset's hash) and were scored by the same
version of the scorer; whatever else differs but the model is a warning.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Float, select
from sqlalchemy.orm import Session

from evalservice.catalog.blocks import asked_order
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.comparisons.designs import Items, System
from evalservice.errors import Conflict, InvalidInput
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import Metric
from evalservice.statistics.clusters import dependent
from evalservice.tables import EvaluationResult, EvaluationRun

MOST_RUNS = 20
ROWS = 5_000
NO_CLUSTER = -1


@dataclass(frozen=True, slots=True)
class Comparable:
    """A metric that all runs have, and the key of its scorer."""

    metric: Metric
    scorer: str


def check_ended(runs: Sequence[EvaluationRun]) -> None:
    """Raises Conflict when a run goes on."""
    for run in runs:
        if run.status in ("pending", "running"):
            raise Conflict(f"run {run.id} is {run.status}: only a run that has ended can be compared")


def check_runs(runs: Sequence[EvaluationRun]) -> None:
    """Raises InvalidInput (fewer than two, one twice, too many) and Conflict (other data)."""
    if not 2 <= len(runs) <= MOST_RUNS:
        raise InvalidInput("run", len(runs), f"2 to {MOST_RUNS} runs")
    if len({run.id for run in runs}) < len(runs):
        raise InvalidInput("run", str(runs[0].id), "each run once")
    first = runs[0]
    for run in runs[1:]:
        if run.provenance["dataset"]["content_hash"] != first.provenance["dataset"]["content_hash"]:
            raise Conflict(
                f"runs {first.id} and {run.id} measured different data: {_dataset(first)} and {_dataset(run)}; only "
                "the same test cases can be paired"
            )


def _dataset(run: EvaluationRun) -> str:
    dataset = run.provenance["dataset"]
    return f"{dataset['name']!r} ({dataset['content_hash'][:12]})"


def comparable_metrics(runs: Sequence[EvaluationRun], wanted: Sequence[str]) -> tuple[list[Comparable], list[str]]:
    """The metrics to compare: those wanted, or all that every run has from the same version of a scorer; and the names
    of those that were left out because versions differ.

    Raises InvalidInput for a metric that a run lacks, Conflict where scorer versions differ, or nothing is in common.
    """
    found: list[dict[str, Comparable]] = []
    for run in runs:
        scorers = scorers_of(EvaluationCriteria.model_validate(run.provenance["criteria"]))
        found.append({m.name: Comparable(m, scorer.key) for scorer in scorers for m in scorer.metrics})
    common = [name for name in found[0] if all(name in each for each in found)]
    for name in wanted:
        if name not in common:
            lacking = next(run for run, each in zip(runs, found, strict=True) if name not in each)
            raise InvalidInput(
                "metric", name, f"run {lacking.id} has none of that name; in common: {', '.join(common)}"
            )
    chosen = [found[0][name] for name in (wanted or common)]
    if not chosen:
        raise Conflict("the runs have no metric in common")
    same = [each for each in chosen if len({run.provenance["scorers"].get(each.scorer) for run in runs}) == 1]
    others = [each for each in chosen if each not in same]
    if others and (wanted or not same):
        versions = " and ".join(sorted({str(run.provenance["scorers"].get(others[0].scorer)) for run in runs}))
        raise Conflict(
            f"{others[0].metric.name} was scored by different versions: {versions}; where only the code is newer, "
            "`evalservice runs rescore` brings both to the same"
        )
    return same, [each.metric.name for each in others]


def warnings_of(runs: Sequence[EvaluationRun]) -> list[str]:
    """Where the runs differ in anything but the model, in words."""
    told = []
    for label, of in (
        ("prompt template", lambda p: p["template_hash"][:12]),
        ("sampling and engine configuration", lambda p: _short(p["config"])),
        ("samples a test case", lambda p: p["epochs"]),
        ("seed", lambda p: p["seed"]),
        ("package versions", lambda p: _short(_versions(p["packages"], [run.provenance["packages"] for run in runs]))),
    ):
        values = [of(run.provenance) for run in runs]
        if any(value != values[0] for value in values):
            told.append(f"{label} differs: " + "; ".join(f"{v}" for v in dict.fromkeys(map(str, values))))
    asked = [run.total_test_cases for run in runs]
    if len(set(asked)) > 1:
        told.append(f"the runs asked {', '.join(map(str, asked))} test cases: only what all asked is compared")
    return told


def _versions(own: Mapping[str, str], every: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    names = sorted({name for each in every for name in each})
    return {name: own.get(name) for name in names if len({each.get(name) for each in every}) > 1}


def _short(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {each}" for key, each in sorted(value.items())) or "none"


Taken = Mapping[uuid.UUID, npt.NDArray[np.int64]]
"""By run, the indices of the test cases of which it is compared."""


def asked_by_all(runs: Sequence[EvaluationRun]) -> Taken:
    """The test cases that every run has asked, for each of them. Raises Conflict when there are none."""
    asked = [
        asked_order(run.dataset.total_test_cases, run.total_test_cases, run.evaluation_config.get("order_seed"))
        for run in runs
    ]
    common = reduce(np.intersect1d, asked)
    if not len(common):
        raise Conflict("the runs are samples without a test case in common")
    return {run.id: common for run in runs}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a comparison works on. systems: by metric, named by run id. coverage: by metric and run, the share of the
    test cases taken of it that have a score."""

    items: Items
    systems: dict[str, list[System]]
    coverage: dict[str, dict[str, float]]


def load(session: Session, runs: Sequence[EvaluationRun], wanted: Sequence[Comparable], taken: Taken) -> Loaded:
    """Each metric's systems over the items that are taken of any run.

    Every row is read once; of it stay a number for each metric (a corpus metric's statistics) and the cluster.
    """
    indices = reduce(np.union1d, taken.values())
    codes: dict[str, int] = {}
    clusters = np.full(len(indices), NO_CLUSTER, dtype=np.int64)
    systems: dict[str, list[System]] = {each.metric.name: [] for each in wanted}
    coverage: dict[str, dict[str, float]] = {each.metric.name: {} for each in wanted}
    models = Counter(run.model.name for run in runs)
    labels = {r.id: r.model.name if models[r.model.name] == 1 else f"{r.model.name} {str(r.id)[:13]}" for r in runs}
    for run in runs:
        columns = _Columns(len(indices), wanted)
        own = taken[run.id]
        position = dict(zip(own.tolist(), np.searchsorted(indices, own).tolist(), strict=True))
        for row in _rows(session, run.id, wanted):
            at, cluster = position.get(row[0]), row[1]
            if at is None:
                continue
            if cluster is not None:
                clusters[at] = codes.setdefault(cluster, len(codes))
            columns.put(at, row[2:])
        for each in wanted:
            system = columns.system(run, labels[run.id], each)
            systems[each.metric.name].append(system)
            coverage[each.metric.name][system.name] = float(system.scored.sum() / max(len(own), 1))
    sampled = any(run.provenance["epochs"] > 1 for run in runs)
    return Loaded(Items(indices, dependent(clusters, NO_CLUSTER), sampled), systems, coverage)


def _rows(session: Session, run_id: uuid.UUID, wanted: Sequence[Comparable]) -> Iterable[Sequence[Any]]:
    columns: list[Any] = [EvaluationResult.test_case_index, EvaluationResult.cluster]
    for each in wanted:
        name = each.metric.name
        if each.metric.kind == "corpus":
            columns.append(EvaluationResult.score_details["scores"][each.scorer]["statistics"][name])
        columns.append(EvaluationResult.metrics[name].astext.cast(Float))
    query = (
        select(*columns)
        .where(EvaluationResult.evaluation_run_id == run_id, EvaluationResult.success)
        .execution_options(yield_per=ROWS)
    )
    yield from session.execute(query)


class _Columns:
    """The numbers of one run, by test case; NaN where there is none."""

    def __init__(self, total: int, wanted: Sequence[Comparable]) -> None:
        self._total, self._wanted = total, wanted
        self._values = {each.metric.name: np.full(total, np.nan) for each in wanted}
        self._statistics: dict[str, npt.NDArray[np.float64]] = {}

    def put(self, index: int, numbers: Sequence[Any]) -> None:
        given = iter(numbers)
        for each in self._wanted:
            name = each.metric.name
            if each.metric.kind == "corpus" and (parts := next(given)):
                if name not in self._statistics:
                    self._statistics[name] = np.full((self._total, len(parts)), np.nan)
                self._statistics[name][index] = parts
            value = next(given)
            if value is not None:
                self._values[name][index] = value

    def system(self, run: EvaluationRun, label: str, each: Comparable) -> System:
        metric, statistics = each.metric.name, None
        if each.metric.kind == "corpus":
            statistics = self._statistics.get(metric, np.full((self._total, 1), np.nan))
        return System(str(run.id), self._values[metric], statistics, label)


def check_coverage(metric: str, coverage: Mapping[str, float], least: float, widest: float) -> None:
    """Raises Conflict where a run scored too few of the test cases, or the runs scored too different shares.

    What is missing is seldom missing by chance: a model that answers only what it knows looks better than it is.
    """
    low, high = min(coverage, key=coverage.__getitem__), max(coverage, key=coverage.__getitem__)
    if coverage[low] < least:
        raise Conflict(
            f"{metric}: run {low} has scores for {coverage[low]:.1%} of the test cases, at least {least:.1%} are "
            "needed: resume it, or lower min_coverage"
        )
    if coverage[high] - coverage[low] > widest:
        raise Conflict(
            f"{metric}: runs {low} and {high} have scores for {coverage[low]:.1%} and {coverage[high]:.1%} of the test "
            f"cases, more than {widest:.1%} apart: resume them, or raise max_coverage_gap"
        )

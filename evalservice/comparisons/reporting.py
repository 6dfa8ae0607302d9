"""The report of a numbered experiment run, computed from its stored rows, each read once.

Cells are compared with the baseline, the grid's first, pair by pair as `designs` says. Only test cases that every cell
of a benchmark has asked are taken.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from evalservice.comparisons import MAX_COVERAGE_GAP, MIN_COVERAGE
from evalservice.comparisons.analysis import own_interval
from evalservice.comparisons.designs import Items, PairComparison, Rules, System, compare_pair
from evalservice.comparisons.experiment_schemas import CellResult, ExperimentConfig, cell_results
from evalservice.comparisons.pairing import asked_by_all, comparable_metrics, load, warnings_of
from evalservice.comparisons.report_schemas import BenchmarkReport, CellScore, Difference, LevelScore, ReportRead
from evalservice.errors import Conflict, EvalserviceError
from evalservice.runs.lifecycle import ENDED
from evalservice.runs.service import primary_metric
from evalservice.scoring import Metric
from evalservice.statistics.intervals import clustered_mean_interval, mean_interval
from evalservice.statistics.multiple import holm
from evalservice.tables import EvaluationRun, Experiment, ExperimentRun


def report_of(session: Session, experiment: Experiment, row: ExperimentRun) -> ReportRead:
    """The report. Raises Conflict while a cell goes on."""
    cells = cell_results(row)
    going = [cell for cell in cells if cell.status not in ENDED]
    if going:
        raise Conflict(f"run {row.run_number} is {row.status}: {len(going)} of {len(cells)} cells have not ended")
    config = ExperimentConfig.model_validate({k: v for k, v in row.run_config.items() if k != "cells"})
    runs = {run.id: run for run in row.evaluation_runs}
    mine = {cell.evaluation_run_id: cell for cell in cells if not cell.is_shared}.values()
    costs = [cell.total_cost for cell in mine]
    return ReportRead(
        experiment=experiment.name,
        description=experiment.description,
        hypothesis=experiment.hypothesis,
        objective=experiment.objective,
        run_number=row.run_number,
        status=row.status,
        significance_level=config.significance_level,
        model_calls=sum(
            (cell.completed_test_cases + cell.failed_test_cases) * _epochs(runs[cell.evaluation_run_id])
            for cell in mine
        ),
        shared_cells=sum(cell.is_shared for cell in cells),
        total_cost=None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
        benchmarks=[
            _benchmark(session, name, [cell for cell in cells if cell.benchmark_id == benchmark_id], runs, config)
            for benchmark_id, name in {cell.benchmark_id: cell.benchmark for cell in cells}.items()
        ],
    )


def _epochs(run: EvaluationRun) -> int:
    return int(run.provenance["epochs"])


def _benchmark(
    session: Session,
    name: str,
    cells: Sequence[CellResult],
    runs: Mapping[uuid.UUID, EvaluationRun],
    config: ExperimentConfig,
) -> BenchmarkReport:
    first = runs[cells[0].evaluation_run_id]
    metric_name = config.metric or primary_metric(first)
    empty = BenchmarkReport(
        benchmark=name,
        metric=metric_name,
        higher_is_better=True,
        test_cases=0,
        baseline=cells[0].label,
        cells=[],
        levels=[],
        differences=[],
        warnings=[],
    )
    own = list({cell.evaluation_run_id: runs[cell.evaluation_run_id] for cell in cells}.values())
    try:
        [found], _ = comparable_metrics(own, [metric_name])
        loaded = load(session, own, [found], asked_by_all(own))
    except EvalserviceError as error:
        return empty.model_copy(update={"problem": error.message})
    systems = {system.name: system for system in loaded.systems[metric_name]}
    coverage = loaded.coverage[metric_name]
    ordered = [systems[str(cell.evaluation_run_id)] for cell in cells]
    rules = Rules(alpha=config.significance_level, seed=config.seed)
    low = [
        f"{cell.label} has scores for {coverage[system.name]:.1%} of the test cases"
        for cell, system in zip(cells, ordered, strict=True)
        if coverage[system.name] < MIN_COVERAGE
    ]
    return empty.model_copy(
        update={
            "higher_is_better": found.metric.higher_is_better,
            "test_cases": len(loaded.items.indices),
            "cells": _scores(cells, ordered, found.metric, rules, loaded.items, coverage),
            "levels": _levels(cells, ordered, found.metric, loaded.items),
            "differences": _differences(cells, ordered, found.metric, rules, loaded.items, coverage),
            "warnings": [*(warnings_of(own) if not config.parameters else ()), *low],
        }
    )


def _scores(
    cells: Sequence[CellResult],
    systems: Sequence[System],
    metric: Metric,
    rules: Rules,
    items: Items,
    coverage: Mapping[str, float],
) -> list[CellScore]:
    scores = []
    for cell, system in zip(cells, systems, strict=True):
        found = own_interval(system, metric, rules, items) if system.scored.any() else None
        answered = cell.completed_test_cases + cell.failed_test_cases
        scores.append(
            CellScore(
                label=cell.label,
                model=cell.model,
                parameters=cell.parameters,
                evaluation_run_id=cell.evaluation_run_id,
                value=found.value if found else None,
                ci_low=found.low if found else None,
                ci_high=found.high if found else None,
                n=found.n if found else 0,
                coverage=coverage[system.name],
                cost=None if cell.total_cost is None or not answered else cell.total_cost * 1000 / answered,
                pareto=False,
            )
        )
    front = pareto_front([(s.value, s.cost) for s in scores], higher_is_better=metric.higher_is_better)
    return [score.model_copy(update={"pareto": own}) for score, own in zip(scores, front, strict=True)]


def pareto_front(points: Sequence[tuple[float | None, Decimal | None]], *, higher_is_better: bool) -> list[bool]:
    """Which (quality, cost) no other dominates: as good and as cheap, and better in one. None that lacks either."""
    sign = 1 if higher_is_better else -1
    known = [(sign * quality, cost) for quality, cost in points if quality is not None and cost is not None]

    def stands(quality: float, cost: Decimal) -> bool:
        return not any(q >= quality and c <= cost and (q > quality or c < cost) for q, c in known)

    return [quality is not None and cost is not None and stands(sign * quality, cost) for quality, cost in points]


def _levels(cells: Sequence[CellResult], systems: Sequence[System], metric: Metric, items: Items) -> list[LevelScore]:
    """Factors of several levels. A corpus metric has no mean over test cases, and so none."""
    if metric.kind == "corpus":
        return []
    levels = []
    for factor in ("model", *cells[0].parameters):
        names = [cell.model if factor == "model" else str(cell.parameters[factor]) for cell in cells]
        if len(set(names)) < 2:
            continue
        for level in dict.fromkeys(names):
            own = [system for system, name in zip(systems, names, strict=True) if name == level]
            values = _means(np.stack([system.values for system in own]))
            kept = np.isfinite(values)
            clusters = None if items.clusters is None else items.clusters[kept]
            found = mean_interval(values[kept]) if clusters is None else clustered_mean_interval(values[kept], clusters)
            levels.append(
                LevelScore(
                    factor=factor,
                    level=level,
                    cells=len(own),
                    value=found.value,
                    ci_low=found.low,
                    ci_high=found.high,
                )
            )
    return levels


def _means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the systems (axis 0) that have a value; NaN where none has."""
    count = np.isfinite(values).sum(axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def _differences(
    cells: Sequence[CellResult],
    systems: Sequence[System],
    metric: Metric,
    rules: Rules,
    items: Items,
    coverage: Mapping[str, float],
) -> list[Difference]:
    """Every other cell against the first; cells of the same run are one. None is better where coverage forbids it."""
    compared: list[tuple[str, PairComparison]] = []
    for cell, system in list(zip(cells, systems, strict=True))[1:]:
        if system.name == systems[0].name or not (system.scored & systems[0].scored).any():
            continue
        compared.append((cell.label, compare_pair(system, systems[0], metric, rules, items, len(cells) - 1)))
    corrected = holm([pair.p_value for _, pair in compared])
    return [
        Difference(
            label=label,
            n=pair.n,
            difference=pair.interval.value,
            ci_low=pair.interval.low,
            ci_high=pair.interval.high,
            test=pair.test,
            p_value=pair.p_value,
            p_corrected=p,
            better=_better(pair, p, metric, rules) if _is_covered(pair, coverage) else None,
        )
        for (label, pair), p in zip(compared, corrected, strict=True)
    ]


def _is_covered(pair: PairComparison, coverage: Mapping[str, float]) -> bool:
    shares = coverage[pair.first], coverage[pair.second]
    return min(shares) >= MIN_COVERAGE and max(shares) - min(shares) <= MAX_COVERAGE_GAP


def _better(pair: PairComparison, p: float, metric: Metric, rules: Rules) -> bool | None:
    if p >= rules.alpha or not pair.interval.value:
        return None
    return (pair.interval.value > 0) == metric.higher_is_better

"""Stored runs in, the comparison as the API gives it out."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sqlalchemy.orm import Session

from evalservice.comparisons import MAX_COVERAGE_GAP, MIN_COVERAGE
from evalservice.comparisons.analysis import MetricComparison, compare
from evalservice.comparisons.designs import PairComparison, Rules
from evalservice.comparisons.pairing import (
    Taken,
    asked_by_all,
    check_coverage,
    check_ended,
    check_runs,
    comparable_metrics,
    load,
    warnings_of,
)
from evalservice.comparisons.retest import Retest, noise_of, retests
from evalservice.comparisons.schemas import ComparisonRead, Gate, MetricRead, PairRead, RetestRead, SystemRead
from evalservice.errors import Conflict
from evalservice.runs.service import primary_metric
from evalservice.scoring import Metric
from evalservice.tables import EvaluationRun


@dataclass(frozen=True, slots=True)
class Asked:
    """How runs shall be compared. metrics: none means all in common. Coverage is a share of the test cases."""

    metrics: Sequence[str] = ()
    rules: Rules = field(default_factory=Rules)
    min_coverage: float = MIN_COVERAGE
    max_coverage_gap: float = MAX_COVERAGE_GAP


def compare_runs(session: Session, runs: Sequence[EvaluationRun], asked: Asked) -> ComparisonRead:
    """Pair the runs by the test cases that all of them asked, and compare. Raises InvalidInput, Conflict: `pairing`."""
    check_runs(runs)
    check_ended(runs)
    return compare_taken(session, runs, asked, asked_by_all(runs))


def compare_taken(session: Session, runs: Sequence[EvaluationRun], asked: Asked, taken: Taken) -> ComparisonRead:
    """As `compare_runs`, of each run only the test cases that are taken, which it must have stored."""
    check_runs(runs)
    wanted, left_out = comparable_metrics(runs, list(dict.fromkeys(asked.metrics)))
    loaded = load(session, runs, wanted, taken)
    again = retests(session, runs, wanted, taken, loaded)
    models = {str(run.id): run.model.name for run in runs}
    metrics: dict[str, MetricRead] = {}
    for each in wanted:
        name = each.metric.name
        coverage = loaded.coverage[name]
        check_coverage(name, coverage, asked.min_coverage, asked.max_coverage_gap)
        try:
            found = compare(loaded.systems[name], each.metric, asked.rules, loaded.items)
        except ValueError as error:
            raise Conflict(f"{name}: {error}") from None
        metrics[name] = _metric_read(found, each.metric, models, coverage, again[name])
    primary = primary_metric(runs[0])
    primary = primary if primary in metrics else next(iter(metrics))
    return ComparisonRead(
        primary=primary,
        gate=gate_of(metrics[primary], runs[0].id),
        alpha=asked.rules.alpha,
        margin=asked.rules.margin,
        test_cases=len(loaded.items.indices),
        clustered=loaded.items.clusters is not None,
        warnings=[
            *warnings_of(runs),
            *(f"{name} is not compared: the runs were scored by different versions" for name in left_out),
        ],
        metrics=metrics,
    )


def gate_of(decisive: MetricRead, candidate: uuid.UUID) -> Gate:
    """What a verdict means for the candidate."""
    if decisive.verdict == "equivalent" or decisive.winner == candidate:
        return "go"
    return "inconclusive" if decisive.winner is None else "no_go"


def _metric_read(
    found: MetricComparison,
    metric: Metric,
    models: dict[str, str],
    coverage: dict[str, float],
    again: Mapping[str, Retest],
) -> MetricRead:
    return MetricRead(
        kind=metric.kind,
        higher_is_better=metric.higher_is_better,
        verdict=found.verdict,
        winner=uuid.UUID(found.winner) if found.winner else None,
        said=found.said,
        runs={
            name: SystemRead(
                model=models[name],
                value=interval.value,
                stderr=interval.stderr,
                ci_low=interval.low,
                ci_high=interval.high,
                n=interval.n,
                coverage=coverage[name],
                rank=found.order.index(name) + 1,
                retest=RetestRead(**asdict(again[name])) if name in again else None,
            )
            for name, interval in found.systems.items()
        },
        pairs=[_pair_read(pair, again) for pair in found.pairs],
        overall=found.overall,
    )


def _pair_read(pair: PairComparison, again: Mapping[str, Retest]) -> PairRead:
    return PairRead(
        run_a=uuid.UUID(pair.first),
        run_b=uuid.UUID(pair.second),
        n=pair.n,
        difference=pair.interval.value,
        ci_low=pair.interval.low,
        ci_high=pair.interval.high,
        interval=pair.interval.method,
        simultaneous_low=pair.simultaneous[0],
        simultaneous_high=pair.simultaneous[1],
        test=pair.test,
        p_value=pair.p_value,
        p_corrected=pair.p_corrected,
        effect=pair.effect,
        effect_size=pair.effect_size,
        wins_a=pair.wins,
        ties=pair.ties,
        wins_b=pair.losses,
        noticeable=pair.noticeable,
        needed=pair.needed,
        also={name: value if value is None or math.isfinite(value) else None for name, value in pair.also.items()},
        won_items=list(pair.won_items),
        lost_items=list(pair.lost_items),
        retest_stderr=noise_of([again.get(pair.first), again.get(pair.second)]),
    )

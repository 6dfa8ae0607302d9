"""How an imported run is scored: by the log, by a benchmark's own scorers as well, or as our own export was.

A log of another tool brings its values; they get the scorer `imported`. Under a benchmark that has scorers of its own
the stored completions are scored by these too, so that the run compares with those that we measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evalservice.catalog.criteria import EvaluationCriteria, parse_criteria
from evalservice.errors import InvalidInput
from evalservice.interchange.records import LogRun
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import AnyScorer, Metric
from evalservice.scoring.imported import NAME
from evalservice.tables import BenchmarkSuite

MAX_EPOCHS: Final = 100


@dataclass(frozen=True, slots=True)
class Scoring:
    """logged: the metrics that come with the log, by scorer. own: scorers that are asked now."""

    criteria: EvaluationCriteria
    scorers: Sequence[AnyScorer]
    logged: Mapping[str, Sequence[Metric]]
    own: Sequence[AnyScorer] = ()


def scoring_of(run: LogRun, suite: BenchmarkSuite | None) -> Scoring:
    """The scoring of a log's run, under an existing benchmark or one that will be made. Raises InvalidInput."""
    if run.criteria is not None:
        criteria = parse_criteria(run.criteria, "criteria")
        scorers = scorers_of(criteria)
        return Scoring(criteria, scorers, {scorer.key: scorer.metrics for scorer in scorers})
    epochs = min(run.epochs, MAX_EPOCHS)
    given = None if suite is None else EvaluationCriteria.model_validate(suite.evaluation_criteria)
    if given is None or any(spec.name == NAME for spec in given.scorers):
        own = {"scorers": [_logged(run, run.metrics)], "primary_metric": run.metrics[0].name, "epochs": epochs}
        criteria = parse_criteria(own, "log")
        return Scoring(criteria, scorers_of(criteria), {NAME: run.metrics})
    ours = scorers_of(given)
    taken = {metric.name for scorer in ours for metric in scorer.metrics}
    kept = [metric for metric in run.metrics if metric.name not in taken]
    document = {**given.as_json(), "epochs": epochs}
    if kept:
        document["scorers"] = [*document["scorers"], _logged(run, kept)]
    criteria = parse_criteria(document, "log")
    return Scoring(criteria, scorers_of(criteria), {NAME: run.metrics}, ours)


def _logged(run: LogRun, metrics: Sequence[Metric]) -> dict[str, Any]:
    for metric in metrics:
        if not 0 < len(metric.name) <= 200 or "\0" in metric.name:
            raise InvalidInput("metric", metric.name, "a name of 1 to 200 characters")
    described = [
        {"name": m.name, "kind": m.kind, "scale": list(m.scale), "higher_is_better": m.higher_is_better}
        for m in metrics
    ]
    return {"name": NAME, "params": {"measure": run.measure, "metrics": described}}

"""Questions about measured metrics."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.errors import InvalidInput
from evalservice.lookup import find
from evalservice.runs.scorers import scorers_of
from evalservice.tables import BenchmarkSuite, EvaluationRun


def standings(session: Session, benchmark: str, metric: str | None = None) -> dict[str, Any]:
    """Models by their latest completed run on a benchmark, best first; with partial runs (a limit) left out.

    `{"benchmark", "metric", "items": [{"rank", "model", "run_id", "value", "stderr", "ci_low", "ci_high", "n", …}]}`.
    Models of equal value share a rank. Raises NotFound (benchmark), InvalidInput (metric).
    """
    suite = find(session, BenchmarkSuite, benchmark, "benchmark")
    latest = (
        select(EvaluationRun)
        .where(
            EvaluationRun.benchmark_id == suite.id,
            EvaluationRun.status == "completed",
            ~EvaluationRun.evaluation_config.has_key("limit"),
        )
        .distinct(EvaluationRun.model_id)
        .order_by(EvaluationRun.model_id, EvaluationRun.created_at.desc())
        .options(joinedload(EvaluationRun.model))
    )
    runs = session.scalars(latest).all()
    criteria = suite.evaluation_criteria
    names = list(dict.fromkeys(name for run in runs for name in run.aggregated_results))
    if metric is not None and names and metric not in names:
        raise InvalidInput("metric", metric, f"the runs have {', '.join(names)}")
    chosen = metric or criteria.get("primary_metric") or (names[0] if names else "")
    rows = [_row(run, run.aggregated_results[chosen]) for run in runs if _value(run, chosen) is not None]
    rows.sort(key=lambda row: row["value"], reverse=chosen not in _lower_is_better(suite))
    for position, row in enumerate(rows):
        tied = position > 0 and rows[position - 1]["value"] == row["value"]
        row["rank"] = rows[position - 1]["rank"] if tied else position + 1
    return {"benchmark": suite.name, "metric": chosen, "items": rows}


def _lower_is_better(suite: BenchmarkSuite) -> set[str]:
    scorers = scorers_of(EvaluationCriteria.model_validate(suite.evaluation_criteria))
    return {metric.name for scorer in scorers for metric in scorer.metrics if not metric.higher_is_better}


def _value(run: EvaluationRun, metric: str) -> float | None:
    value: float | None = run.aggregated_results.get(metric, {}).get("value")
    return value


def _row(run: EvaluationRun, result: dict[str, Any]) -> dict[str, Any]:
    return {
        "rank": 0,
        "model": run.model.name,
        "run_id": run.id,
        **{key: result[key] for key in ("value", "stderr", "ci_low", "ci_high", "n", "coverage")},
        "latency_p50_ms": run.metadata_.get("latency_ms", {}).get("p50"),
        "total_cost": run.total_cost,
        "completed_at": run.completed_at,
    }

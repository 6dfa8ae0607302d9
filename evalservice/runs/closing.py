"""Close a run: aggregates with uncertainty, metric rows, statistics of model and benchmark, in one transaction."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import Float, delete, func, select, update
from sqlalchemy.orm import Session

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.runs.aggregates import Aggregator
from evalservice.runs.completion_cache import CACHED
from evalservice.runs.lifecycle import Lease, close
from evalservice.runs.scorers import scorers_of
from evalservice.runs.service import primary_metric_of
from evalservice.scoring import from_details
from evalservice.tables import BenchmarkSuite, EvaluationResult, EvaluationRun, Model, ModelMetric

ACCURACY_CATEGORIES = ("qa", "classification")
BOOTSTRAP_SEED = 20_260


def close_run(
    session: Session, lease: Lease, status: str, *, error_message: str = "", error_traceback: str = ""
) -> EvaluationRun:
    """Compute what the run's rows say and end it with `status`; a run that had ended before keeps status and error.

    Why what was asked of such a run could not be done is in its metadata then, `work_error`, until it can be. Raises
    LeaseLost; nothing is written then.
    """
    run = session.get_one(EvaluationRun, lease.run_id)
    totals = _totals(session, lease)
    results = aggregate(session, run)
    reason = {} if lease.keeps_status else {"error_message": error_message, "error_traceback": error_traceback}
    metadata = {k: v for k, v in run.metadata_.items() if k not in ("work_error", "waiting_for")}
    metadata |= {"latency_ms": totals["latency"]}
    if totals["cached"]:
        metadata[CACHED] = totals["cached"]
    if lease.keeps_status and error_message:
        metadata["work_error"] = error_message
    close(
        session,
        lease,
        status,
        aggregated_results=results,
        total_cost=totals["cost"],
        total_tokens=totals["tokens"],
        input_tokens=totals["input_tokens"],
        output_tokens=totals["output_tokens"],
        completed_test_cases=totals["completed"],
        failed_test_cases=totals["failed"],
        progress=min(1.0, (totals["completed"] + totals["failed"]) / max(run.total_test_cases, 1)),
        **reason,
        metadata_=metadata,
    )
    session.refresh(run)
    if run.status == "completed":
        _write_metrics(session, run, totals)
        _update_model(session, run)
        _update_benchmark(session, run)
    return run


def aggregate(session: Session, run: EvaluationRun) -> dict[str, dict[str, Any]]:
    """`aggregated_results` from the stored rows, streamed."""
    criteria = EvaluationCriteria.model_validate(run.provenance["criteria"])
    totals = Aggregator.of(scorers_of(criteria), seed=criteria.seed or BOOTSTRAP_SEED)
    rows = session.execute(
        select(EvaluationResult.cluster, EvaluationResult.success, EvaluationResult.score_details)
        .where(EvaluationResult.evaluation_run_id == run.id)
        .order_by(EvaluationResult.test_case_index)
        .execution_options(yield_per=2000)
    )
    for cluster, success, details in rows:
        totals.add(cluster, success, from_details(details))
    return totals.results()


def _totals(session: Session, lease: Lease) -> dict[str, Any]:
    row = EvaluationResult
    # Percentiles come from the rows themselves: those of parts cannot be averaged.
    percentiles = [
        func.percentile_cont(share).within_group(row.latency_ms).filter(row.success) for share in (0.5, 0.95, 0.99)
    ]
    completed, failed, cached, cost, tokens, inputs, outputs, mean, p50, p95, p99 = session.execute(
        select(
            func.count().filter(row.success),
            func.count().filter(~row.success),
            func.count().filter(row.success, row.completion_info.has_key("cached_from")),
            func.sum(row.cost),
            func.sum(row.tokens_used),
            func.sum(row.input_tokens),
            func.sum(row.output_tokens),
            func.avg(row.latency_ms).filter(row.success),
            *percentiles,
        ).where(row.evaluation_run_id == lease.run_id)
    ).one()
    return {
        "completed": completed,
        "failed": failed,
        "cached": cached,
        "cost": cost,
        "tokens": tokens,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "latency": {"mean": mean, "p50": p50, "p95": p95, "p99": p99},
    }


def _write_metrics(session: Session, run: EvaluationRun, totals: dict[str, Any]) -> None:
    session.execute(delete(ModelMetric).where(ModelMetric.evaluation_run_id == run.id))
    total = totals["completed"] + totals["failed"]
    for metric_type, value, unit in (
        *((f"latency_{name}", totals["latency"][name], "ms") for name in ("p50", "p95", "p99")),
        ("cost_per_1k_tokens", cost_per_1k_tokens(totals["cost"], totals["tokens"]), "USD"),
        ("error_rate", totals["failed"] / total if total else None, ""),
        ("success_rate", totals["completed"] / total if total else None, ""),
    ):
        if value is not None:
            _add_metric(session, run, metric_type, float(value), unit, {"n": total})
    benchmark = session.get_one(BenchmarkSuite, run.benchmark_id)
    primary = primary_metric_of(EvaluationCriteria.model_validate(run.provenance["criteria"]))
    for name, result in run.aggregated_results.items():
        if result["value"] is not None:
            metric_type = metric_type_of(name, primary, benchmark.category)
            _add_metric(session, run, metric_type, result["value"], "", {"name": name, **result})


def metric_type_of(name: str, primary: str, category: str) -> str:
    """The seed's type of a benchmark's metric: accuracy for the primary metric of a qa or classification benchmark,
    BLEU and ROUGE-L under their own names, anything else custom."""
    if name == "bleu":
        return "bleu_score"
    if name == "rougeL":
        return "rouge_score"
    if name == primary and category in ACCURACY_CATEGORIES:
        return "accuracy"
    return "custom"


def cost_per_1k_tokens(cost: Decimal | None, tokens: int | None) -> Decimal | None:
    """US dollars for a thousand tokens; None when either is unknown."""
    return None if cost is None or not tokens else cost * 1000 / tokens


def _add_metric(
    session: Session, run: EvaluationRun, metric_type: str, value: float, unit: str, metadata: dict[str, Any]
) -> None:
    session.add(
        ModelMetric(
            organization_id=run.organization_id,
            model_id=run.model_id,
            metric_type=metric_type,
            value=value,
            unit=unit,
            benchmark_id=run.benchmark_id,
            evaluation_run_id=run.id,
            metadata_=metadata,
            timestamp=run.completed_at,
        )
    )


def _update_model(session: Session, run: EvaluationRun) -> None:
    """The model's cached statistics, over all its completed runs; the run itself is among them by now."""
    session.flush()
    session.execute(select(Model.id).where(Model.id == run.model_id).with_for_update(key_share=True))
    completed = (EvaluationRun.model_id == run.model_id) & (EvaluationRun.status == "completed")
    weight = EvaluationRun.completed_test_cases
    latency = EvaluationRun.metadata_["latency_ms"]["mean"].as_float()
    known = latency.isnot(None)
    count, latency_ms, cost = session.execute(
        select(
            func.count(),
            func.sum(latency * weight).filter(known) / func.nullif(func.sum(weight).filter(known), 0),
            (
                func.sum(EvaluationRun.total_cost)
                * 1000
                / func.nullif(func.sum(EvaluationRun.total_tokens).filter(EvaluationRun.total_cost.isnot(None)), 0)
            ).cast(Float),
        ).where(completed)
    ).one()
    accuracy = session.scalar(
        select(func.avg(ModelMetric.value))
        .join(EvaluationRun, EvaluationRun.id == ModelMetric.evaluation_run_id)
        .where(completed, ModelMetric.metric_type == "accuracy")
    )
    session.execute(
        update(Model)
        .where(Model.id == run.model_id)
        .values(
            total_evaluations=count,
            avg_accuracy=accuracy,
            avg_latency_ms=latency_ms,
            avg_cost_per_1k_tokens=cost,
        )
    )


def _update_benchmark(session: Session, run: EvaluationRun) -> None:
    count = select(func.count()).where(
        EvaluationRun.benchmark_id == run.benchmark_id, EvaluationRun.status == "completed"
    )
    session.execute(
        update(BenchmarkSuite)
        .where(BenchmarkSuite.id == run.benchmark_id, BenchmarkSuite.organization_id == run.organization_id)
        .values(total_evaluations=count.scalar_subquery(), last_used_at=run.completed_at)
    )

"""From Postgres to a snapshot, in one pass: what an organization's runs and outcomes say of each of its models.

A run's weight halves every `HALF_LIFE_DAYS`: it lowers the effective number of test cases, so that old evidence is less
certain, and never changes a value. Runs of one benchmark see the same test cases: together they count as no more of
them than the largest has.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.orm import Session

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.errors import EvalserviceError
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import Metric
from evalservice.selection.learned import Learned, learned_of
from evalservice.selection.shrinkage import Shrunk, shrink
from evalservice.selection.snapshot import OVERALL, Array, ModelCard, Snapshot

HALF_LIFE_DAYS = 30.0
OLDEST_HALF_LIVES = 10.0
"""Older evidence counts less than a thousandth: it is not read."""
TYPICAL_TOKENS = (500.0, 500.0)
"""Input and output tokens of a request, for declared prices, where no run of the organization tells."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The primary metric of a benchmark, and how its value becomes a quality in [0, 1]: (value − worst) / span."""

    id: uuid.UUID
    name: str
    category: str
    metric: str
    worst: float
    span: float


def read_snapshot(session: Session, now: datetime, half_life_days: float = HALF_LIFE_DAYS) -> Snapshot:
    """The evidence of the transaction's organization. `now`: the moment that ages are counted from."""
    models = session.execute(text(_MODELS)).all()
    benchmarks = measured_benchmarks(session)
    times = {
        "now": now,
        "since": now - timedelta(days=OLDEST_HALF_LIVES * half_life_days),
        "half_life": half_life_days * 86_400,
    }
    position = {row.id: index for index, row in enumerate(models)}
    shrunk, categories, measured_at = _quality(session, benchmarks, position, times)
    runs = _runs(session, position, times)
    learned = learned_of(session, position, now.timestamp())
    targets, quality = _targets(shrunk, categories, benchmarks, learned)
    cost, cost_per_1k = _costs(models, runs)
    return Snapshot(
        version=uuid.uuid4().hex,
        read_at=now.timestamp(),
        models=tuple(_card(row) for row in models),
        targets=targets,
        quality=quality[0],
        quality_sd=quality[1],
        quality_n=quality[2],
        cost=learned.cost(cost),
        cost_per_1k=cost_per_1k,
        latency=learned.latency(runs.latency),
        error_rate=learned.error_rate(runs.error_rate),
        outcomes=learned.outcomes,
        newest=np.fmax(np.fmax(measured_at, runs.newest), learned.newest),
        breakers=learned.breakers,
    )


_MODELS = """
    SELECT model.id, model.name, model.display_name, model.version, model.platform, model.platform_model_id,
           model.status, model.tags, model.base_url, model.default_config, model.input_price_per_million AS input_price,
           model.output_price_per_million AS output_price,
           coalesce((SELECT array_agg(capability.name::text) FROM evaluation_models_capabilities AS link
                     JOIN model_capabilities AS capability ON capability.id = link.capability_id
                     WHERE link.model_id = model.id), '{}') AS capabilities
    FROM evaluation_models AS model WHERE model.status <> 'archived' ORDER BY model.id
"""

_BENCHMARKS = """
    SELECT id, name, category, evaluation_criteria FROM benchmark_suites WHERE archived_at IS NULL ORDER BY id
"""

# The variance of one test case, weighed over runs. A row for each benchmark: 50,000 rows took a second to fetch.
_QUALITY = """
    WITH measured AS (
        SELECT model.place AS model, of.place AS benchmark, metric.value, metric.timestamp,
               (metric.metadata ->> 'n')::double precision AS n,
               coalesce((metric.metadata ->> 'stderr')::double precision, 0) AS stderr,
               power(0.5, greatest(extract(epoch FROM CAST(:now AS timestamptz) - metric.timestamp), 0) / :half_life)
                   AS weight
        FROM model_metrics AS metric
        JOIN unnest(CAST(:benchmarks AS uuid[]), CAST(:names AS text[]))
             WITH ORDINALITY AS of (benchmark_id, name, place)
          ON metric.benchmark_id = of.benchmark_id AND metric.metadata ->> 'name' = of.name
        JOIN unnest(CAST(:models AS uuid[])) WITH ORDINALITY AS model (model_id, place)
          ON metric.model_id = model.model_id
        WHERE metric.timestamp > :since AND metric.evaluation_run_id IS NOT NULL
    ), cell AS (
        SELECT model - 1 AS model, benchmark - 1 AS benchmark, least(sum(n * weight), max(n)) AS n,
               sum(value * n * weight) / sum(n * weight) AS value,
               sum(stderr * stderr * n * n * weight) / sum(n * weight) AS variance,
               extract(epoch FROM max(timestamp))::double precision AS newest
        FROM measured WHERE n > 0 AND weight > 0 AND value NOT IN ('NaN', 'Infinity', '-Infinity')
        GROUP BY model, benchmark
    )
    SELECT benchmark, array_agg(model) AS models, array_agg(n) AS n, array_agg(value) AS value,
           array_agg(variance) AS variance, array_agg(newest) AS newest
    FROM cell GROUP BY benchmark
"""

_RUNS = """
    WITH run AS (
        SELECT model_id, completed_at, failed_test_cases AS failed, completed_test_cases AS completed,
               total_cost::double precision AS cost, total_tokens AS tokens, input_tokens, output_tokens,
               completed_test_cases - coalesce((metadata ->> 'cached_test_cases')::integer, 0) AS asked,
               metadata -> 'latency_ms' AS latency,
               power(0.5, greatest(extract(epoch FROM CAST(:now AS timestamptz) - completed_at), 0) / :half_life)
                   AS weight
        FROM evaluation_runs
        WHERE status = 'completed' AND completed_at > :since
    )
    SELECT model_id, sum(failed * weight) AS failed, sum((failed + completed) * weight) AS total,
           sum(cost * weight) FILTER (WHERE asked > 0) AS cost,
           sum(asked * weight) FILTER (WHERE cost IS NOT NULL) AS priced,
           sum(tokens * weight) FILTER (WHERE cost IS NOT NULL) AS priced_tokens,
           sum(input_tokens * weight) AS input_tokens, sum(output_tokens * weight) AS output_tokens,
           sum(asked * weight) FILTER (WHERE input_tokens IS NOT NULL) AS counted,
           max(completed_at) AS newest,
           (array_agg(latency ORDER BY completed_at DESC) FILTER (WHERE latency ->> 'p95' IS NOT NULL))[1] AS latency
    FROM run GROUP BY model_id
"""


def _card(row: Any) -> ModelCard:
    call = {
        "model_id": str(row.id),
        "name": row.name,
        "version": row.version,
        "display_name": row.display_name,
        "platform": row.platform,
        "platform_model_id": row.platform_model_id,
        "base_url": row.base_url,
        "config": row.default_config,
    }
    return ModelCard(
        str(row.id),
        row.name,
        row.version,
        row.platform,
        row.status,
        frozenset(row.capabilities),
        frozenset(map(str, row.tags)),
        orjson.dumps(call),
    )


def measured_benchmarks(session: Session) -> list[Benchmark]:
    """Those whose primary metric is a share of something, so that they can be compared."""
    found = []
    for row in session.execute(text(_BENCHMARKS)):
        metric = _primary(row.evaluation_criteria)
        low, high = (None, None) if metric is None else metric.scale
        if metric is None or low is None or high is None:
            continue  # no share of anything: it cannot be compared with other benchmarks
        worst, best = (low, high) if metric.higher_is_better else (high, low)
        if worst != best:
            found.append(Benchmark(row.id, row.name, row.category, metric.name, worst, best - worst))
    return found


def _primary(given: Any) -> Metric | None:
    try:
        criteria = EvaluationCriteria.model_validate(given)
        metrics = {metric.name: metric for scorer in scorers_of(criteria) for metric in scorer.metrics}
    except (ValidationError, EvalserviceError):
        return None  # a scorer that is not installed here
    return metrics.get(criteria.primary_metric) if criteria.primary_metric else next(iter(metrics.values()), None)


def _quality(
    session: Session, benchmarks: Sequence[Benchmark], position: Mapping[uuid.UUID, int], times: Mapping[str, Any]
) -> tuple[Shrunk, list[str], Array]:
    """The shrunk estimates, the categories in their order, when each model was measured last."""
    shape = (len(benchmarks), len(position))
    value, variance, n = (np.full(shape, np.nan) for _ in range(3))
    newest = np.full(len(position), np.nan)
    wanted = {
        "benchmarks": [benchmark.id for benchmark in benchmarks],
        "names": [benchmark.metric for benchmark in benchmarks],
        "models": list(position),
    }
    for row in session.execute(text(_QUALITY), {**wanted, **times}):
        cells = (row.benchmark, np.array(row.models))
        value[cells], variance[cells], n[cells] = row.value, row.variance, row.n
        newest[cells[1]] = np.fmax(newest[cells[1]], row.newest)
    worst = np.array([benchmark.worst for benchmark in benchmarks])[:, None]
    span = np.array([benchmark.span for benchmark in benchmarks])[:, None]
    value, variance = (value - worst) / span, variance / span**2
    smoothed = (value * n + 1) / (n + 2)  # all right, or all wrong, is not certain
    variance = np.where(variance > 0, variance, smoothed * (1 - smoothed)) / n
    categories = sorted({benchmark.category for benchmark in benchmarks})
    category_of = np.array([categories.index(benchmark.category) for benchmark in benchmarks], np.intp)
    return shrink(value, variance, n, category_of, len(categories)), categories, newest


@dataclass(frozen=True, slots=True)
class _Runs:
    """Per model [M]: error rate, dollars and tokens per request, dollars per token; latency [3, M]; tokens of a request
    over all of them."""

    error_rate: Array
    cost: Array
    cost_per_token: Array
    latency: Array
    newest: Array
    tokens: tuple[float, float]


def _runs(session: Session, position: Mapping[uuid.UUID, int], times: Mapping[str, Any]) -> _Runs:
    error_rate, cost, per_token, newest = (np.full(len(position), np.nan) for _ in range(4))
    latency = np.full((3, len(position)), np.nan)
    tokens, counted = np.zeros(2), 0.0
    for run in session.execute(text(_RUNS), times):
        if run.counted:
            tokens += (run.input_tokens or 0.0, run.output_tokens or 0.0)
            counted += run.counted
        model = position.get(run.model_id)
        if model is None:
            continue
        newest[model] = run.newest.timestamp()
        if run.total:
            error_rate[model] = run.failed / run.total
        if run.cost is not None and run.priced:
            cost[model] = run.cost / run.priced
        if run.cost is not None and run.priced_tokens:
            per_token[model] = run.cost / float(run.priced_tokens)
        if run.latency:
            latency[:, model] = [_number(run.latency.get(name)) for name in ("p50", "p95", "p99")]
    usual = (float(tokens[0] / counted), float(tokens[1] / counted)) if counted else TYPICAL_TOKENS
    return _Runs(error_rate, cost, per_token, latency, newest, usual)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _costs(models: Sequence[Any], runs: _Runs) -> tuple[Array, Array]:
    """Dollars per request and per 1,000 tokens, as measured; else by the declared prices for the organization's usual
    request."""
    inputs, outputs = runs.tokens
    declared = np.array(
        [
            math.nan
            if row.input_price is None or row.output_price is None
            else (float(row.input_price) * inputs + float(row.output_price) * outputs) / 1e6
            for row in models
        ]
    )
    per_1k = np.where(np.isnan(runs.cost_per_token), declared / max(inputs + outputs, 1.0), runs.cost_per_token) * 1000
    return np.where(np.isnan(runs.cost), declared, runs.cost), per_1k


def _targets(
    shrunk: Shrunk, categories: Sequence[str], benchmarks: Sequence[Benchmark], learned: Learned
) -> tuple[dict[str, int], tuple[Array, Array, Array]]:
    """The rows of the snapshot by name. Two benchmarks of one name: the last one has it, the other is found by id."""
    names = [OVERALL, *(f"category:{name}" for name in categories)]
    targets = {name: index for index, name in enumerate(names)}
    for index, benchmark in enumerate(benchmarks, len(names)):
        targets[f"benchmark:{benchmark.name}"] = targets[f"benchmark:{benchmark.id}"] = index
    rows = [
        np.vstack([own[None, :], of_category, of_benchmark])
        for own, of_category, of_benchmark in (
            (shrunk.overall, shrunk.category, shrunk.benchmark),
            (shrunk.overall_sd, shrunk.category_sd, shrunk.benchmark_sd),
            (shrunk.overall_n, shrunk.category_n, shrunk.benchmark_n),
        )
    ]
    return learned.joined(targets, (rows[0], rows[1], rows[2]))


def utc_now() -> datetime:
    """The time that evidence is read at."""
    return datetime.now(UTC)

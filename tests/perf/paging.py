"""A page of 100 out of 10 thousand and out of 10 million result rows, and the same of a million measurements.

    python -m tests.perf.paging

Pages are keyset pages anywhere in any run, read by the service's login under row-level security; a run has at most
100,000 rows. The goal is a p95 at 10 million rows of at most 5 times that at 10 thousand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
from sqlalchemy import Engine, select, tuple_
from sqlalchemy.orm import Session

import migrations
from evalservice.database import make_engine, tenant_transaction
from evalservice.metrics.queries import metric_rows
from evalservice.tables import DEFAULT_ORGANIZATION_ID, EvaluationResult, EvaluationRun, Model, ModelMetric, new_id
from tests.perf.bench import bench, table

RUN_ROWS = 100_000
FEW, RESULTS, METRICS = 10_000, 10_000_000, 1_000_000
PAGE, PAGES = 100, 1000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)

MODEL_AND_SUITE = f"""
    INSERT INTO evaluation_models (id, organization_id, name, display_name, platform, platform_model_id)
    SELECT gen_random_uuid(), '{DEFAULT_ORGANIZATION_ID}', 'm' || n, '', 'openai', 'm' || n
    FROM generate_series(0, 9) AS n;
    INSERT INTO evaluation_datasets (id, organization_id, name)
    VALUES (gen_random_uuid(), '{DEFAULT_ORGANIZATION_ID}', 'd');
    INSERT INTO benchmark_suites (id, organization_id, name, category, dataset_id)
    SELECT gen_random_uuid(), organization_id, 'b', 'qa', id FROM evaluation_datasets;
"""
RUN = """
    INSERT INTO evaluation_runs (id, organization_id, model_id, benchmark_id, dataset_id)
    SELECT %s, s.organization_id, m.id, s.id, s.dataset_id
    FROM benchmark_suites AS s, evaluation_models AS m WHERE m.name = 'm0'
"""
RESULT_ROWS = """
    INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, input_data, actual_output,
                                    metrics, latency_ms, tokens_used)
    SELECT (lpad(to_hex(%s * 1000000 + n), 32, '0'))::uuid, %s, %s, n,
           to_jsonb('Case ' || n), to_jsonb('The sum is ' || n), '{"exact_match": 1.0}', 200 + n %% 100, 76
    FROM generate_series(0, %s - 1) AS n
"""
METRIC_ROWS = """
    INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, timestamp)
    SELECT (lpad(to_hex(n), 32, '0'))::uuid, m.organization_id, m.id, t.metric_type, random(), %s + n * interval '1 s'
    FROM generate_series(0, %s - 1) AS n
    JOIN LATERAL (SELECT (ARRAY['accuracy', 'latency_p50', 'error_rate'])[1 + n %% 3]) AS t (metric_type) ON true
    JOIN evaluation_models AS m ON m.name = 'm' || (n / 3) %% 10
"""


def fill(url: str, results: int, metrics: int) -> None:
    """Store the rows, foreign keys and triggers aside."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(MODEL_AND_SUITE.encode())
        connection.execute("SET session_replication_role = replica")
        for number, start in enumerate(range(0, results, RUN_ROWS)):
            run = new_id()
            rows = min(RUN_ROWS, results - start)
            connection.execute(RUN.encode(), (run,))
            connection.execute(RESULT_ROWS.encode(), (number, DEFAULT_ORGANIZATION_ID, run, rows))
        connection.execute(METRIC_ROWS.encode(), (FIRST, metrics))
        connection.execute("VACUUM ANALYZE")


def p95(engine: Engine, page: Callable[[Session], int]) -> float:
    """Milliseconds of a page, its transaction included."""
    seconds = []
    for _ in range(PAGES):
        started = time.perf_counter()
        with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
            assert page(session) == PAGE
        seconds.append(time.perf_counter() - started)
    return 1000 * sorted(seconds)[int(0.95 * PAGES)]


def measured(results: int, metrics: int) -> tuple[float, float]:
    """p95 of a page of results and of one of measurements."""
    chance = random.Random(results)
    with bench() as opened:
        migrations.upgrade(opened.url)
        fill(opened.url, results, metrics)
        engine = make_engine(opened.url.replace("postgres:@", "evalservice_service@"))
        with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
            runs = session.scalars(select(EvaluationRun.id)).all()
            models = session.scalars(select(Model.id)).all()

        def of_results(session: Session) -> int:
            row = EvaluationResult
            after = chance.randrange(min(results, RUN_ROWS) - PAGE)
            query = select(row).where(row.evaluation_run_id == chance.choice(runs), row.test_case_index >= after)
            query = query.order_by(row.test_case_index).limit(PAGE)
            return len(session.connection().execute(query).all())

        def of_metrics(session: Session) -> int:
            row = ModelMetric
            before = FIRST + timedelta(seconds=chance.randrange(metrics // 2, metrics))
            query = metric_rows(model_id=chance.choice(models), metric_type="accuracy")
            query = query.where(tuple_(row.timestamp, row.id) < tuple_(before, new_id()))
            query = query.order_by(row.timestamp.desc(), row.id.desc()).limit(PAGE)
            return len(session.connection().execute(query).all())

        p95(engine, of_results)
        found = p95(engine, of_results), p95(engine, of_metrics)
        engine.dispose()
        return found


def main() -> None:
    few_results, few_metrics = measured(FEW, FEW)
    results, metrics = measured(RESULTS, METRICS)
    table(
        f"A page of {PAGE}, p95 of {PAGES}",
        ["rows", "milliseconds", "ratio"],
        [
            [f"{FEW} results", f"{few_results:.2f}", "1"],
            [f"{RESULTS} results", f"{results:.2f}", f"{results / few_results:.2f}"],
            [f"{FEW} measurements", f"{few_metrics:.2f}", "1"],
            [f"{METRICS} measurements", f"{metrics:.2f}", f"{metrics / few_metrics:.2f}"],
        ],
    )


if __name__ == "__main__":
    main()

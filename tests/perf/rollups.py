"""A day of a million measurements rolled up, against bare SQL that groups the same rows once.

    python -m tests.perf.rollups

Ours gives the aggregates of 24 hours, the day, its week and its month, with mergeable percentiles; the bare statement
gives one row a series with exact ones. Medians of rounds in which both are measured.
"""

from __future__ import annotations

import statistics
import time
import uuid

import psycopg
from sqlalchemy import Engine

import migrations
from evalservice.database import make_engine, tenant_transaction
from evalservice.metrics.rollups import roll_up
from evalservice.tables import DEFAULT_ORGANIZATION_ID
from tests.perf.bench import bench, table

ROWS = 1_000_000
MODELS = 100
BENCHMARKS = 3
ROUNDS = 5

FILL = f"""
    INSERT INTO evaluation_models (id, organization_id, name, display_name, platform, platform_model_id)
    SELECT gen_random_uuid(), '{DEFAULT_ORGANIZATION_ID}', 'm' || n, '', 'openai', 'm' || n
    FROM generate_series(1, {MODELS}) AS n;
    INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, benchmark_id, metadata, timestamp)
    SELECT gen_random_uuid(), '{DEFAULT_ORGANIZATION_ID}', m.ids[1 + floor({MODELS} * random() ^ 2)::int],
           t.metric_type,
           CASE WHEN t.metric_type LIKE 'latency%' THEN exp(random_normal(6, 0.6))
                WHEN t.metric_type = 'cost_per_1k_tokens' THEN exp(random_normal(-5, 0.5))
                WHEN t.metric_type = 'error_rate' THEN greatest(0, random_normal(0.01, 0.02))
                ELSE sqrt(random()) END,
           b.ids[1 + floor({BENCHMARKS} * random())::int],
           CASE WHEN t.metric_type = 'custom' THEN '{{"name": "f1"}}' ELSE '{{}}' END::jsonb,
           timestamptz '2026-03-04Z' + n * interval '1 day' / {ROWS}
    FROM generate_series(0, {ROWS} - 1) AS n,
         (SELECT array_agg(id) AS ids FROM evaluation_models) AS m,
         (SELECT array_agg(gen_random_uuid()) AS ids FROM generate_series(1, {BENCHMARKS})) AS b,
         LATERAL (SELECT (ARRAY['accuracy', 'latency_p50', 'latency_p95', 'latency_p99', 'cost_per_1k_tokens',
                                'error_rate', 'success_rate', 'bleu_score', 'rouge_score', 'custom'])[1 + n % 10]
                  AS metric_type) AS t
"""

BARE = """
    INSERT INTO bare
    SELECT date_trunc('day', timestamp), model_id, metric_type, benchmark_id, count(*), sum(value), sum(value * value),
           min(value), max(value), percentile_cont(0.5) WITHIN GROUP (ORDER BY value),
           percentile_cont(0.95) WITHIN GROUP (ORDER BY value), percentile_cont(0.99) WITHIN GROUP (ORDER BY value)
    FROM model_metrics GROUP BY 1, 2, 3, 4
"""

BARE_TABLE = """
    CREATE TABLE bare (day timestamptz, model_id uuid, metric_type text, benchmark_id uuid, n bigint, sum float8,
                       sum_squares float8, min float8, max float8, p50 float8, p95 float8, p99 float8)
"""


def bare(url: str) -> float:
    """Seconds of the statement, as the owner."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE bare")
        connection.execute("VACUUM model_metrics")
        started = time.perf_counter()
        connection.execute(BARE.encode())
        return time.perf_counter() - started


def ours(url: str, engine: Engine, organization: uuid.UUID) -> float:
    """Seconds of the roll-up of every hour of the day, none of which has an aggregate, as the service."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE metric_aggregations")
        connection.execute("UPDATE metric_rollups_due SET version = DEFAULT")
        connection.execute(
            "INSERT INTO metric_rollups_due (organization_id, model_id, hour) "
            "SELECT DISTINCT organization_id, model_id, date_trunc('hour', timestamp) FROM model_metrics "
            "ON CONFLICT DO NOTHING"
        )
    started = time.perf_counter()
    done = 1
    while done:
        with tenant_transaction(engine, organization) as session:
            done = roll_up(session, organization)
    return time.perf_counter() - started


def main() -> None:
    with bench() as opened:
        migrations.upgrade(opened.url)
        with psycopg.connect(opened.url, autocommit=True) as connection:
            started = time.perf_counter()
            connection.execute(FILL.encode())
            filled = time.perf_counter() - started
            connection.execute("ANALYZE model_metrics")
            connection.execute(BARE_TABLE.encode())
        engine = make_engine(opened.url.replace("postgres:@", "evalservice_service@"))
        limits, measured = [], []
        for _ in range(ROUNDS):
            limits.append(bare(opened.url))
            measured.append(ours(opened.url, engine, DEFAULT_ORGANIZATION_ID))
        engine.dispose()
    ratio = statistics.median(a / b for a, b in zip(limits, measured, strict=True))
    limit, rolled = statistics.median(limits), statistics.median(measured)
    table(
        f"A day of {ROWS} measurements rolled up (stored with their marks in {filled:.0f} s)",
        ["what", "seconds", "rows per second", "ratio"],
        [
            ["bare SQL, the day only", f"{limit:.2f}", f"{ROWS / limit:.0f}", "1"],
            ["roll_up: hours, day, week, month", f"{rolled:.2f}", f"{ROWS / rolled:.0f}", f"{ratio:.2f}"],
        ],
    )


if __name__ == "__main__":
    main()

"""The log of decisions summed up: 100,000 decisions of 20 candidates, half of them with an outcome.

python -m tests.perf.summaries
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import psycopg

import migrations
from evalservice.database import make_engine, tenant_transaction
from evalservice.selection.summarizing import summary_of, window_of
from evalservice.tables import DEFAULT_ORGANIZATION_ID
from tests.perf.bench import bench, table

DECISIONS, CANDIDATES = 100_000, 20
LIMITS = (1_000, 20_000, 100_000)

ROWS = f"""
    INSERT INTO model_selection_logs (id, organization_id, use_case, selected_model_id, candidate_models,
                                      selection_algorithm, policy_name, created_at)
    SELECT (lpad(to_hex(n), 32, '0'))::uuid, '{DEFAULT_ORGANIZATION_ID}', 'qa',
           (lpad(to_hex(n %% {CANDIDATES} / 2), 32, '0'))::uuid, seen.candidates, 'weighted', 'weighted',
           now() - n * interval '5 s'
    FROM generate_series(0, %s - 1) AS n CROSS JOIN LATERAL (
        SELECT jsonb_agg(
            jsonb_build_object('model_id', (lpad(to_hex(m), 32, '0'))::uuid, 'name', 'model-' || m || '@1.0.0')
            || CASE WHEN m < {CANDIDATES} * 0.7 THEN jsonb_build_object(
                'score', random(), 'probability', random(), 'quality', random(), 'quality_sd', random() / 20,
                'cost', random() / 100, 'latency_ms', 2000 * random(),
                'error_rate', random() / 20, 'outcomes', n %% 1000)
            ELSE jsonb_build_object('rejected',
                jsonb_build_object('constraint', 'max_cost', 'value', random(), 'limit', 0.01)) END
        ) AS candidates FROM generate_series(0, {CANDIDATES} - 1) AS m WHERE n >= 0
    ) AS seen
"""
OUTCOMES = """
    INSERT INTO selection_outcomes (id, organization_id, selection_id, success, quality, cost, latency_ms, applied_at)
    SELECT gen_random_uuid(), organization_id, id, random() < 0.95, random(), random() / 100, 1000 * random(), now()
    FROM model_selection_logs WHERE random() < 0.5
"""


def main() -> None:
    with bench() as opened:
        migrations.upgrade(opened.url)
        with psycopg.connect(opened.url, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(ROWS.encode(), (DECISIONS,))
            connection.execute(OUTCOMES.encode())
            connection.execute("VACUUM ANALYZE")
        engine = make_engine(opened.url.replace("postgres:@", "evalservice_service@"))
        rows = []
        for limit in LIMITS:
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
                    found = summary_of(session, window_of(None, None, datetime.now(UTC), None, None, limit))
                seconds.append(time.perf_counter() - started)
                assert found.served.decisions == limit
            rows.append([limit, f"{min(seconds):.2f}", f"{1e6 * min(seconds) / limit:.0f}"])
        engine.dispose()
        table(f"A summary, {CANDIDATES} candidates, best of 3", ["decisions", "seconds", "µs a decision"], rows)


if __name__ == "__main__":
    main()

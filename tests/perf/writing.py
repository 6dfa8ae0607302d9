"""Writing results, fenced and merged, against a bare staged COPY of the same rows.

python -m tests.perf.writing
"""

from __future__ import annotations

import io
import time
import uuid

import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import Engine

import migrations
from actors.blocks import generated_row, generated_table
from actors.score import Score
from evalservice.database import make_engine, tenant_transaction
from evalservice.records import Completion, TestCase
from evalservice.runs import results
from evalservice.runs.lifecycle import Lease, claim
from evalservice.tables import DEFAULT_ORGANIZATION_ID, BenchmarkSuite, EvaluationDataset, EvaluationRun, Model
from tests.perf.bench import bench, table

ROWS = 50_000
BLOCK = 256


def blocks() -> list[pa.Table]:
    score = Score({"scorers": [{"name": "numeric_match"}]})
    answer = Completion(
        text="The sum is 42. " * 16, finish_reason="stop", input_tokens=12, output_tokens=64, latency_ms=200.0
    )
    tables = []
    for start in range(0, ROWS, BLOCK):
        rows = []
        for i in range(start, min(start + BLOCK, ROWS)):
            case = TestCase(i, f"Case {i}: what is {i} plus {i}?", expected_output=2 * i)
            rows.append(generated_row(case, [{"role": "user", "content": case.input}], [answer]))
        tables.append(score(generated_table(rows)))
    return tables


def bare(url: str, run: uuid.UUID, tables: list[pa.Table]) -> float:
    """Rows per second of COPY into a staging table and INSERT … SELECT into one with the same indexes and foreign key:
    no row-level security, no merging, no fence, no progress."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bare_results (LIKE evaluation_results INCLUDING ALL)")
        connection.execute(
            "ALTER TABLE bare_results ADD FOREIGN KEY (organization_id, evaluation_run_id) "
            "REFERENCES evaluation_runs (organization_id, id)"
        )
        columns = ", ".join(f"{name} {kind}" for name, kind in results.COLUMNS.items())
        connection.execute(f"CREATE TEMPORARY TABLE staged ({columns})")
        connection.commit()
        started = time.perf_counter()
        for one in tables:
            text = io.BytesIO()
            options = pa_csv.WriteOptions(include_header=False, quoting_style="all_valid")
            pa_csv.write_csv(one.select(list(results.COLUMNS)), text, options)
            with connection.cursor() as cursor:
                cursor.execute("TRUNCATE staged")
                with cursor.copy(f"COPY staged ({', '.join(results.COLUMNS)}) FROM STDIN (FORMAT csv)") as copy:
                    copy.write(text.getbuffer())
                names = ", ".join(results.COLUMNS)
                values = names.replace("executed_at", "coalesce(executed_at, now())")
                cursor.execute(
                    f"INSERT INTO bare_results (organization_id, evaluation_run_id, {names}) "
                    f"SELECT %s, %s, {values} FROM staged",
                    (DEFAULT_ORGANIZATION_ID, run),
                )
            connection.commit()
        return ROWS / (time.perf_counter() - started)


def claimed_run(engine: Engine) -> Lease:
    """A run to write to."""
    with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
        common = {"organization_id": DEFAULT_ORGANIZATION_ID, "name": "perf"}
        model = Model(**common, display_name="perf", platform="openai", platform_model_id="perf")
        dataset = EvaluationDataset(**common)
        session.add_all([model, dataset])
        session.flush()
        suite = BenchmarkSuite(**common, category="qa", dataset_id=dataset.id)
        session.add(suite)
        session.flush()
        run = EvaluationRun(
            organization_id=DEFAULT_ORGANIZATION_ID,
            model_id=model.id,
            benchmark_id=suite.id,
            dataset_id=dataset.id,
            total_test_cases=ROWS,
        )
        session.add(run)
        session.flush()
        return claim(session, run.id, "perf")


def ours(engine: Engine, lease: Lease, tables: list[pa.Table]) -> float:
    """Rows per second of `store_results`, each block a fenced transaction under row-level security."""
    started = time.perf_counter()
    for one in tables:
        with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
            results.store_results(session, lease, DEFAULT_ORGANIZATION_ID, one)
    return ROWS / (time.perf_counter() - started)


def main() -> None:
    with bench() as opened:
        migrations.upgrade(opened.url)
        tables = blocks()
        engine = make_engine(opened.url.replace("postgres:@", "evalservice_service@"))
        lease = claimed_run(engine)
        limit, measured = bare(opened.url, lease.run_id, tables), ours(engine, lease, tables)
        engine.dispose()
    table(
        f"Writing {ROWS} results in blocks of {BLOCK}",
        ["what", "rows per second", "ratio"],
        [["bare staged COPY", f"{limit:.0f}", "1"], ["store_results", f"{measured:.0f}", f"{measured / limit:.2f}"]],
    )


if __name__ == "__main__":
    main()

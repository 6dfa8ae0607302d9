"""Store result rows: staged by COPY, merged in one statement, fenced by the lease in the same transaction.

Direct COPY is refused under row-level security, so rows go through a temporary table. A row that is there already is
kept, unless it is a failure that may be asked again.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
from psycopg import sql
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from evalservice.database import driver_connection
from evalservice.runs.lifecycle import Lease, lost, renew
from evalservice.tables import EvaluationResult

COLUMNS = {
    "id": "uuid",
    "test_case_index": "integer",
    "test_case_id": "varchar",
    "cluster": "varchar",
    "input_data": "jsonb",
    "expected_output": "jsonb",
    "actual_output": "jsonb",
    "metrics": "jsonb",
    "score_details": "jsonb",
    "completion_info": "jsonb",
    "latency_ms": "double precision",
    "tokens_used": "integer",
    "input_tokens": "integer",
    "output_tokens": "integer",
    "cost": "numeric",
    "success": "boolean",
    "error_message": "text",
    "error_kind": "varchar",
    "is_retryable": "boolean",
    "executed_at": "timestamptz",
}

_STAGING = "CREATE TEMPORARY TABLE IF NOT EXISTS staged_results ({}) ON COMMIT DELETE ROWS".format(
    ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
)
_UNSTAGE = "TRUNCATE staged_results"
"""Between two blocks of one transaction; its end does the same, so one block a transaction need not pay for it."""
_NAMES = ", ".join(COLUMNS)
_COPY = f"COPY staged_results ({_NAMES}) FROM STDIN (FORMAT csv)"
SPENT = ("cost", "tokens_used", "input_tokens", "output_tokens")
"""What earlier attempts have spent stays spent: these add up when a failed row is replaced."""


def _merged(name: str) -> str:
    if name not in SPENT:
        return f"{name} = excluded.{name}"
    return f"{name} = coalesce(stored.{name} + excluded.{name}, stored.{name}, excluded.{name})"


_MERGE = sql.SQL(f"""
    WITH changed AS (
    INSERT INTO evaluation_results AS stored (organization_id, evaluation_run_id, {_NAMES})
    SELECT %(organization)s, %(run)s, {", ".join(f"coalesce({n}, now())" if n == "executed_at" else n for n in COLUMNS)}
    FROM staged_results ORDER BY test_case_index
    ON CONFLICT (evaluation_run_id, test_case_index) DO UPDATE
    SET {", ".join(_merged(name) for name in COLUMNS if name not in ("id", "test_case_index"))}
    WHERE NOT stored.success AND stored.is_retryable
    RETURNING (xmax = 0) AS inserted, success
    ), counted AS (
    SELECT count(*) FILTER (WHERE success) AS completed,
           count(*) FILTER (WHERE inserted AND NOT success) - count(*) FILTER (WHERE success AND NOT inserted) AS failed
    FROM changed
    )
    UPDATE evaluation_runs AS run
    SET completed_test_cases = completed_test_cases + completed, failed_test_cases = failed_test_cases + failed,
        progress = least(1.0, (completed_test_cases + completed + failed_test_cases + failed)::float8
                              / greatest(total_test_cases, 1)),
        updated_at = now()
    FROM counted
    WHERE run.id = %(run)s AND run.lease_owner = %(owner)s AND run.attempt = %(attempt)s
    RETURNING completed, failed
""")
_RESCORE = sql.SQL("""
    UPDATE evaluation_results AS stored SET metrics = staged.metrics, score_details = staged.score_details
    FROM staged_results AS staged
    WHERE stored.evaluation_run_id = %(run)s AND stored.test_case_index = staged.test_case_index
""")


@dataclass(frozen=True, slots=True)
class Stored:
    """How a write changed a run: newly succeeded test cases, and the change in failed ones (negative if repaired)."""

    completed: int
    failed: int


def store_results(session: Session, lease: Lease, organization_id: uuid.UUID, rows: pa.Table) -> Stored:
    """Merge a scored block (columns as `COLUMNS`) and move the run's progress. Raises LeaseLost; nothing is written."""
    connection = driver_connection(session)
    with connection.cursor() as cursor:
        _stage(cursor, rows)
        cursor.execute(
            _MERGE,
            {"organization": organization_id, "run": lease.run_id, "owner": lease.owner, "attempt": lease.attempt},
        )
        counts = cursor.fetchone()
    if counts is None:
        raise lost(lease)
    return Stored(*counts)


def store_all(session: Session, lease: Lease, organization_id: uuid.UUID, tables: Iterable[pa.Table]) -> None:
    """As `store_results`, many blocks in one transaction. Raises LeaseLost."""
    for rows in tables:
        store_results(session, lease, organization_id, rows)
        driver_connection(session).execute(_UNSTAGE)


def store_scores(session: Session, lease: Lease, rows: pa.Table) -> None:
    """Replace metrics and score details of stored rows. Raises LeaseLost; nothing is written then."""
    with driver_connection(session).cursor() as cursor:
        _stage(cursor, rows)
        cursor.execute(_RESCORE, {"run": lease.run_id})
        cursor.execute(_UNSTAGE)
    renew(session, lease)


def _stage(cursor: object, rows: pa.Table) -> None:
    text = io.BytesIO()
    pa_csv.write_csv(
        rows.select(list(COLUMNS)),
        text,
        pa_csv.WriteOptions(include_header=False, quoting_style="all_valid"),
    )
    cursor.execute(_STAGING)  # type: ignore[attr-defined]
    with cursor.copy(_COPY) as copy:  # type: ignore[attr-defined]
        copy.write(text.getbuffer())


def settled_mask(session: Session, run_id: uuid.UUID, total: int) -> npt.NDArray[np.bool_]:
    """Which test cases need no further asking: stored, and not a failure that may be asked again. Length `total`."""
    mask = np.zeros(total, dtype=np.bool_)
    query = select(EvaluationResult.test_case_index).where(
        EvaluationResult.evaluation_run_id == run_id,
        EvaluationResult.success | ~EvaluationResult.is_retryable,
        EvaluationResult.test_case_index < total,
    )
    for indices in session.scalars(query.execution_options(yield_per=10_000)).partitions():
        mask[np.fromiter(indices, dtype=np.int64)] = True
    return mask


def count_results(session: Session, run_id: uuid.UUID) -> int:
    """How many rows a run has."""
    return (
        session.scalar(
            select(func.count()).select_from(EvaluationResult).where(EvaluationResult.evaluation_run_id == run_id)
        )
        or 0
    )


def stream_results(session: Session, run_id: uuid.UUID, batch: int = 500) -> Iterator[EvaluationResult]:
    """A run's rows by test case index, in bounded memory."""
    query = (
        select(EvaluationResult)
        .where(EvaluationResult.evaluation_run_id == run_id)
        .order_by(EvaluationResult.test_case_index)
        .execution_options(yield_per=batch)
    )
    for rows in session.scalars(query).partitions():
        for row in rows:
            session.expunge(row)
            yield row

"""Durable runs: what supervisors need to share the queue fairly and to restart what lost its driver.

- evaluation_runs.claim_after: a run is left alone until then; restarts back off by it.
- evaluation_runs.orphaned: how often a driver of the run died since it was last opened; past a limit it has failed.
- evaluation_runs.requested_work: what shall be done with a run that has ended, without leaving its status: ask again
  for its retryable failures, or score it again.
- evalservice_claim_work takes the place of evalservice_claim_run and evalservice_lapsed_runs: pending runs, orphans
  and requested work are one queue. The organization that has the fewest runs under way is served first, and its limit
  holds however many claim at once, because whoever claims for it holds its row.
- ix_evaluation_runs_work takes the place of two partial indexes. None of its columns changes while a run is driven,
  so that a heartbeat is a heap-only update.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CLAIM_WORK = "evalservice_claim_work(text, integer)"

WORK = "run.status IN ('pending', 'running') OR run.requested_work IS NOT NULL"
"""What the queue holds: the predicate of its index, so that a query that says it can use that index."""

CLAIMABLE = f"""
    ({WORK})
    AND (run.claim_after IS NULL OR run.claim_after <= moment)
    AND (run.lease_owner IS NULL OR run.lease_expires_at IS NULL OR run.lease_expires_at < moment)
"""


def upgrade() -> None:

    op.add_column("evaluation_runs", sa.Column("claim_after", sa.DateTime(timezone=True), nullable=True))
    op.add_column("evaluation_runs", sa.Column("orphaned", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("evaluation_runs", sa.Column("requested_work", sa.String(length=10), nullable=True))
    op.create_check_constraint(
        op.f("ck_evaluation_runs_requested_work"), "evaluation_runs", "requested_work IN ('resume', 'rescore')"
    )
    op.drop_index("ix_evaluation_runs_pending", "evaluation_runs")
    op.drop_index("ix_evaluation_runs_leases", "evaluation_runs")
    op.create_index(
        "ix_evaluation_runs_work",
        "evaluation_runs",
        ["organization_id", sa.literal_column("priority DESC"), "created_at", "id"],
        postgresql_where=sa.text(WORK.replace("run.", "")),
    )
    op.create_index(
        "ix_evaluation_runs_driven",
        "evaluation_runs",
        ["organization_id"],
        postgresql_where=sa.text("lease_owner IS NOT NULL"),
    )
    for function in ("evalservice_claim_run(text, integer)", "evalservice_lapsed_runs()"):
        op.execute(f"DROP FUNCTION {function}")
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(_claim_work(schema))
    op.execute(f"REVOKE ALL ON FUNCTION {CLAIM_WORK} FROM PUBLIC")


def _claim_work(schema: str) -> str:
    """Organizations are tried in the order of fairness, in two rounds: first those whose row nobody else holds, then,
    where no limit has to hold, those that were skipped."""
    waiting = f"SELECT run.organization_id FROM {schema}.evaluation_runs AS run WHERE ({WORK})"
    return f"""
        CREATE FUNCTION evalservice_claim_work(owner text, lease_seconds integer)
        RETURNS TABLE (id uuid, organization_id uuid, attempt integer, work text, orphaned integer)
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        #variable_conflict use_column
        DECLARE
            moment timestamptz := clock_timestamp();
            candidate record;
            most integer;
            taken uuid;
            skipped uuid[] := '{{}}';
        BEGIN
            FOR candidate IN
                WITH RECURSIVE waiting AS (
                    ({waiting} ORDER BY run.organization_id LIMIT 1)
                    UNION ALL
                    SELECT ({waiting} AND run.organization_id > waiting.organization_id
                            ORDER BY run.organization_id LIMIT 1)
                    FROM waiting WHERE waiting.organization_id IS NOT NULL
                )
                SELECT o.id
                FROM waiting
                JOIN {schema}.organizations AS o ON o.id = waiting.organization_id
                CROSS JOIN LATERAL (
                    SELECT count(*) AS runs FROM {schema}.evaluation_runs AS other
                    WHERE other.organization_id = o.id AND other.lease_owner IS NOT NULL
                      AND other.lease_expires_at >= moment
                ) AS driven
                CROSS JOIN LATERAL (
                    SELECT run.created_at, run.id FROM {schema}.evaluation_runs AS run
                    WHERE run.organization_id = o.id AND {CLAIMABLE}
                    ORDER BY run.priority DESC, run.created_at, run.id LIMIT 1
                ) AS first
                WHERE o.max_concurrent_runs IS NULL OR driven.runs < o.max_concurrent_runs
                ORDER BY driven.runs, first.created_at, first.id
            LOOP
                SELECT coalesce(o.max_concurrent_runs, 2147483647) INTO most
                FROM {schema}.organizations AS o WHERE o.id = candidate.id FOR NO KEY UPDATE SKIP LOCKED;
                IF NOT FOUND THEN
                    skipped := skipped || candidate.id;
                    CONTINUE;
                END IF;
                -- Only now does nobody else claim for this organization: count again.
                CONTINUE WHEN most <= (
                    SELECT count(*) FROM {schema}.evaluation_runs AS other
                    WHERE other.organization_id = candidate.id AND other.lease_owner IS NOT NULL
                      AND other.lease_expires_at >= moment
                );
                SELECT run.id INTO taken FROM {schema}.evaluation_runs AS run
                WHERE run.organization_id = candidate.id AND {CLAIMABLE}
                ORDER BY run.priority DESC, run.created_at, run.id LIMIT 1 FOR UPDATE SKIP LOCKED;
                EXIT WHEN FOUND;
            END LOOP;
            IF taken IS NULL THEN
                SELECT run.id INTO taken
                FROM unnest(skipped) WITH ORDINALITY AS one (id, place)
                JOIN {schema}.organizations AS o ON o.id = one.id AND o.max_concurrent_runs IS NULL
                JOIN {schema}.evaluation_runs AS run ON run.organization_id = one.id
                WHERE {CLAIMABLE}
                ORDER BY one.place, run.priority DESC, run.created_at, run.id LIMIT 1 FOR UPDATE OF run SKIP LOCKED;
            END IF;
            IF taken IS NULL THEN
                RETURN;
            END IF;
            RETURN QUERY
                UPDATE {schema}.evaluation_runs AS run
                SET status = CASE WHEN run.status = 'pending' THEN 'running' ELSE run.status END,
                    lease_owner = $1, lease_expires_at = moment + make_interval(secs => $2),
                    attempt = run.attempt + 1,
                    -- An owner is still named: it did not end its work nor give it back, so it died.
                    orphaned = run.orphaned + (run.lease_owner IS NOT NULL)::integer,
                    claim_after = CASE WHEN run.lease_owner IS NOT NULL
                        THEN moment + make_interval(secs => least(60, 2 ^ least(run.orphaned, 10))) END,
                    started_at = CASE WHEN run.status IN ('pending', 'running') THEN moment ELSE run.started_at END,
                    completed_at = CASE WHEN run.status IN ('pending', 'running') THEN NULL ELSE run.completed_at END,
                    error_message = CASE WHEN run.status IN ('pending', 'running') THEN '' ELSE run.error_message END,
                    error_traceback =
                        CASE WHEN run.status IN ('pending', 'running') THEN '' ELSE run.error_traceback END,
                    updated_at = moment
                WHERE run.id = taken
                RETURNING run.id, run.organization_id, run.attempt,
                    CASE WHEN run.status = 'running' THEN 'run' ELSE run.requested_work::text END, run.orphaned;
        END
        $$
    """


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {CLAIM_WORK}")
    op.drop_index("ix_evaluation_runs_driven", "evaluation_runs")
    op.drop_index("ix_evaluation_runs_work", "evaluation_runs")
    op.drop_column("evaluation_runs", "requested_work")
    op.drop_column("evaluation_runs", "orphaned")
    op.drop_column("evaluation_runs", "claim_after")
    op.create_index(
        "ix_evaluation_runs_leases",
        "evaluation_runs",
        ["lease_expires_at"],
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "ix_evaluation_runs_pending",
        "evaluation_runs",
        [sa.literal_column("priority DESC"), "created_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    _functions_of_0003()


def _functions_of_0003() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION evalservice_claim_run(owner text, lease_seconds integer)
        RETURNS TABLE (id uuid, organization_id uuid, attempt integer)
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            UPDATE {schema}.evaluation_runs AS run
            SET status = 'running', lease_owner = $1,
                lease_expires_at = clock_timestamp() + make_interval(secs => $2),
                attempt = run.attempt + 1, started_at = clock_timestamp(), updated_at = clock_timestamp()
            WHERE run.id = (
                SELECT pending.id
                FROM {schema}.evaluation_runs AS pending
                JOIN {schema}.organizations AS o ON o.id = pending.organization_id
                WHERE pending.status = 'pending' AND (
                    o.max_concurrent_runs IS NULL OR o.max_concurrent_runs > (
                        SELECT count(*) FROM {schema}.evaluation_runs AS other
                        WHERE other.organization_id = pending.organization_id AND other.status = 'running'
                    )
                )
                ORDER BY pending.priority DESC, pending.created_at, pending.id
                LIMIT 1
                FOR UPDATE OF pending SKIP LOCKED
            )
            RETURNING run.id, run.organization_id, run.attempt
        $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION evalservice_lapsed_runs()
        RETURNS TABLE (
            id uuid, organization_id uuid, attempt integer, lease_owner text, lease_expires_at timestamptz
        )
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT run.id, run.organization_id, run.attempt, run.lease_owner::text, run.lease_expires_at
            FROM {schema}.evaluation_runs AS run
            WHERE run.status = 'running' AND (run.lease_expires_at IS NULL OR run.lease_expires_at < clock_timestamp())
            ORDER BY run.lease_expires_at NULLS FIRST, run.id
        $$
        """
    )
    for function in ("evalservice_claim_run(text, integer)", "evalservice_lapsed_runs()"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO evalservice_service")

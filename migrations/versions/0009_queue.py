"""How long the queue of runs is.

- evalservice_queue: over all organizations, the runs that wait for a driver, how long the first of those that may start
  now has waited, and the runs that have one. A pending run waits since it was last changed, an orphan since its lease
  lapsed. It reads the two partial indexes of the queue, which hold nothing else.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

QUEUE = "evalservice_queue()"

WORK = "run.status IN ('pending', 'running') OR run.requested_work IS NOT NULL"
"""The predicate of ix_evaluation_runs_work."""


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION {QUEUE} RETURNS TABLE (waiting bigint, oldest_seconds double precision, driven bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT count(*) FILTER (WHERE NOT held),
                   coalesce(extract(epoch FROM max(now() - since) FILTER (WHERE NOT held AND since <= now())), 0),
                   count(*) FILTER (WHERE held)
            FROM (
                SELECT run.lease_owner IS NOT NULL AND run.lease_expires_at >= now() AS held,
                       greatest(coalesce(run.lease_expires_at, run.updated_at), run.claim_after) AS since
                FROM {schema}.evaluation_runs AS run
                WHERE ({WORK})
            ) AS queue
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {QUEUE} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {QUEUE}")

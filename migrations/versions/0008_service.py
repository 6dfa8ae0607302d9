"""What the service needs beside its features.

- evaluation_datasets.archived_at, benchmark_suites.archived_at: what results hang on is archived, not deleted.
- evalservice_sweep: deletes the idempotency keys of all organizations whose day is over.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ARCHIVABLE = ("evaluation_datasets", "benchmark_suites")
SWEEP = "evalservice_sweep()"


def upgrade() -> None:
    for table in ARCHIVABLE:
        op.add_column(table, sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION {SWEEP} RETURNS integer
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            WITH gone AS (DELETE FROM {schema}.idempotency_keys WHERE expires_at < now() RETURNING 1)
            SELECT count(*)::integer FROM gone
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {SWEEP} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {SWEEP}")
    for table in ARCHIVABLE:
        op.drop_column(table, "archived_at")

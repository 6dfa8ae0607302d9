"""A/B tests that run.

- evalservice_running_ab_tests: the tests of all organizations that are under way, for the supervisors,
  which bring each forward in its own organization's transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RUNNING = "evalservice_running_ab_tests()"


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION {RUNNING} RETURNS TABLE (organization_id uuid, ab_test_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT test.organization_id, test.id FROM {schema}.ab_tests AS test
            WHERE test.status = 'running' ORDER BY test.id
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {RUNNING} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {RUNNING}")

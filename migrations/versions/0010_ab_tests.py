"""A/B tests and experiments that run.

- evalservice_running_ab_tests, evalservice_running_experiments: the tests and the numbered experiment runs of all
  organizations that are under way, for the supervisors, which bring each forward in its organization's transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RUNNING = {
    "evalservice_running_ab_tests()": ("ab_tests", "ab_test_id"),
    "evalservice_running_experiments()": ("experiment_runs", "experiment_run_id"),
}


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for function, (table, name) in RUNNING.items():
        op.execute(
            f"""
            CREATE FUNCTION {function} RETURNS TABLE (organization_id uuid, {name} uuid)
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
                SELECT under_way.organization_id, under_way.id FROM {schema}.{table} AS under_way
                WHERE under_way.status = 'running' ORDER BY under_way.id
            $$
            """
        )
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def downgrade() -> None:
    for function in RUNNING:
        op.execute(f"DROP FUNCTION {function}")

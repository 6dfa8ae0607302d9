"""Metric aggregates that follow the rows: which hours are due.

- metric_rollups_due: an (organization, model, hour) whose model_metrics changed since it was last rolled up. Triggers
  keep it, for every statement and not for every row, whoever writes and however old the timestamps are. `version` is
  new at each mark, so that a roll-up takes back only what it has seen and no writer waits for it; `due_since` is when
  the hour was first marked.
- evalservice_due_rollups: the organizations that have such hours, the longest waiting first.
- the policy of model_metrics reads the organization once a query, because roll-ups read it by the million.

Rows from before are marked here. Moments outside the years 1 to 9999 are in no aggregate.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import compare_each_row, compare_once, isolate

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DUE_ROLLUPS = "evalservice_due_rollups()"

CHANGED = {
    "insert": ("REFERENCING NEW TABLE AS new_rows", "SELECT * FROM new_rows"),
    "update": (
        "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows",
    ),
    "delete": ("REFERENCING OLD TABLE AS old_rows", "SELECT * FROM old_rows"),
}
"""Each event has a trigger of its own, because transition tables may not be shared by several."""


def upgrade() -> None:
    op.create_table(
        "metric_rollups_due",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("due_since", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_metric_rollups_due_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "model_id", "hour", name=op.f("pk_metric_rollups_due")),
    )
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    isolate("metric_rollups_due")
    compare_once("model_metrics")
    op.execute(_mark(schema, f"SELECT * FROM {schema}.model_metrics"))
    for event, (referencing, changed) in CHANGED.items():
        op.execute(
            f"""
            CREATE FUNCTION evalservice_mark_rollups_on_{event}() RETURNS trigger
            LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
            BEGIN
                {_mark(schema, changed)};
                RETURN NULL;
            END
            $$
            """
        )
        op.execute(
            f"CREATE TRIGGER rollups_are_due_on_{event} AFTER {event.upper()} ON model_metrics {referencing} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION evalservice_mark_rollups_on_{event}()"
        )
    op.execute(
        f"""
        CREATE FUNCTION {DUE_ROLLUPS} RETURNS TABLE (organization_id uuid, due_since timestamptz, hours bigint)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT due.organization_id, min(due.due_since), count(*)
            FROM {schema}.metric_rollups_due AS due
            GROUP BY due.organization_id
            ORDER BY min(due.due_since), due.organization_id
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {DUE_ROLLUPS} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {DUE_ROLLUPS}")
    for event in CHANGED:
        op.execute(f"DROP TRIGGER rollups_are_due_on_{event} ON model_metrics")
        op.execute(f"DROP FUNCTION evalservice_mark_rollups_on_{event}()")
    compare_each_row("model_metrics")
    op.drop_table("metric_rollups_due")


def _mark(schema: str, changed: str) -> str:
    """Marks the hours of some rows of model_metrics, in one order, so that writers do not wait in a circle.

    A model that is being deleted takes its rows and its marks along: the last of its rows to go marks nothing.
    """
    return f"""
        INSERT INTO {schema}.metric_rollups_due (organization_id, model_id, hour)
        SELECT hours.organization_id, hours.model_id, hours.hour
        FROM (
            SELECT DISTINCT changed.organization_id, changed.model_id,
                   date_bin('1 hour', changed.timestamp, timestamptz '2000-01-01 00:00:00Z') AS hour
            FROM ({changed}) AS changed
            WHERE changed.timestamp >= timestamptz '0001-02-01Z' AND changed.timestamp < timestamptz '9999-12-01Z'
        ) AS hours
        JOIN {schema}.evaluation_models AS model
          ON model.organization_id = hours.organization_id AND model.id = hours.model_id
        ORDER BY hours.organization_id, hours.model_id, hours.hour
        ON CONFLICT (organization_id, model_id, hour) DO UPDATE SET version = excluded.version
    """

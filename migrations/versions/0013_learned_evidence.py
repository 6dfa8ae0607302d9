"""What selection learns from outcomes, and how changes of evidence reach every replica.

- selection_beliefs, selection_breakers: what outcomes have taught, written by whoever applies them, read by replicas.
- evalservice_tell_evidence: notifies the channel `evalservice_evidence` with the organization's id, once for each
  statement and organization, when what decisions are made from changes: models, measurements, beliefs, policies.
- evalservice_tell_keys: notifies `evalservice_keys` when a key, a membership or a user changes, so that what a replica
  remembers of keys is forgotten.
- evalservice_waiting_outcomes: the organizations with outcomes that are not applied, for the supervisors.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
WAITING = "evalservice_waiting_outcomes()"
EVIDENCE = (
    "evaluation_models",
    "evaluation_models_capabilities",
    "model_metrics",
    "selection_beliefs",
    "selection_breakers",
    "selection_policies",
)
KEYS = ("api_keys", "memberships", "users")
EVENTS = {"insert": "NEW TABLE AS changed", "update": "NEW TABLE AS changed", "delete": "OLD TABLE AS changed"}


def upgrade() -> None:
    op.create_table(
        "selection_beliefs",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("use_case", sa.String(length=200), nullable=False),
        sa.Column("model_ids", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("beliefs", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("updated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_selection_beliefs_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "use_case", name=op.f("pk_selection_beliefs")),
    )
    op.create_table(
        "selection_breakers",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("state", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("latencies", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("outcome_at", TIME, nullable=True),
        sa.Column("probe_until", TIME, nullable=True),
        sa.Column("updated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_selection_breakers_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "model_id", name=op.f("pk_selection_breakers")),
    )
    isolate("selection_beliefs")
    isolate("selection_breakers")
    op.execute(
        """
        CREATE FUNCTION evalservice_tell_evidence() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('evalservice_evidence', told.organization_id::text)
            FROM (SELECT DISTINCT organization_id FROM changed) AS told WHERE told.organization_id IS NOT NULL;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION evalservice_tell_keys() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('evalservice_keys', '');
            RETURN NULL;
        END $$
        """
    )
    for table in EVIDENCE:
        for event, changed in EVENTS.items():
            op.execute(
                f"CREATE TRIGGER evidence_is_told_on_{event} AFTER {event.upper()} ON {table} "
                f"REFERENCING {changed} FOR EACH STATEMENT EXECUTE FUNCTION evalservice_tell_evidence()"
            )
    for table in KEYS:
        columns = "UPDATE OF revoked_at, expires_at, scopes, key_hash" if table == "api_keys" else "UPDATE"
        op.execute(
            f"CREATE TRIGGER keys_are_told AFTER {columns} OR DELETE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION evalservice_tell_keys()"
        )
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION {WAITING} RETURNS TABLE (organization_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT outcome.organization_id FROM {schema}.selection_outcomes AS outcome
            WHERE outcome.applied_at IS NULL
            GROUP BY outcome.organization_id ORDER BY min(outcome.created_at)
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {WAITING} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {WAITING}")
    for table in KEYS:
        op.execute(f"DROP TRIGGER keys_are_told ON {table}")
    for table in EVIDENCE:
        for event in EVENTS:
            op.execute(f"DROP TRIGGER evidence_is_told_on_{event} ON {table}")
    op.execute("DROP FUNCTION evalservice_tell_keys()")
    op.execute("DROP FUNCTION evalservice_tell_evidence()")
    op.drop_table("selection_breakers")
    op.drop_table("selection_beliefs")

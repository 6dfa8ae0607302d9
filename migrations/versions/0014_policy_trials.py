"""What outcomes say of a policy's version that serves a share of the requests, looked at after each of them.

selection_trials: a row for each version with a share, the active version that it is held against, and the time from
which both had their share. Its state goes from outcome to outcome, so that what is concluded holds at every look.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "selection_trials",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("policy_id", sa.Uuid(), nullable=False),
        sa.Column("against_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("state", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("stopped_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_selection_trials_organization_id"),
            ondelete="CASCADE",
        ),
        _policy("policy_id"),
        _policy("against_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selection_trials")),
        sa.UniqueConstraint(
            "organization_id",
            "policy_id",
            "against_id",
            "started_at",
            name="uq_selection_trials_beginning",
        ),
    )
    op.create_index(
        "ix_selection_trials_policy_id_started_at", "selection_trials", ["policy_id", sa.text("started_at DESC")]
    )
    op.create_index("ix_selection_trials_against_id", "selection_trials", ["against_id"])
    isolate("selection_trials")


def downgrade() -> None:
    op.drop_table("selection_trials")


def _policy(column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", column],
        ["selection_policies.organization_id", "selection_policies.id"],
        name=f"fk_selection_trials_{column}",
        ondelete="CASCADE",
    )

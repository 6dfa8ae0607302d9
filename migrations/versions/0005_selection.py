"""Selection policies, the log of decisions, outcomes.

Added to the seed:

- selection_policies: named, versioned policies; at most one version of a name is active, at most one policy is the
  default of a use case.
- model_selection_logs.selected_model_ref_id: the seed has both a foreign key and a plain column of the same name. The
  plain `selected_model_id` keeps it, outlives the model, and is NULL only where nothing was eligible.
- model_selection_logs.propensity, policy_id, policy_name, policy_version, is_shadow, seed, snapshot_version,
  snapshot_at, request, request_hash, request_text, neighbours, decided_at: what replays a decision and lets another
  policy be estimated from the log. `request_text` is empty unless the organization opts in.
- selection_outcomes: a table of its own, because an outcome may come before its decision's batch is stored.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate, only_members_create

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "selection_outcomes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("selection_id", sa.Uuid(), nullable=False),
        sa.Column("served_model_id", sa.Uuid(), nullable=True),
        sa.Column("served_model_name", sa.String(length=200), server_default="", nullable=False),
        sa.Column("success", sa.Boolean(), nullable=True),
        sa.Column("error_kind", sa.String(length=30), server_default="", nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cost", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("quality", sa.Double(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_selection_outcomes_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selection_outcomes")),
        sa.UniqueConstraint(
            "organization_id", "selection_id", name=op.f("uq_selection_outcomes_organization_id_selection_id")
        ),
    )
    op.create_index(
        "ix_selection_outcomes_organization_id_created_at",
        "selection_outcomes",
        ["organization_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_selection_outcomes_waiting",
        "selection_outcomes",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("applied_at IS NULL"),
    )
    op.create_table(
        "selection_policies",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("algorithm", sa.String(length=50), nullable=False),
        sa.Column("parameters", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("budget", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("use_case", sa.String(length=200), server_default="", nullable=False),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="draft", nullable=False),
        sa.Column("traffic_share", sa.Double(), nullable=True),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('draft', 'active', 'shadow', 'canary', 'ab', 'retired')",
            name=op.f("ck_selection_policies_status"),
        ),
        sa.CheckConstraint(
            "traffic_share >= 0 AND traffic_share <= 1", name=op.f("ck_selection_policies_traffic_share")
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_selection_policies_version")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_selection_policies_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_selection_policies_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selection_policies")),
        sa.UniqueConstraint("organization_id", "id", name="uq_selection_policies_organization_id_id"),
        sa.UniqueConstraint(
            "organization_id", "name", "version", name=op.f("uq_selection_policies_organization_id_name_version")
        ),
    )
    op.create_index("ix_selection_policies_created_by_id", "selection_policies", ["created_by_id"], unique=False)
    op.create_index(
        "uq_selection_policies_active",
        "selection_policies",
        ["organization_id", "name"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index(
        "uq_selection_policies_default",
        "selection_policies",
        ["organization_id", "use_case"],
        unique=True,
        postgresql_where=sa.text("is_default AND status = 'active'"),
    )
    op.create_table(
        "model_selection_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("requested_capabilities", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("constraints", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("use_case", sa.String(length=200), server_default="", nullable=False),
        sa.Column("selected_model_id", sa.Uuid(), nullable=True),
        sa.Column("selected_model_ref_id", sa.Uuid(), nullable=True),
        sa.Column("candidate_models", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("selection_algorithm", sa.String(length=50), nullable=False),
        sa.Column("selection_score", sa.Double(), nullable=True),
        sa.Column("selection_explanation", sa.Text(), server_default="", nullable=False),
        sa.Column("execution_successful", sa.Boolean(), nullable=True),
        sa.Column("actual_performance", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=True),
        sa.Column("policy_id", sa.Uuid(), nullable=True),
        sa.Column("policy_name", sa.String(length=200), server_default="", nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("is_shadow", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("snapshot_version", sa.String(length=100), server_default="", nullable=False),
        sa.Column("snapshot_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("request", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("request_hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("request_text", sa.Text(), nullable=True),
        sa.Column("neighbours", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("propensity >= 0 AND propensity <= 1", name=op.f("ck_model_selection_logs_propensity")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_model_selection_logs_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "policy_id"],
            ["selection_policies.organization_id", "selection_policies.id"],
            name="fk_model_selection_logs_policy_id",
            ondelete="SET NULL (policy_id)",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "selected_model_ref_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_model_selection_logs_selected_model_ref_id",
            ondelete="SET NULL (selected_model_ref_id)",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_model_selection_logs_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_selection_logs")),
    )
    op.create_index("ix_model_selection_logs_created_by_id", "model_selection_logs", ["created_by_id"], unique=False)
    op.create_index(
        "ix_model_selection_logs_organization_id_created_at",
        "model_selection_logs",
        ["organization_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_model_selection_logs_policy_id_created_at",
        "model_selection_logs",
        ["policy_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_model_selection_logs_selected_model_id_created_at",
        "model_selection_logs",
        ["selected_model_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_model_selection_logs_selected_model_ref_id", "model_selection_logs", ["selected_model_ref_id"], unique=False
    )
    op.create_index(
        "ix_model_selection_logs_use_case_created_at",
        "model_selection_logs",
        ["use_case", sa.literal_column("created_at DESC")],
        unique=False,
    )

    for table in ("selection_policies", "model_selection_logs", "selection_outcomes"):
        isolate(table)
    for table in ("selection_policies", "model_selection_logs"):
        only_members_create(table)


def downgrade() -> None:
    op.drop_table("model_selection_logs")
    op.drop_table("selection_policies")
    op.drop_table("selection_outcomes")

"""A/B tests, experiments, their runs and links.

Added to the seed:

- ab_tests_models, experiment_runs_evaluation_runs: the seed's many-to-many, with `organization_id`.
- ab_test_runs: which evaluation run gives a test its values for a model; `is_shared` where the run existed before.
- experiment_templates: what `experiments.template_id` points at.
- experiment_runs.organization_id: isolation without a join.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate, only_members_create, require_visible

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "experiment_templates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("hypothesis", sa.Text(), server_default="", nullable=False),
        sa.Column("objective", sa.Text(), server_default="", nullable=False),
        sa.Column("experiment_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("tags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_experiment_templates_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_experiment_templates_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_templates")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_experiment_templates_organization_id_name")),
    )
    op.create_index("ix_experiment_templates_created_by_id", "experiment_templates", ["created_by_id"], unique=False)
    op.create_table(
        "experiments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("hypothesis", sa.Text(), server_default="", nullable=False),
        sa.Column("objective", sa.Text(), server_default="", nullable=False),
        sa.Column("experiment_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.String(length=20), server_default="draft", nullable=False),
        sa.Column("total_runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('draft', 'active', 'paused', 'archived')", name=op.f("ck_experiments_status")),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_experiments_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_experiments_organization_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("organization_id", "id", name="uq_experiments_organization_id_id"),
    )
    op.create_index("ix_experiments_created_by_id", "experiments", ["created_by_id"], unique=False)
    op.create_index("ix_experiments_organization_id_status", "experiments", ["organization_id", "status"], unique=False)
    op.create_index(
        "ix_experiments_status_created_at",
        "experiments",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_table(
        "ab_tests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("test_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("significance_level", sa.Double(), server_default=sa.text("0.05"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="draft", nullable=False),
        sa.Column("results", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("winner_model_id", sa.Uuid(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('draft', 'running', 'completed', 'failed', 'cancelled')", name=op.f("ck_ab_tests_status")
        ),
        sa.CheckConstraint(
            "significance_level > 0 AND significance_level < 1", name=op.f("ck_ab_tests_significance_level")
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_ab_tests_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["evaluation_datasets.id"], name=op.f("fk_ab_tests_dataset_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_ab_tests_organization_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ab_tests")),
        sa.UniqueConstraint("organization_id", "id", name="uq_ab_tests_organization_id_id"),
    )
    op.create_index("ix_ab_tests_created_by_id", "ab_tests", ["created_by_id"], unique=False)
    op.create_index("ix_ab_tests_dataset_id", "ab_tests", ["dataset_id"], unique=False)
    op.create_index("ix_ab_tests_organization_id_status", "ab_tests", ["organization_id", "status"], unique=False)
    op.create_index(
        "ix_ab_tests_status_created_at", "ab_tests", ["status", sa.literal_column("created_at DESC")], unique=False
    )
    op.create_table(
        "experiment_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("run_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("results", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_experiment_runs_status"),
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_experiment_runs_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "experiment_id"],
            ["experiments.organization_id", "experiments.id"],
            name="fk_experiment_runs_experiment_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_runs")),
        sa.UniqueConstraint("experiment_id", "run_number", name=op.f("uq_experiment_runs_experiment_id_run_number")),
        sa.UniqueConstraint("organization_id", "id", name="uq_experiment_runs_organization_id_id"),
    )
    op.create_index("ix_experiment_runs_created_by_id", "experiment_runs", ["created_by_id"], unique=False)
    op.create_index(
        "ix_experiment_runs_experiment_id_run_number",
        "experiment_runs",
        ["experiment_id", sa.literal_column("run_number DESC")],
        unique=False,
    )
    op.create_index(
        "ix_experiment_runs_organization_id_status", "experiment_runs", ["organization_id", "status"], unique=False
    )
    op.create_index(
        "ix_experiment_runs_status_created_at",
        "experiment_runs",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_table(
        "ab_tests_models",
        sa.Column("ab_test_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "ab_test_id"],
            ["ab_tests.organization_id", "ab_tests.id"],
            name="fk_ab_tests_models_ab_test_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_ab_tests_models_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("ab_test_id", "model_id", name=op.f("pk_ab_tests_models")),
    )
    op.create_index("ix_ab_tests_models_model_id", "ab_tests_models", ["model_id"], unique=False)
    op.create_index(
        "ix_ab_tests_models_organization_id_model_id", "ab_tests_models", ["organization_id", "model_id"], unique=False
    )
    op.create_table(
        "ab_test_runs",
        sa.Column("ab_test_id", sa.Uuid(), nullable=False),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("is_shared", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "ab_test_id"],
            ["ab_tests.organization_id", "ab_tests.id"],
            name="fk_ab_test_runs_ab_test_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "evaluation_run_id"],
            ["evaluation_runs.organization_id", "evaluation_runs.id"],
            name="fk_ab_test_runs_evaluation_run_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_ab_test_runs_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("ab_test_id", "evaluation_run_id", name=op.f("pk_ab_test_runs")),
    )
    op.create_index("ix_ab_test_runs_evaluation_run_id", "ab_test_runs", ["evaluation_run_id"], unique=False)
    op.create_index("ix_ab_test_runs_model_id", "ab_test_runs", ["model_id"], unique=False)
    op.create_index(
        "ix_ab_test_runs_organization_id_ab_test_id", "ab_test_runs", ["organization_id", "ab_test_id"], unique=False
    )
    op.create_table(
        "experiment_runs_evaluation_runs",
        sa.Column("experiment_run_id", sa.Uuid(), nullable=False),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "evaluation_run_id"],
            ["evaluation_runs.organization_id", "evaluation_runs.id"],
            name="fk_experiment_runs_evaluation_runs_evaluation_run_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "experiment_run_id"],
            ["experiment_runs.organization_id", "experiment_runs.id"],
            name="fk_experiment_runs_evaluation_runs_experiment_run_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "experiment_run_id", "evaluation_run_id", name=op.f("pk_experiment_runs_evaluation_runs")
        ),
    )
    op.create_index(
        "ix_experiment_runs_evaluation_runs_evaluation_run_id",
        "experiment_runs_evaluation_runs",
        ["evaluation_run_id"],
        unique=False,
    )
    op.create_index(
        "ix_experiment_runs_evaluation_runs_organization_id",
        "experiment_runs_evaluation_runs",
        ["organization_id", "evaluation_run_id"],
        unique=False,
    )

    require_visible("ab_tests", dataset_id="evaluation_datasets")
    for table in (
        "ab_tests",
        "ab_tests_models",
        "ab_test_runs",
        "experiments",
        "experiment_templates",
        "experiment_runs",
    ):
        isolate(table)
    isolate("experiment_runs_evaluation_runs")
    for table in ("ab_tests", "experiments", "experiment_templates", "experiment_runs"):
        only_members_create(table)


def downgrade() -> None:
    op.drop_table("experiment_runs_evaluation_runs")
    op.drop_table("ab_test_runs")
    op.drop_table("ab_tests_models")
    op.drop_table("experiment_runs")
    op.drop_table("ab_tests")
    op.drop_table("experiments")
    op.drop_table("experiment_templates")

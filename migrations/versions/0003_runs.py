"""Evaluation runs, their results, metrics over time. With the functions by which supervisors find work.

Added to the seed:

- evaluation_runs.lease_owner, lease_expires_at, attempt, cancel_requested_at, priority: Postgres is the queue. A
  driver owns a run while its lease lasts, and every write checks owner and attempt.
- evaluation_runs.configuration_hash, provenance, name: what was run, so that it can be compared and repeated.
- evaluation_runs.reserved_cost: what may have been spent and is not settled yet, so that a budget survives a crash.
- evaluation_results.organization_id, score_details, completion_info, error_kind, is_retryable, input_tokens,
  output_tokens, cluster: statuses and sufficient statistics beside the values, and what a resume may ask again.
- costs are numeric(20, 10), because four decimals turn $0.0000525 into $0.0001; token totals are bigint.
- evaluation_results has no foreign key to organizations of its own: the one to its run carries the organization, and
  a second check of each of millions of rows would say nothing more. The seed's index on (evaluation_run,
  test_case_index) is the unique constraint's.
- model_metrics.evaluation_run_id is indexed, so that closing a run twice writes its metrics once.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate, only_members_create, require_visible

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FUNCTIONS = ("evalservice_claim_run(text, integer)", "evalservice_lapsed_runs()")


def upgrade() -> None:

    op.create_table(
        "evaluation_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), server_default="", nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("benchmark_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("model_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("evaluation_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("configuration_hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("provenance", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_owner", sa.String(length=200), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("progress", sa.Double(), server_default=sa.text("0.0"), nullable=False),
        sa.Column("total_test_cases", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("completed_test_cases", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_test_cases", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("aggregated_results", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration_seconds", sa.Double(), nullable=True),
        sa.Column("total_cost", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("reserved_cost", sa.Numeric(precision=20, scale=10), server_default=sa.text("0"), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("error_traceback", sa.Text(), server_default="", nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_evaluation_runs_status"),
        ),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name=op.f("ck_evaluation_runs_progress")),
        sa.CheckConstraint("reserved_cost >= 0", name=op.f("ck_evaluation_runs_reserved_cost")),
        sa.ForeignKeyConstraint(
            ["benchmark_id"], ["benchmark_suites.id"], name=op.f("fk_evaluation_runs_benchmark_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_evaluation_runs_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["evaluation_datasets.id"], name=op.f("fk_evaluation_runs_dataset_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_evaluation_runs_model_id",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_evaluation_runs_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_runs")),
        sa.UniqueConstraint("organization_id", "id", name="uq_evaluation_runs_organization_id_id"),
    )
    op.create_index(
        "ix_evaluation_runs_benchmark_id_created_at",
        "evaluation_runs",
        ["benchmark_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index("ix_evaluation_runs_created_by_id", "evaluation_runs", ["created_by_id"], unique=False)
    op.create_index("ix_evaluation_runs_dataset_id", "evaluation_runs", ["dataset_id"], unique=False)
    op.create_index(
        "ix_evaluation_runs_leases",
        "evaluation_runs",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "ix_evaluation_runs_model_id_created_at",
        "evaluation_runs",
        ["model_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_runs_organization_id_configuration_hash",
        "evaluation_runs",
        ["organization_id", "configuration_hash"],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_runs_organization_id_created_at",
        "evaluation_runs",
        ["organization_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_runs_organization_id_status", "evaluation_runs", ["organization_id", "status"], unique=False
    )
    op.create_index(
        "ix_evaluation_runs_pending",
        "evaluation_runs",
        [sa.literal_column("priority DESC"), "created_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_evaluation_runs_status_created_at",
        "evaluation_runs",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_table(
        "metric_aggregations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("period_type", sa.String(length=20), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("metrics", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("sample_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "period_type IN ('hour', 'day', 'week', 'month')", name=op.f("ck_metric_aggregations_period_type")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_metric_aggregations_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_metric_aggregations_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_aggregations")),
        sa.UniqueConstraint(
            "model_id",
            "period_type",
            "period_start",
            name=op.f("uq_metric_aggregations_model_id_period_type_period_start"),
        ),
    )
    op.create_index(
        "ix_metric_aggregations_model_id_period_type_period_start",
        "metric_aggregations",
        ["model_id", "period_type", sa.literal_column("period_start DESC")],
        unique=False,
    )
    op.create_index(
        "ix_metric_aggregations_organization_id_period_type_period_start",
        "metric_aggregations",
        ["organization_id", "period_type", sa.literal_column("period_start DESC")],
        unique=False,
    )
    op.create_table(
        "model_metrics",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("metric_type", sa.String(length=50), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(length=20), server_default="", nullable=False),
        sa.Column("benchmark_id", sa.Uuid(), nullable=True),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "metric_type IN ('accuracy', 'latency_p50', 'latency_p95', 'latency_p99', "
            "'cost_per_1k_tokens', 'error_rate', 'success_rate', 'bleu_score', 'rouge_score', 'custom')",
            name=op.f("ck_model_metrics_metric_type"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_model_metrics_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_model_metrics_organization_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_metrics")),
    )
    op.create_index("ix_model_metrics_evaluation_run_id", "model_metrics", ["evaluation_run_id"], unique=False)
    op.create_index(
        "ix_model_metrics_model_id_metric_type_timestamp",
        "model_metrics",
        ["model_id", "metric_type", sa.literal_column("timestamp DESC")],
        unique=False,
    )
    op.create_index(
        "ix_model_metrics_organization_id_metric_type_timestamp",
        "model_metrics",
        ["organization_id", "metric_type", sa.literal_column("timestamp DESC")],
        unique=False,
    )
    op.create_index("ix_model_metrics_timestamp", "model_metrics", [sa.literal_column("timestamp DESC")], unique=False)
    op.create_table(
        "evaluation_results",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("test_case_index", sa.Integer(), nullable=False),
        sa.Column("test_case_id", sa.String(length=200), server_default="", nullable=False),
        sa.Column("cluster", sa.String(length=200), nullable=True),
        sa.Column("input_data", postgresql.JSONB(), nullable=False),
        sa.Column("expected_output", postgresql.JSONB(), nullable=True),
        sa.Column("actual_output", postgresql.JSONB(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("score_details", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("completion_info", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("tokens_used", sa.Integer(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cost", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("success", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("error_kind", sa.String(length=30), server_default="", nullable=False),
        sa.Column("is_retryable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("executed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "evaluation_run_id"],
            ["evaluation_runs.organization_id", "evaluation_runs.id"],
            name="fk_evaluation_results_evaluation_run_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_results")),
        sa.UniqueConstraint(
            "evaluation_run_id", "test_case_index", name=op.f("uq_evaluation_results_evaluation_run_id_test_case_index")
        ),
    )
    op.create_index(
        "ix_evaluation_results_evaluation_run_id_success",
        "evaluation_results",
        ["evaluation_run_id", "success"],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_results_organization_id_evaluation_run_id",
        "evaluation_results",
        ["organization_id", "evaluation_run_id"],
        unique=False,
    )

    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for table in ("evaluation_runs", "evaluation_results", "model_metrics", "metric_aggregations"):
        isolate(table)
    require_visible("evaluation_runs", benchmark_id="benchmark_suites", dataset_id="evaluation_datasets")
    only_members_create("evaluation_runs")
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
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def downgrade() -> None:
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("evaluation_results")
    op.drop_table("model_metrics")
    op.drop_table("metric_aggregations")
    op.drop_table("evaluation_runs")

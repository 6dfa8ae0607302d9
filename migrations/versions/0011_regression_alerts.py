"""Change over time.

- regression_checks: the completed runs that are to be compared with their baseline, and what came of it. A trigger
  makes a run due when it becomes completed, whoever closes it; runs from before are due now, in their order.
- regression_alerts: runs that are worse than their baseline beyond noise, once each.
- evalservice_due_regression_checks: the longest waiting of all organizations, for the supervisors, which check each in
  its own organization's transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import isolate, require_visible

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

DUE = "evalservice_due_regression_checks(integer)"
MARK = "evalservice_mark_regression_check()"


def upgrade() -> None:
    _checks()
    _alerts()
    isolate("regression_checks")
    isolate("regression_alerts")
    require_visible("regression_alerts", benchmark_id="benchmark_suites")
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        INSERT INTO {schema}.regression_checks (organization_id, evaluation_run_id, due_since)
        SELECT organization_id, id, coalesce(completed_at, created_at) FROM {schema}.evaluation_runs
        WHERE status = 'completed'
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION {MARK} RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            INSERT INTO {schema}.regression_checks (organization_id, evaluation_run_id)
            VALUES (NEW.organization_id, NEW.id) ON CONFLICT (evaluation_run_id) DO NOTHING;
            RETURN NULL;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER regression_check_is_due AFTER INSERT OR UPDATE OF status ON evaluation_runs FOR EACH ROW "
        f"WHEN (NEW.status = 'completed') EXECUTE FUNCTION {MARK}"
    )
    op.execute(
        f"""
        CREATE FUNCTION {DUE} RETURNS TABLE (organization_id uuid, evaluation_run_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT checks.organization_id, checks.evaluation_run_id FROM {schema}.regression_checks AS checks
            WHERE checks.outcome IS NULL ORDER BY checks.due_since, checks.evaluation_run_id LIMIT $1
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {DUE} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {DUE}")
    op.execute("DROP TRIGGER regression_check_is_due ON evaluation_runs")
    op.execute(f"DROP FUNCTION {MARK}")
    op.drop_table("regression_alerts")
    op.drop_table("regression_checks")


def _checks() -> None:
    op.create_table(
        "regression_checks",
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("baseline_run_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("look_number", sa.Integer(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("due_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('baseline', 'passed', 'regressed', 'not_compared')", name=op.f("ck_regression_checks_outcome")
        ),
        sa.CheckConstraint("look_number >= 1", name=op.f("ck_regression_checks_look_number")),
        _run("regression_checks", "evaluation_run_id"),
        _run("regression_checks", "baseline_run_id"),
        sa.PrimaryKeyConstraint("evaluation_run_id", name=op.f("pk_regression_checks")),
    )
    op.create_index(
        "ix_regression_checks_organization_id_evaluation_run_id",
        "regression_checks",
        ["organization_id", "evaluation_run_id"],
    )
    op.create_index(
        "uq_regression_checks_baseline_run_id_look_number",
        "regression_checks",
        ["baseline_run_id", "look_number"],
        unique=True,
    )
    op.create_index(
        "ix_regression_checks_due",
        "regression_checks",
        ["due_since", "evaluation_run_id"],
        postgresql_where=sa.text("outcome IS NULL"),
    )


def _alerts() -> None:
    op.create_table(
        "regression_alerts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("benchmark_id", sa.Uuid(), nullable=False),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("baseline_run_id", sa.Uuid(), nullable=False),
        sa.Column("metric", sa.String(length=200), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("value", "baseline_value", "difference")),
        *(sa.Column(name, sa.Double(), nullable=True) for name in ("ci_low", "ci_high")),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("test", sa.String(length=50), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("p_value", "alpha")),
        sa.Column("look_number", sa.Integer(), nullable=False),
        sa.Column("retest_stderr", sa.Double(), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_regression_alerts_organization_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["benchmark_id"],
            ["benchmark_suites.id"],
            name=op.f("fk_regression_alerts_benchmark_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_regression_alerts_model_id",
            ondelete="CASCADE",
        ),
        _run("regression_alerts", "evaluation_run_id"),
        _run("regression_alerts", "baseline_run_id"),
        sa.ForeignKeyConstraint(
            ["organization_id", "acknowledged_by_id"],
            ["memberships.organization_id", "memberships.user_id"],
            name="fk_regression_alerts_acknowledged_by_id",
            ondelete="SET NULL (acknowledged_by_id)",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_regression_alerts")),
        sa.UniqueConstraint("organization_id", "id", name="uq_regression_alerts_organization_id_id"),
    )
    op.create_index("uq_regression_alerts_evaluation_run_id", "regression_alerts", ["evaluation_run_id"], unique=True)
    for column in ("organization_id", "model_id", "benchmark_id"):
        op.create_index(
            f"ix_regression_alerts_{column}_created_at", "regression_alerts", [column, sa.text("created_at DESC")]
        )
    for column in ("baseline_run_id", "acknowledged_by_id"):
        op.create_index(f"ix_regression_alerts_{column}", "regression_alerts", [column])


def _run(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", column],
        ["evaluation_runs.organization_id", "evaluation_runs.id"],
        name=f"fk_{table}_{column}",
        ondelete="CASCADE",
    )

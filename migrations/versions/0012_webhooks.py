"""Webhooks.

- webhooks: addresses that are told of an organization's regression alerts, their secrets sealed.
- webhook_deliveries: one alert for one webhook, its attempts and the last outcome.
- evalservice_due_webhook_deliveries: the longest due of all organizations, for the supervisors.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import isolate, only_members_create

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

DUE = "evalservice_due_webhook_deliveries(integer)"
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("encrypted_secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        _organization("webhooks"),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_webhooks_created_by_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("organization_id", "id", name="uq_webhooks_organization_id_id"),
    )
    _newest_first("webhooks")
    op.create_index("ix_webhooks_created_by_id", "webhooks", ["created_by_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("regression_alert_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=True),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(length=500), server_default="", nullable=False),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_status")),
        _organization("webhook_deliveries"),
        _parent("webhook_id", "webhooks"),
        _parent("regression_alert_id", "regression_alerts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint("organization_id", "id", name="uq_webhook_deliveries_organization_id_id"),
    )
    _newest_first("webhook_deliveries")
    op.create_index("ix_webhook_deliveries_regression_alert_id", "webhook_deliveries", ["regression_alert_id"])
    op.create_index(
        "uq_webhook_deliveries_webhook_id_regression_alert_id",
        "webhook_deliveries",
        ["webhook_id", "regression_alert_id"],
        unique=True,
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_attempt_at", "id"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    isolate("webhooks")
    isolate("webhook_deliveries")
    only_members_create("webhooks")
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION {DUE} RETURNS TABLE (organization_id uuid, delivery_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT due.organization_id, due.id FROM (
                SELECT delivery.organization_id, delivery.id, delivery.next_attempt_at,
                       row_number() OVER (PARTITION BY delivery.organization_id
                                          ORDER BY delivery.next_attempt_at, delivery.id) AS place
                FROM {schema}.webhook_deliveries AS delivery
                WHERE delivery.status = 'pending' AND delivery.next_attempt_at <= now()
            ) AS due
            ORDER BY due.place, due.next_attempt_at, due.id LIMIT $1
        $$
        """
    )
    op.execute(f"REVOKE ALL ON FUNCTION {DUE} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {DUE}")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")


def _organization(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id"], ["organizations.id"], name=op.f(f"fk_{table}_organization_id"), ondelete="CASCADE"
    )


def _parent(column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", column],
        [f"{parent}.organization_id", f"{parent}.id"],
        name=f"fk_webhook_deliveries_{column}",
        ondelete="CASCADE",
    )


def _newest_first(table: str) -> None:
    op.create_index(f"ix_{table}_organization_id_created_at", table, ["organization_id", sa.text("created_at DESC")])

"""What may be spent, and how fast a provider may be asked.

daily_spend: a row for each organization and day (UTC) with what its runs have reserved of `daily_spend_limit`; reserved
before anything is sent, given back when less was used, so that no kill in between can exceed the limit.
provider_credentials.requests_per_minute and tokens_per_minute: what the provider allows whoever uses the credential.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import isolate

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "daily_spend",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reserved_cost", sa.Numeric(precision=20, scale=10), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("reserved_cost >= 0", name=op.f("ck_daily_spend_reserved_cost")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_daily_spend_organization_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("organization_id", "day", name=op.f("pk_daily_spend")),
    )
    isolate("daily_spend")
    for column in ("requests_per_minute", "tokens_per_minute"):
        op.add_column("provider_credentials", sa.Column(column, sa.BigInteger(), nullable=True))
        op.create_check_constraint(op.f(f"ck_provider_credentials_{column}"), "provider_credentials", f"{column} > 0")


def downgrade() -> None:
    for column in ("requests_per_minute", "tokens_per_minute"):
        op.drop_column("provider_credentials", column)
    op.drop_table("daily_spend")

"""Which stored completion answers which request, so that it need not be asked again.

completion_cache: the SHA-256 of a request as the model gets it, and the result row that holds the completion; it goes
with its run. Written and read only by runs that were asked to use it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.row_security import isolate

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "completion_cache",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("evaluation_run_id", sa.Uuid(), nullable=False),
        sa.Column("test_case_index", sa.Integer(), nullable=False),
        sa.Column("sample", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "evaluation_run_id"],
            ["evaluation_runs.organization_id", "evaluation_runs.id"],
            name="fk_completion_cache_evaluation_run_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_completion_cache_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "key", name=op.f("pk_completion_cache")),
    )
    op.create_index("ix_completion_cache_evaluation_run_id", "completion_cache", ["evaluation_run_id"])
    isolate("completion_cache")


def downgrade() -> None:
    op.drop_table("completion_cache")

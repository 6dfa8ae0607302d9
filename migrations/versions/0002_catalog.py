"""Models, capabilities, datasets, benchmark suites: what is measured, and on what. With the well-known capabilities.

Added to the seed:

- evaluation_models.base_url, credential_id, input_price_per_million, output_price_per_million: how a model is called
  and what it costs. Unique (organization_id, name, version): people name models, they do not type ids.
- evaluation_models_capabilities: the seed's many-to-many, with `organization_id`, so that it is isolated as well.
- evaluation_datasets.content_hash, snapshot_uri: what was measured stays measurable. `parquet` as a fourth format.
  Unique (organization_id, name).
- benchmark_suites: unique (organization_id, name, version), NULL counting as one organization. Public is `is_standard`
  without an organization; everyone reads such a suite and, through it, its dataset, which belongs to the organization
  of the operator who published it. A tenant's own suite is never `is_standard`, so that the seed's ON DELETE SET NULL
  publishes nothing that was private.
- every foreign key between tenant tables carries `organization_id`, because Postgres checks foreign keys without
  row-level security. The dataset of a suite may be public: there the policy asks that it is visible.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import isolate, only_members_create, require_visible

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CAPABILITIES = (
    ("text-generation", "Text generation", "generation", "Writes free text from a prompt."),
    ("chat", "Chat", "generation", "Holds a conversation of several turns with roles."),
    ("code-generation", "Code generation", "generation", "Writes and completes program code."),
    ("instruction-following", "Instruction following", "generation", "Does what is asked in the form that is asked."),
    ("json-mode", "JSON mode", "generation", "Answers in JSON, on request to a given schema."),
    ("tool-use", "Tool use", "generation", "Calls declared tools with arguments and uses their results."),
    ("streaming", "Streaming", "generation", "Sends its answer while it is being made."),
    ("question-answering", "Question answering", "analysis", "Answers questions, from a passage or from knowledge."),
    ("summarization", "Summarization", "analysis", "Shortens a text to what matters in it."),
    ("classification", "Classification", "analysis", "Assigns one or more of given labels."),
    ("extraction", "Extraction", "analysis", "Finds named facts in a text and returns them as fields."),
    ("sentiment-analysis", "Sentiment analysis", "analysis", "Judges the attitude that a text expresses."),
    ("reasoning", "Reasoning", "reasoning", "Solves problems in several steps before it answers."),
    ("math", "Mathematics", "reasoning", "Calculates and solves mathematical problems."),
    ("planning", "Planning", "reasoning", "Breaks a goal into steps and keeps to them."),
    ("translation", "Translation", "translation", "Carries a text from one language to another."),
    ("multilingual", "Multilingual", "translation", "Works in many languages alike."),
    ("vision", "Vision", "multimodal", "Takes images as input."),
    ("audio", "Audio", "multimodal", "Takes or makes sound and speech."),
    ("long-context", "Long context", "context", "Uses prompts of 100,000 tokens or more."),
    ("embeddings", "Embeddings", "representation", "Turns text into vectors for search and comparison."),
    ("reranking", "Reranking", "representation", "Orders passages by their relevance to a query."),
    ("moderation", "Moderation", "safety", "Flags text that breaks a policy."),
)
"""name, display name, category, description"""


def upgrade() -> None:

    op.create_table(
        "model_capabilities",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("display_name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("category", sa.String(length=50), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_capabilities")),
        sa.UniqueConstraint("name", name=op.f("uq_model_capabilities_name")),
    )
    op.create_table(
        "evaluation_datasets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("test_cases", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("file_path", sa.String(length=500), server_default="", nullable=False),
        sa.Column("file_format", sa.String(length=20), server_default="", nullable=False),
        sa.Column("input_schema", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("output_schema", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("total_test_cases", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("has_ground_truth", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("tags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("content_hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("snapshot_uri", sa.Text(), server_default="", nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "file_format IN ('', 'json', 'csv', 'jsonl', 'parquet')", name=op.f("ck_evaluation_datasets_file_format")
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_evaluation_datasets_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_evaluation_datasets_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_datasets")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_evaluation_datasets_organization_id_name")),
    )
    op.create_index("ix_evaluation_datasets_created_by_id", "evaluation_datasets", ["created_by_id"], unique=False)
    op.create_index(
        "ix_evaluation_datasets_organization_id_created_at",
        "evaluation_datasets",
        ["organization_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_table(
        "benchmark_suites",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("version", sa.String(length=50), server_default="1.0.0", nullable=False),
        sa.Column("is_standard", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("category", sa.String(length=50), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("evaluation_criteria", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("scoring_methodology", sa.Text(), server_default="", nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("tags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("total_evaluations", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "category IN ('text-generation', 'code-generation', 'qa', 'summarization', 'classification', "
            "'translation', 'custom')",
            name=op.f("ck_benchmark_suites_category"),
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_benchmark_suites_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["evaluation_datasets.id"], name=op.f("fk_benchmark_suites_dataset_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_benchmark_suites_organization_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_benchmark_suites")),
        sa.UniqueConstraint(
            "organization_id",
            "name",
            "version",
            name=op.f("uq_benchmark_suites_organization_id_name_version"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        "ix_benchmark_suites_category_is_standard", "benchmark_suites", ["category", "is_standard"], unique=False
    )
    op.create_index("ix_benchmark_suites_created_by_id", "benchmark_suites", ["created_by_id"], unique=False)
    op.create_index("ix_benchmark_suites_dataset_id", "benchmark_suites", ["dataset_id"], unique=False)
    op.create_index(
        "ix_benchmark_suites_is_standard_category", "benchmark_suites", ["is_standard", "category"], unique=False
    )
    op.create_index(
        "ix_benchmark_suites_organization_id_category",
        "benchmark_suites",
        ["organization_id", "category"],
        unique=False,
    )
    op.create_table(
        "evaluation_models",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("display_name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("platform", sa.String(length=50), nullable=False),
        sa.Column("platform_model_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=50), server_default="1.0.0", nullable=False),
        sa.Column("is_latest", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("parent_model_id", sa.Uuid(), nullable=True),
        sa.Column("default_config", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("supported_configs", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="active", nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("tags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("deprecated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total_evaluations", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("avg_accuracy", sa.Double(), nullable=True),
        sa.Column("avg_latency_ms", sa.Double(), nullable=True),
        sa.Column("avg_cost_per_1k_tokens", sa.Double(), nullable=True),
        sa.Column("base_url", sa.Text(), server_default="", nullable=False),
        sa.Column("credential_id", sa.Uuid(), nullable=True),
        sa.Column("input_price_per_million", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("output_price_per_million", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status IN ('active', 'deprecated', 'experimental', 'archived')", name=op.f("ck_evaluation_models_status")
        ),
        sa.CheckConstraint("input_price_per_million >= 0", name=op.f("ck_evaluation_models_input_price_per_million")),
        sa.CheckConstraint("output_price_per_million >= 0", name=op.f("ck_evaluation_models_output_price_per_million")),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["provider_credentials.organization_id", "provider_credentials.id"],
            name="fk_evaluation_models_credential_id",
            ondelete="SET NULL (credential_id)",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "parent_model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_evaluation_models_parent_model_id",
            ondelete="SET NULL (parent_model_id)",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_evaluation_models_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_models")),
        sa.UniqueConstraint("organization_id", "id", name="uq_evaluation_models_organization_id_id"),
        sa.UniqueConstraint(
            "organization_id", "name", "version", name=op.f("uq_evaluation_models_organization_id_name_version")
        ),
        sa.UniqueConstraint(
            "organization_id", "platform", "platform_model_id", "version", name="uq_evaluation_models_platform_model"
        ),
    )
    op.create_index("ix_evaluation_models_credential_id", "evaluation_models", ["credential_id"], unique=False)
    op.create_index("ix_evaluation_models_name_platform", "evaluation_models", ["name", "platform"], unique=False)
    op.create_index(
        "ix_evaluation_models_organization_id_status", "evaluation_models", ["organization_id", "status"], unique=False
    )
    op.create_index("ix_evaluation_models_parent_model_id", "evaluation_models", ["parent_model_id"], unique=False)
    op.create_index(
        "ix_evaluation_models_platform_platform_model_id",
        "evaluation_models",
        ["platform", "platform_model_id"],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_models_status_created_at",
        "evaluation_models",
        ["status", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_table(
        "evaluation_models_capabilities",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("capability_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["capability_id"],
            ["model_capabilities.id"],
            name=op.f("fk_evaluation_models_capabilities_capability_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "model_id"],
            ["evaluation_models.organization_id", "evaluation_models.id"],
            name="fk_evaluation_models_capabilities_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "capability_id", name=op.f("pk_evaluation_models_capabilities")),
    )
    op.create_index(
        "ix_evaluation_models_capabilities_capability_id",
        "evaluation_models_capabilities",
        ["capability_id"],
        unique=False,
    )
    op.create_index(
        "ix_evaluation_models_capabilities_organization_id_capability_id",
        "evaluation_models_capabilities",
        ["organization_id", "capability_id"],
        unique=False,
    )

    for table in ("evaluation_models", "evaluation_models_capabilities", "evaluation_datasets"):
        isolate(table)
    isolate("benchmark_suites", check="NOT is_standard")
    require_visible("benchmark_suites", dataset_id="evaluation_datasets")
    op.execute(
        "CREATE POLICY public_suite ON benchmark_suites FOR SELECT USING (is_standard AND organization_id IS NULL)"
    )
    op.execute(
        "CREATE POLICY public_suite ON evaluation_datasets FOR SELECT USING (EXISTS (SELECT 1 FROM benchmark_suites "
        "AS suite WHERE suite.dataset_id = evaluation_datasets.id AND suite.is_standard "
        "AND suite.organization_id IS NULL))"
    )
    for table in ("evaluation_datasets", "benchmark_suites"):
        only_members_create(table)
    capabilities = sa.table(
        "model_capabilities", *(sa.column(c) for c in ("id", "name", "display_name", "category", "description"))
    )
    op.bulk_insert(
        capabilities,
        [
            {
                "id": f"00000000-0000-7000-8000-00000000c{number:03d}",
                "name": name,
                "display_name": display_name,
                "category": category,
                "description": description,
            }
            for number, (name, display_name, category, description) in enumerate(CAPABILITIES, start=1)
        ],
    )


def downgrade() -> None:
    op.execute("DROP POLICY public_suite ON evaluation_datasets")
    op.drop_table("evaluation_models_capabilities")
    op.drop_table("evaluation_models")
    op.drop_table("benchmark_suites")
    op.drop_table("evaluation_datasets")
    op.drop_table("model_capabilities")

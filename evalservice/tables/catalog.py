"""What is measured and on what: models with their capabilities, datasets, benchmark suites."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, String, Text, UniqueConstraint, Uuid, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, array
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from evalservice.tables.base import (
    Base,
    CreatedBy,
    Identified,
    Owned,
    Timestamps,
    count,
    flag,
    index,
    json_list,
    json_object,
    long,
    maybe_money,
    maybe_real,
    maybe_time,
    one_of,
    parent_key,
    same_organization,
    short,
)
from evalservice.tables.organizations import Organization, ProviderCredential, User

MODEL_STATUSES = ("active", "deprecated", "experimental", "archived")
BENCHMARK_CATEGORIES = (
    "text-generation",
    "code-generation",
    "qa",
    "summarization",
    "classification",
    "translation",
    "custom",
)
FILE_FORMATS = ("json", "csv", "jsonl", "parquet")


class ModelCapability(Identified, Base):
    """A capability that a model may declare, e.g. `text-generation`. The same for every organization."""

    __tablename__ = "model_capabilities"
    __table_args__ = (UniqueConstraint("name"),)

    name: Mapped[str] = short(100)
    display_name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    category: Mapped[str] = short(50)

    models: Mapped[list[Model]] = relationship(
        secondary="evaluation_models_capabilities",
        primaryjoin="ModelCapability.id == ModelCapabilityLink.capability_id",
        secondaryjoin="ModelCapabilityLink.model_id == Model.id",
        back_populates="capabilities",
        viewonly=True,
    )


class ModelCapabilityLink(Base):
    """Model declares capability: the many-to-many table of `Model.capabilities`, written row by row."""

    __tablename__ = "evaluation_models_capabilities"
    __table_args__ = (
        same_organization("evaluation_models_capabilities", "model_id", "evaluation_models", "CASCADE"),
        index("evaluation_models_capabilities", "organization_id", "capability_id"),
        index("evaluation_models_capabilities", "capability_id"),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    capability_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("model_capabilities.id", ondelete="CASCADE"), primary_key=True
    )
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)

    model: Mapped[Model] = relationship(
        primaryjoin="ModelCapabilityLink.model_id == Model.id", foreign_keys="ModelCapabilityLink.model_id"
    )
    capability: Mapped[ModelCapability] = relationship()


class Model(Identified, Owned, Timestamps, Base):
    """A model as it is called on a platform, with its prices and cached statistics."""

    __tablename__ = "evaluation_models"
    __table_args__ = (
        same_organization("evaluation_models", "parent_model_id", "evaluation_models", "SET NULL"),
        same_organization("evaluation_models", "credential_id", "provider_credentials", "SET NULL"),
        UniqueConstraint(
            "organization_id", "platform", "platform_model_id", "version", name="uq_evaluation_models_platform_model"
        ),
        UniqueConstraint("organization_id", "name", "version"),
        parent_key("evaluation_models"),
        one_of("status", MODEL_STATUSES),
        CheckConstraint("input_price_per_million >= 0", name="input_price_per_million"),
        CheckConstraint("output_price_per_million >= 0", name="output_price_per_million"),
        index("evaluation_models", "organization_id", "status"),
        index("evaluation_models", "platform", "platform_model_id"),
        index("evaluation_models", "status", "-created_at"),
        index("evaluation_models", "name", "platform"),
        index("evaluation_models", "parent_model_id"),
        index("evaluation_models", "credential_id"),
    )

    name: Mapped[str] = short(200)
    display_name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    platform: Mapped[str] = short(50)
    platform_model_id: Mapped[str] = short(200)
    version: Mapped[str] = short(50, "1.0.0")
    is_latest: Mapped[bool] = flag(True)
    parent_model_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    default_config: Mapped[dict[str, Any]] = json_object()
    supported_configs: Mapped[list[Any]] = json_list()
    status: Mapped[str] = short(20, "active")
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    tags: Mapped[list[Any]] = json_list()
    deprecated_at: Mapped[datetime | None] = maybe_time()
    total_evaluations: Mapped[int] = count()
    avg_accuracy: Mapped[float | None] = maybe_real()
    avg_latency_ms: Mapped[float | None] = maybe_real()
    avg_cost_per_1k_tokens: Mapped[float | None] = maybe_real()
    base_url: Mapped[str] = long()
    credential_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    input_price_per_million: Mapped[Decimal | None] = maybe_money()
    output_price_per_million: Mapped[Decimal | None] = maybe_money()

    if TYPE_CHECKING:
        capability_names: Mapped[list[str]]
        """Sorted. Read with the model: what models are asked for most needs no second query."""

    organization: Mapped[Organization] = relationship()
    parent_model: Mapped[Model | None] = relationship(
        primaryjoin="Model.parent_model_id == remote(Model.id)", foreign_keys="Model.parent_model_id"
    )
    credential: Mapped[ProviderCredential | None] = relationship(
        primaryjoin="Model.credential_id == ProviderCredential.id", foreign_keys="Model.credential_id"
    )
    capabilities: Mapped[list[ModelCapability]] = relationship(
        secondary="evaluation_models_capabilities",
        primaryjoin="Model.id == ModelCapabilityLink.model_id",
        secondaryjoin="ModelCapabilityLink.capability_id == ModelCapability.id",
        back_populates="models",
        viewonly=True,
    )


Model.capability_names = column_property(
    select(
        func.coalesce(
            func.array_agg(aggregate_order_by(ModelCapability.name, ModelCapability.name), type_=ARRAY(String)),
            array([], type_=String),
        )
    )
    .where(ModelCapabilityLink.model_id == Model.id, ModelCapability.id == ModelCapabilityLink.capability_id)
    .correlate(Model.__table__)
    .scalar_subquery()
)


class EvaluationDataset(Identified, Owned, CreatedBy, Timestamps, Base):
    """Test cases, inline or as a snapshot of a file. Readable by all through a public benchmark."""

    __tablename__ = "evaluation_datasets"
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        one_of("file_format", ("", *FILE_FORMATS)),
        index("evaluation_datasets", "organization_id", "-created_at"),
        index("evaluation_datasets", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    test_cases: Mapped[list[Any]] = json_list()
    file_path: Mapped[str] = short(500, "")
    file_format: Mapped[str] = short(20, "")
    input_schema: Mapped[dict[str, Any]] = json_object()
    output_schema: Mapped[dict[str, Any]] = json_object()
    total_test_cases: Mapped[int] = count()
    has_ground_truth: Mapped[bool] = flag(False)
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    tags: Mapped[list[Any]] = json_list()
    content_hash: Mapped[str] = mapped_column(String(64), default="", server_default="")
    snapshot_uri: Mapped[str] = mapped_column(Text, default="", server_default="")
    archived_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()


class BenchmarkSuite(Identified, CreatedBy, Timestamps, Base):
    """A dataset and how answers to it are judged. Public: `is_standard` and no organization."""

    __tablename__ = "benchmark_suites"
    __table_args__ = (
        UniqueConstraint("organization_id", "name", "version", postgresql_nulls_not_distinct=True),
        one_of("category", BENCHMARK_CATEGORIES),
        index("benchmark_suites", "organization_id", "category"),
        index("benchmark_suites", "is_standard", "category"),
        index("benchmark_suites", "category", "is_standard"),
        index("benchmark_suites", "dataset_id"),
        index("benchmark_suites", "created_by_id"),
    )

    organization_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("organizations.id", ondelete="SET NULL"), sort_order=-9
    )
    name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    version: Mapped[str] = short(50, "1.0.0")
    is_standard: Mapped[bool] = flag(False)
    category: Mapped[str] = short(50)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("evaluation_datasets.id", ondelete="RESTRICT"))
    evaluation_criteria: Mapped[dict[str, Any]] = json_object()
    scoring_methodology: Mapped[str] = long()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    tags: Mapped[list[Any]] = json_list()
    total_evaluations: Mapped[int] = count()
    last_used_at: Mapped[datetime | None] = maybe_time()
    archived_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization | None] = relationship()
    dataset: Mapped[EvaluationDataset] = relationship()
    created_by: Mapped[User | None] = relationship()

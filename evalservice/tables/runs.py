"""What was measured: a run of one model on one benchmark, and the one result row of each of its test cases."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    MONEY,
    TIME,
    Base,
    CreatedAt,
    CreatedBy,
    Identified,
    Owned,
    Timestamps,
    count,
    flag,
    index,
    json_object,
    long,
    maybe_money,
    maybe_real,
    maybe_time,
    one_of,
    parent_key,
    real,
    same_organization,
    short,
)
from evalservice.tables.catalog import BenchmarkSuite, EvaluationDataset, Model
from evalservice.tables.organizations import Organization, User

RUN_STATUSES = ("pending", "running", "completed", "failed", "cancelled")
REQUESTED_WORK = ("resume", "rescore")


class EvaluationRun(Identified, Owned, CreatedBy, Timestamps, Base):
    """One model on one benchmark: configuration, progress, lease of the driver that owns it, aggregates.

    The benchmark and the dataset may be public, so their foreign keys are plain and the row-level policy requires
    that both are visible to the run's organization.
    """

    __tablename__ = "evaluation_runs"
    __table_args__ = (
        same_organization("evaluation_runs", "model_id", "evaluation_models", "RESTRICT"),
        parent_key("evaluation_runs"),
        one_of("status", RUN_STATUSES),
        one_of("requested_work", REQUESTED_WORK),
        CheckConstraint("progress >= 0 AND progress <= 1", name="progress"),
        CheckConstraint("reserved_cost >= 0", name="reserved_cost"),
        index("evaluation_runs", "organization_id", "status"),
        index("evaluation_runs", "organization_id", "-created_at"),
        index("evaluation_runs", "model_id", "-created_at"),
        index("evaluation_runs", "benchmark_id", "-created_at"),
        index("evaluation_runs", "status", "-created_at"),
        index("evaluation_runs", "organization_id", "configuration_hash"),
        index("evaluation_runs", "dataset_id"),
        Index(
            "ix_evaluation_runs_work",
            "organization_id",
            text("priority DESC"),
            "created_at",
            "id",
            postgresql_where=text("status IN ('pending', 'running') OR requested_work IS NOT NULL"),
        ),
        Index("ix_evaluation_runs_driven", "organization_id", postgresql_where=text("lease_owner IS NOT NULL")),
        index("evaluation_runs", "created_by_id"),
    )

    name: Mapped[str] = short(200, "")
    model_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    benchmark_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("benchmark_suites.id", ondelete="RESTRICT"))
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("evaluation_datasets.id", ondelete="RESTRICT"))
    model_config: Mapped[dict[str, Any]] = json_object()
    evaluation_config: Mapped[dict[str, Any]] = json_object()
    configuration_hash: Mapped[str] = short(64, "")
    provenance: Mapped[dict[str, Any]] = json_object()
    status: Mapped[str] = short(20, "pending")
    priority: Mapped[int] = count()
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None] = maybe_time()
    attempt: Mapped[int] = count()
    claim_after: Mapped[datetime | None] = maybe_time()
    orphaned: Mapped[int] = count()
    requested_work: Mapped[str | None] = mapped_column(String(10))
    cancel_requested_at: Mapped[datetime | None] = maybe_time()
    progress: Mapped[float] = real(0.0)
    total_test_cases: Mapped[int] = count()
    completed_test_cases: Mapped[int] = count()
    failed_test_cases: Mapped[int] = count()
    aggregated_results: Mapped[dict[str, Any]] = json_object()
    started_at: Mapped[datetime | None] = maybe_time()
    completed_at: Mapped[datetime | None] = maybe_time()
    duration_seconds: Mapped[float | None] = maybe_real()
    total_cost: Mapped[Decimal | None] = maybe_money()
    reserved_cost: Mapped[Decimal] = mapped_column(MONEY, default=Decimal(0), server_default=text("0"))
    total_tokens: Mapped[int | None] = mapped_column(BigInteger)
    input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error_message: Mapped[str] = long()
    error_traceback: Mapped[str] = long()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")

    organization: Mapped[Organization] = relationship()
    model: Mapped[Model] = relationship(
        primaryjoin="EvaluationRun.model_id == Model.id", foreign_keys="EvaluationRun.model_id"
    )
    benchmark: Mapped[BenchmarkSuite] = relationship()
    dataset: Mapped[EvaluationDataset] = relationship()
    created_by: Mapped[User | None] = relationship()
    results: Mapped[list[EvaluationResult]] = relationship(
        primaryjoin="EvaluationRun.id == EvaluationResult.evaluation_run_id",
        foreign_keys="EvaluationResult.evaluation_run_id",
        back_populates="evaluation_run",
        passive_deletes="all",
        order_by="EvaluationResult.test_case_index",
    )


class EvaluationResult(Identified, Base):
    """What happened to one test case: exactly one row for each, failed ones included.

    The seed's index on (evaluation_run, test_case_index) is the one that the unique constraint makes.
    """

    __tablename__ = "evaluation_results"
    __table_args__ = (
        same_organization("evaluation_results", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        UniqueConstraint("evaluation_run_id", "test_case_index"),
        index("evaluation_results", "evaluation_run_id", "success"),
        index("evaluation_results", "organization_id", "evaluation_run_id"),
    )

    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    test_case_index: Mapped[int] = mapped_column(Integer)
    test_case_id: Mapped[str] = short(200, "")
    cluster: Mapped[str | None] = mapped_column(String(200))
    input_data: Mapped[Any] = mapped_column(JSONB, nullable=False)
    expected_output: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    actual_output: Mapped[Any] = mapped_column(JSONB, nullable=False)
    metrics: Mapped[dict[str, Any]] = json_object()
    score_details: Mapped[dict[str, Any]] = json_object()
    completion_info: Mapped[dict[str, Any]] = json_object()
    latency_ms: Mapped[float | None] = maybe_real()
    tokens_used: Mapped[int | None] = mapped_column(Integer)
    input_tokens: Mapped[int | None] = mapped_column(Integer)
    output_tokens: Mapped[int | None] = mapped_column(Integer)
    cost: Mapped[Decimal | None] = maybe_money()
    success: Mapped[bool] = flag(True)
    error_message: Mapped[str] = long()
    error_kind: Mapped[str] = short(30, "")
    is_retryable: Mapped[bool] = flag(False)
    executed_at: Mapped[datetime] = mapped_column(TIME, server_default=func.now())

    evaluation_run: Mapped[EvaluationRun] = relationship(
        primaryjoin="EvaluationResult.evaluation_run_id == EvaluationRun.id",
        foreign_keys="EvaluationResult.evaluation_run_id",
        back_populates="results",
    )


class CompletionCacheEntry(Owned, CreatedAt, Base):
    """That a request was answered before: its SHA-256, and the result row (and which of its samples) that holds it."""

    __tablename__ = "completion_cache"
    __table_args__ = (
        same_organization("completion_cache", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        index("completion_cache", "evaluation_run_id"),
    )

    organization_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    test_case_index: Mapped[int] = mapped_column(Integer)
    sample: Mapped[int] = count()

"""Performance over time: a row per measurement, mergeable aggregates per hour, day, week and month, and what is due."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Double, UniqueConstraint, Uuid, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    TIME,
    Base,
    Identified,
    Owned,
    count,
    index,
    json_object,
    one_of,
    same_organization,
    short,
)
from evalservice.tables.catalog import Model
from evalservice.tables.organizations import Organization

METRIC_TYPES = (
    "accuracy",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "cost_per_1k_tokens",
    "error_rate",
    "success_rate",
    "bleu_score",
    "rouge_score",
    "custom",
)
PERIOD_TYPES = ("hour", "day", "week", "month")


class ModelMetric(Identified, Owned, Base):
    """One measured value of a model, e.g. metric_type `accuracy`, value 0.63; its uncertainty is in `metadata`.

    `benchmark_id` and `evaluation_run_id` are plain: a series outlives the run that it came from.
    """

    __tablename__ = "model_metrics"
    __table_args__ = (
        same_organization("model_metrics", "model_id", "evaluation_models", "CASCADE"),
        one_of("metric_type", METRIC_TYPES),
        index("model_metrics", "model_id", "metric_type", "-timestamp"),
        index("model_metrics", "organization_id", "metric_type", "-timestamp"),
        index("model_metrics", "-timestamp"),
        index("model_metrics", "evaluation_run_id"),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    metric_type: Mapped[str] = short(50)
    value: Mapped[float] = mapped_column(Double)
    unit: Mapped[str] = short(20, "")
    benchmark_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    evaluation_run_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    timestamp: Mapped[datetime] = mapped_column(TIME, server_default=func.now())

    organization: Mapped[Organization] = relationship()
    model: Mapped[Model] = relationship(
        primaryjoin="ModelMetric.model_id == Model.id", foreign_keys="ModelMetric.model_id"
    )


class MetricAggregation(Identified, Owned, Base):
    """A model's metrics over one period: `metrics` is {metric_type[:name][@benchmark]: {n, sum, ...}}, which adds."""

    __tablename__ = "metric_aggregations"
    __table_args__ = (
        same_organization("metric_aggregations", "model_id", "evaluation_models", "CASCADE"),
        UniqueConstraint("model_id", "period_type", "period_start"),
        one_of("period_type", PERIOD_TYPES),
        index("metric_aggregations", "model_id", "period_type", "-period_start"),
        index("metric_aggregations", "organization_id", "period_type", "-period_start"),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    period_type: Mapped[str] = short(20)
    period_start: Mapped[datetime] = mapped_column(TIME)
    period_end: Mapped[datetime] = mapped_column(TIME)
    metrics: Mapped[dict[str, Any]] = json_object()
    sample_count: Mapped[int] = count()

    organization: Mapped[Organization] = relationship()
    model: Mapped[Model] = relationship(
        primaryjoin="MetricAggregation.model_id == Model.id", foreign_keys="MetricAggregation.model_id"
    )


class MetricRollupDue(Base):
    """An hour of a model whose measurements changed since it was last rolled up. Triggers write it.

    `version` is new at each mark: a roll-up takes back only the mark that it has seen.
    """

    __tablename__ = "metric_rollups_due"
    __table_args__ = (same_organization("metric_rollups_due", "model_id", "evaluation_models", "CASCADE"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    hour: Mapped[datetime] = mapped_column(TIME, primary_key=True)
    version: Mapped[uuid.UUID] = mapped_column(Uuid, server_default=text("gen_random_uuid()"))
    due_since: Mapped[datetime] = mapped_column(TIME, server_default=text("clock_timestamp()"))

"""What the API gives about measured metrics."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel

from evalservice.metrics.queries import MetricPoint
from evalservice.tables import MetricAggregation, ModelMetric
from evalservice.web.fields import columns


class MetricRead(BaseModel):
    """One measured value of a model; its uncertainty is in `metadata`."""

    id: uuid.UUID
    model_id: uuid.UUID
    metric_type: str
    value: float | None
    unit: str
    benchmark_id: uuid.UUID | None
    evaluation_run_id: uuid.UUID | None
    metadata: dict[str, Any]
    timestamp: datetime

    @classmethod
    def of(cls, row: ModelMetric) -> Self:
        """From the table."""
        return cls(**columns(row, cls, "metadata"), metadata=row.metadata_)


class AggregationRead(BaseModel):
    """A model's metrics over one period, in sums that add."""

    id: uuid.UUID
    model_id: uuid.UUID
    period_type: str
    period_start: datetime
    period_end: datetime
    metrics: dict[str, Any]
    sample_count: int

    @classmethod
    def of(cls, row: MetricAggregation) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class SeriesRead(BaseModel):
    """A model's metric over time; periods without values are left out."""

    model_id: uuid.UUID
    metric_type: str
    period: str
    points: list[MetricPoint]


class StandingRead(BaseModel):
    """A model's place on a benchmark, with the uncertainty of its value."""

    rank: int
    model: str
    run_id: uuid.UUID
    value: float
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    coverage: float | None
    latency_p50_ms: float | None
    total_cost: Decimal | None
    completed_at: datetime | None


class LeaderboardRead(BaseModel):
    """The models by their latest completed runs on a benchmark, best first; equal values share a rank."""

    benchmark: str
    metric: str
    items: list[StandingRead]

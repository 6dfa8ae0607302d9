"""Metrics over time: the rows, the aggregates, a model's series, models side by side.

Row-level security keeps every query to the transaction's organization, and its condition is part of the index scans:
with a model they go by (model, metric_type, -timestamp) and (model, period_type, -period_start), without one by the
same indexes that begin with the organization.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, column, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from evalservice.errors import InvalidInput
from evalservice.metrics.periods import Period, metric_key, period_end, period_start
from evalservice.statistics.sketches import Summary
from evalservice.tables import METRIC_TYPES, MetricAggregation, Model, ModelMetric


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of some values. Percentiles are within 1 % of those of the values themselves.

    Everything but the counts is None where there are no usable values; `stddev` is so below two.
    """

    n: int
    unusable: int
    mean: float | None
    stddev: float | None
    min: float | None
    max: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Summary) -> Statistics:
        percentiles = (values.quantile(q) for q in (0.5, 0.95, 0.99))
        return cls(values.n, values.unusable, values.mean, values.stddev, values.min, values.max, *percentiles)


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One period of a series. A period without values is not in the series."""

    period_start: datetime
    period_end: datetime
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A model among others."""

    model_id: uuid.UUID
    model: str
    statistics: Statistics


def metric_rows(
    *,
    model_id: uuid.UUID | None = None,
    metric_type: str | None = None,
    name: str | None = None,
    benchmark_id: uuid.UUID | None = None,
    run_id: uuid.UUID | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Select[Any]:
    """The measurements of [start, end) that match, to be paged by (timestamp, id), newest first.

    Raises InvalidInput (metric_type, name).
    """
    _check(metric_type, name)
    row = ModelMetric
    wanted: list[ColumnElement[bool]] = []
    for attribute, value in (
        (row.model_id, model_id),
        (row.metric_type, metric_type),
        (row.benchmark_id, benchmark_id),
        (row.evaluation_run_id, run_id),
    ):
        if value is not None:
            wanted.append(attribute == value)
    if name is not None:
        wanted.append(row.metadata_["name"].as_string() == name)
    return select(row).where(*wanted, *_within(row.timestamp, start, end))


def aggregations(
    *,
    period: Period,
    model_id: uuid.UUID | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Select[Any]:
    """The stored aggregates of the periods that overlap [start, end), to be paged by (period_start, id)."""
    row = MetricAggregation
    mine = [row.model_id == model_id] if model_id is not None else []
    since = None if start is None else period_start(start, period)
    return select(row).where(row.period_type == period, *mine, *_within(row.period_start, since, end))


def metric_series(
    session: Session,
    model_id: uuid.UUID,
    metric_type: str,
    *,
    period: Period,
    start: datetime,
    end: datetime,
    name: str | None = None,
    benchmark_id: uuid.UUID | None = None,
) -> list[MetricPoint]:
    """A model's metric by the periods that overlap [start, end), oldest first; without a benchmark over all of them.

    `name` is a custom metric's. Raises InvalidInput (metric_type, name).
    """
    by_start: dict[datetime, Summary] = defaultdict(Summary)
    series = _series(metric_type, name, benchmark_id, period, start, end).where(MetricAggregation.model_id == model_id)
    for _, moment, stored in session.execute(series):
        by_start[moment] += Summary.from_json(stored)
    return [
        MetricPoint(moment, period_end(moment, period), Statistics.of(by_start[moment])) for moment in sorted(by_start)
    ]


def models_by_metric(
    session: Session,
    metric_type: str,
    *,
    period: Period,
    start: datetime,
    end: datetime,
    name: str | None = None,
    benchmark_id: uuid.UUID | None = None,
) -> list[ModelStatistics]:
    """Every model's values of a metric over the periods that overlap [start, end), highest mean first.

    Raises InvalidInput (metric_type, name).
    """
    by_model: dict[uuid.UUID, Summary] = defaultdict(Summary)
    for model_id, _, stored in session.execute(_series(metric_type, name, benchmark_id, period, start, end)):
        by_model[model_id] += Summary.from_json(stored)
    models = session.execute(select(Model.id, Model.name).where(Model.id.in_(by_model)))
    names: dict[uuid.UUID, str] = {model.id: model.name for model in models}
    rows = [ModelStatistics(key, names[key], Statistics.of(values)) for key, values in by_model.items() if key in names]
    return sorted(rows, key=lambda row: (row.statistics.mean is None, -(row.statistics.mean or 0.0), row.model))


def _series(
    metric_type: str,
    name: str | None,
    benchmark_id: uuid.UUID | None,
    period: Period,
    start: datetime,
    end: datetime,
) -> Select[Any]:
    """(model_id, period_start, summary) of one metric; a row for each benchmark where none is given."""
    _check(metric_type, name)
    row = MetricAggregation
    key = metric_key(metric_type, name, benchmark_id)
    within = (row.period_type == period, *_within(row.period_start, period_start(start, period), end))
    if benchmark_id is not None:
        return select(row.model_id, row.period_start, row.metrics[key]).where(*within, row.metrics.has_key(key))
    each = func.jsonb_each(row.metrics).table_valued(column("key", Text), column("value", JSONB)).lateral("each")
    same = func.regexp_replace(each.c.key, "@[^@]*$", "") == key.removesuffix("@")
    return select(row.model_id, row.period_start, each.c.value).join(each, same).where(*within)


def _within(moment: Any, start: datetime | None, end: datetime | None) -> list[ColumnElement[bool]]:
    after = [moment >= start] if start is not None else []
    return after + ([moment < end] if end is not None else [])


def _check(metric_type: str | None, name: str | None) -> None:
    if metric_type is not None and metric_type not in METRIC_TYPES:
        raise InvalidInput("metric_type", metric_type, f"one of {', '.join(METRIC_TYPES)}")
    if name is not None and metric_type != "custom":
        raise InvalidInput("name", name, "the name of a metric whose metric_type is custom")

"""`/v1/metrics`, `/v1/metric-aggregations`, `/v1/leaderboards`: what was measured, over time and side by side."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime

from evalservice.errors import InvalidInput
from evalservice.lookup import find
from evalservice.metrics.queries import aggregations, metric_rows, metric_series
from evalservice.metrics.schemas import (
    AggregationRead,
    LeaderboardRead,
    MetricRead,
    SeriesRead,
    StandingRead,
)
from evalservice.metrics.service import standings
from evalservice.tables import MetricAggregation, Model, ModelMetric
from evalservice.web.context import Context, Reader, TenantRoute
from evalservice.web.pages import Filter, Page, Paging, page_of

metrics = APIRouter(prefix="/metrics", tags=["metrics"], route_class=TenantRoute)
metric_aggregations = APIRouter(prefix="/metric-aggregations", tags=["metrics"], route_class=TenantRoute)
leaderboards = APIRouter(prefix="/leaderboards", tags=["metrics"], route_class=TenantRoute)

Period = Literal["hour", "day", "week", "month"]
Moment = Annotated[AwareDatetime | None, Query(description="With its time zone, e.g. 2026-03-01T00:00:00Z.")]
_DEFAULT_SPAN = {
    "hour": timedelta(days=7),
    "day": timedelta(days=90),
    "week": timedelta(days=2 * 365),
    "month": timedelta(days=5 * 365),
}


def _model_id(context: Context, model: str | None) -> uuid.UUID | None:
    return None if model is None else find(context.session, Model, model, "model").id


@metrics.get("", response_model=Page[MetricRead])
def list_metrics(
    context: Reader,
    paging: Paging,
    model: Filter = None,
    metric_type: Filter = None,
    name: Filter = None,
    benchmark_id: uuid.UUID | None = None,
    evaluation_run_id: uuid.UUID | None = None,
    start: Moment = None,
    end: Moment = None,
) -> Response:
    """Measured values, the latest first. `model` is a name or an id; the time is [start, end)."""
    query = metric_rows(
        model_id=_model_id(context, model),
        metric_type=metric_type,
        name=name,
        benchmark_id=benchmark_id,
        run_id=evaluation_run_id,
        start=start,
        end=end,
    )
    sorts = {"timestamp": ModelMetric.timestamp}
    return context.reply(page_of(context.session, query, paging, sorts, ModelMetric.id, MetricRead.of))


@metrics.get("/series", response_model=SeriesRead)
def read_series(
    context: Reader,
    model: Annotated[str, Query(max_length=300)],
    metric_type: Annotated[str, Query(max_length=50)],
    period: Period = "day",
    name: Filter = None,
    benchmark_id: uuid.UUID | None = None,
    start: Moment = None,
    end: Moment = None,
) -> Response:
    """A model's metric by hour, day, week or month, from the kept aggregates."""
    model_id = find(context.session, Model, model, "model").id
    end = end or datetime.now(UTC)
    start = start or end - _DEFAULT_SPAN[period]
    if start >= end:
        raise InvalidInput("start", start.isoformat(), f"a moment before end ({end.isoformat()})")
    points = metric_series(
        context.session,
        model_id,
        metric_type,
        period=period,
        start=start,
        end=end,
        name=name,
        benchmark_id=benchmark_id,
    )
    return context.reply(SeriesRead(model_id=model_id, metric_type=metric_type, period=period, points=points))


@metric_aggregations.get("", response_model=Page[AggregationRead])
def list_aggregations(
    context: Reader,
    paging: Paging,
    period: Period = "day",
    model: Filter = None,
    start: Moment = None,
    end: Moment = None,
) -> Response:
    """The kept aggregates of one kind of period, the latest first."""
    query = aggregations(period=period, model_id=_model_id(context, model), start=start, end=end)
    sorts = {"period_start": MetricAggregation.period_start}
    return context.reply(page_of(context.session, query, paging, sorts, MetricAggregation.id, AggregationRead.of))


@leaderboards.get("/{benchmark:path}", response_model=LeaderboardRead)
def read_leaderboard(context: Reader, benchmark: str, metric: Filter = None) -> Response:
    """The models by their latest completed runs on a benchmark, best first, with error bars."""
    found = standings(context.session, benchmark, metric)
    items = [StandingRead.model_validate(item) for item in found["items"]]
    return context.reply(LeaderboardRead(benchmark=found["benchmark"], metric=found["metric"], items=items))

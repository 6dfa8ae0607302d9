"""The calendar of aggregates (UTC, ISO weeks) and the key of a series within one.

metric_key("custom", "f1", None) -> "custom:f1"; metric_key("accuracy", None, benchmark) -> "accuracy@0197…"
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal

Period = Literal["hour", "day", "week", "month"]

MERGED_FROM: dict[Period, Period] = {"day": "hour", "week": "day", "month": "day"}
"""What each period is the sum of, in the order in which they are computed; an hour is computed from the rows."""


def period_start(moment: datetime, period: Period) -> datetime:
    """The start of the period that holds a moment. A moment without a time zone is UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if period == "hour":
        return hour
    day = hour.replace(hour=0)
    if period == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period == "month" else day


def period_end(start: datetime, period: Period) -> datetime:
    """The end of the period that begins at `start`: the start of the next."""
    if period == "month":
        return (start + timedelta(days=31)).replace(day=1)
    return start + {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}[period]


def metric_key(metric_type: str, name: str | None = None, benchmark_id: uuid.UUID | None = None) -> str:
    """`metric_type[:name][@benchmark]`, the name being that of a custom metric.

    The last @ is always the benchmark's: a key whose name holds one ends in @ where there is no benchmark, so that no
    two series share a key.
    """
    series = metric_type if name is None else f"{metric_type}:{name}"
    if benchmark_id is None:
        return f"{series}@" if "@" in series else series
    return f"{series}@{benchmark_id}"

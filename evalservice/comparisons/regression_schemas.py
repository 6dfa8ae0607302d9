"""What the API takes and gives about regression alerts."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from evalservice.tables import RegressionAlert
from evalservice.web.fields import columns


class RegressionAlertChanges(BaseModel):
    """What may change: somebody has seen it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"acknowledged": True}]})

    acknowledged: Literal[True]


class RegressionAlertRead(BaseModel):
    """A run that is worse than its baseline, the first run of the same configuration or the one of the last alert.

    value, baseline_value, difference (value minus baseline_value) with its 95 % interval: in the metric's units, over
    the n test cases that both have scored. p_value: one-sided, of the look_number-th look at this baseline, which may
    spend alpha. retest_stderr: how far repeating alone moves the difference; null where nothing was repeated before.
    """

    id: uuid.UUID
    model: str
    model_id: uuid.UUID
    benchmark: str
    benchmark_id: uuid.UUID
    evaluation_run_id: uuid.UUID
    baseline_run_id: uuid.UUID
    metric: str
    value: float
    baseline_value: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    n: int
    test: str
    p_value: float
    alpha: float
    look_number: int
    retest_stderr: float | None
    created_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by_id: uuid.UUID | None

    @classmethod
    def of(cls, row: RegressionAlert) -> Self:
        """From the table."""
        own: dict[str, Any] = {"model": row.model.name, "benchmark": row.benchmark.name}
        return cls(**columns(row, cls, *own), **own)

"""`/v1/regression-alerts`: runs that are worse than the first run of the same configuration, beyond noise."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from evalservice.comparisons import regressions
from evalservice.comparisons.regression_schemas import RegressionAlertChanges, RegressionAlertRead
from evalservice.lookup import find
from evalservice.tables import BenchmarkSuite, Model, RegressionAlert
from evalservice.web.context import Reader, TenantRoute, Writer
from evalservice.web.pages import Filter, Page, Paging, page_of

regression_alerts = APIRouter(prefix="/regression-alerts", tags=["regression-alerts"], route_class=TenantRoute)


@regression_alerts.get("", response_model=Page[RegressionAlertRead])
def list_regression_alerts(
    context: Reader,
    paging: Paging,
    model: Filter = None,
    benchmark: Filter = None,
    acknowledged: Annotated[bool | None, Query(description="Only those that somebody, or nobody, has seen.")] = None,
    evaluation_run_id: uuid.UUID | None = None,
) -> Response:
    """The alerts, the newest first. `model` and `benchmark` are names or ids."""
    query = select(RegressionAlert).options(joinedload(RegressionAlert.model), joinedload(RegressionAlert.benchmark))
    if model is not None:
        query = query.where(RegressionAlert.model_id == find(context.session, Model, model, "model").id)
    if benchmark is not None:
        suite = find(context.session, BenchmarkSuite, benchmark, "benchmark")
        query = query.where(RegressionAlert.benchmark_id == suite.id)
    if acknowledged is not None:
        seen = RegressionAlert.acknowledged_at.is_not(None)
        query = query.where(seen if acknowledged else ~seen)
    if evaluation_run_id is not None:
        query = query.where(RegressionAlert.evaluation_run_id == evaluation_run_id)
    sorts = {"created_at": RegressionAlert.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, RegressionAlert.id, RegressionAlertRead.of))


@regression_alerts.get("/{alert_id}", response_model=RegressionAlertRead)
def read_regression_alert(context: Reader, alert_id: uuid.UUID) -> Response:
    """An alert: both runs, the difference, and the evidence for it."""
    return context.reply(RegressionAlertRead.of(regressions.alert_of(context.session, alert_id)))


@regression_alerts.patch("/{alert_id}", response_model=RegressionAlertRead)
def acknowledge_regression_alert(context: Writer, alert_id: uuid.UUID, changes: RegressionAlertChanges) -> Response:
    """Acknowledge an alert: who has seen it first, and when, is kept."""
    row = regressions.alert_of(context.session, alert_id, lock=True)
    context.check_unchanged(RegressionAlertRead.of(row))
    assert changes.acknowledged
    regressions.acknowledge(context.session, row, context.caller.user_id)
    return context.reply(RegressionAlertRead.of(row))

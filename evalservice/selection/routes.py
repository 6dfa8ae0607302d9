"""`/v1/selections`: the log of routing decisions, their replay, and what happened after them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime
from sqlalchemy import select

from evalservice.errors import NotFound
from evalservice.selection.outcomes import NewOutcome, record_outcome
from evalservice.selection.replaying import replayed
from evalservice.selection.schemas import OutcomeRead, Replay, SelectionDetail, SelectionRead, SelectionSummary
from evalservice.selection.summarizing import summary_of, window_of
from evalservice.tables import ModelSelectionLog
from evalservice.web.context import Context, Reader, TenantRoute, Writer
from evalservice.web.idempotency import Idempotent
from evalservice.web.pages import Filter, Moment, Page, Paging, page_of

selections = APIRouter(prefix="/selections", tags=["selections"], route_class=TenantRoute)

Outcome = Literal["success", "failed", "none"]
_SUCCESSFUL = {"success": True, "failed": False, "none": None}


@selections.get("", response_model=Page[SelectionRead])
def list_selections(
    context: Reader,
    paging: Paging,
    use_case: Filter = None,
    selected_model_id: uuid.UUID | None = None,
    policy_name: Filter = None,
    since: Moment = None,
    until: Moment = None,
    outcome: Outcome | None = None,
    shadow: bool | None = None,
) -> Response:
    """The decisions, the latest first. The time is [since, until); outcome none: it is not known whether it worked."""
    row = ModelSelectionLog
    query = select(row)
    if use_case is not None:
        query = query.where(row.use_case == use_case)
    if selected_model_id is not None:
        query = query.where(row.selected_model_id == selected_model_id)
    if policy_name is not None:
        query = query.where(row.policy_name == policy_name)
    if since is not None:
        query = query.where(row.created_at >= since)
    if until is not None:
        query = query.where(row.created_at < until)
    if outcome is not None:
        query = query.where(row.execution_successful.is_(_SUCCESSFUL[outcome]))
    if shadow is not None:
        query = query.where(row.is_shadow.is_(shadow))
    return context.reply(
        page_of(context.session, query, paging, {"created_at": row.created_at}, row.id, SelectionRead.of)
    )


@selections.get("/summary", response_model=SelectionSummary)
def summarize_selections(
    context: Reader,
    use_case: Filter = None,
    policy_name: Filter = None,
    since: Annotated[AwareDatetime | None, Query(description="Default: seven days before until.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Default: now.")] = None,
    limit: Annotated[int, Query(ge=1, le=100_000, description="The latest decisions, at most.")] = 20_000,
) -> Response:
    """The decisions of a time as a whole: shares, rejections, outcomes, regret and savings, each with its n."""
    window = window_of(since, until, datetime.now(UTC), use_case, policy_name, limit)
    return context.reply(summary_of(context.session, window))


@selections.get("/{selection_id}", response_model=SelectionDetail)
def read_selection(context: Reader, selection_id: uuid.UUID) -> Response:
    """One decision with everything that replays it."""
    return context.reply(SelectionDetail.of(_found(context, selection_id)))


@selections.get("/{selection_id}/replay", response_model=Replay)
def replay_selection(context: Reader, selection_id: uuid.UUID) -> Response:
    """Make the decision again from its log and compare: the same bit for bit, or where it differs."""
    return context.reply(replayed(_found(context, selection_id)))


@selections.post("/{selection_id}/outcome", response_model=OutcomeRead)
def report_outcome(context: Writer, selection_id: uuid.UUID, given: NewOutcome, once: Idempotent) -> Response:
    """What happened after a decision, whole or in parts, before or after the decision is stored. Repeating it changes
    nothing; it becomes evidence within seconds."""

    def work() -> Response:
        row = record_outcome(context.session, context.organization_id, selection_id, given)
        return context.reply(OutcomeRead.of(row))

    answer = once.answer(context, work)
    if given.cost is not None:
        context.request.app.state.routing.selector.budgets.settle(str(selection_id), float(given.cost))
    context.wiring.on_outcome(context.session, context.organization_id)
    return answer


def _found(context: Context, selection_id: uuid.UUID) -> ModelSelectionLog:
    row = context.session.get(ModelSelectionLog, selection_id)
    if row is None:
        raise NotFound("selection", str(selection_id))
    return row

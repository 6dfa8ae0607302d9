"""`/v1/selections`: the log of routing decisions."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Response
from sqlalchemy import select

from evalservice.errors import NotFound
from evalservice.selection.schemas import SelectionRead
from evalservice.tables import ModelSelectionLog
from evalservice.web.context import Reader, TenantRoute
from evalservice.web.pages import Filter, Page, Paging, page_of

selections = APIRouter(prefix="/selections", tags=["selections"], route_class=TenantRoute)


@selections.get("", response_model=Page[SelectionRead])
def list_selections(
    context: Reader, paging: Paging, use_case: Filter = None, selected_model_id: uuid.UUID | None = None
) -> Response:
    """The decisions, the latest first."""
    row = ModelSelectionLog
    query = select(row)
    if use_case is not None:
        query = query.where(row.use_case == use_case)
    if selected_model_id is not None:
        query = query.where(row.selected_model_id == selected_model_id)
    return context.reply(
        page_of(context.session, query, paging, {"created_at": row.created_at}, row.id, SelectionRead.of)
    )


@selections.get("/{selection_id}", response_model=SelectionRead)
def read_selection(context: Reader, selection_id: uuid.UUID) -> Response:
    """One decision."""
    row = context.session.get(ModelSelectionLog, selection_id)
    if row is None:
        raise NotFound("selection", str(selection_id))
    return context.reply(SelectionRead.of(row))

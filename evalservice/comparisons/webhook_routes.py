"""`/v1/webhooks`: addresses that are told of regression alerts, signed as Standard Webhooks does."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import select

from evalservice.comparisons import webhooks as service
from evalservice.tables import Webhook, WebhookDelivery
from evalservice.web.context import Admin, TenantRoute
from evalservice.web.fields import columns
from evalservice.web.idempotency import Idempotent
from evalservice.web.pages import Page, Paging, page_of

webhooks = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=TenantRoute)

Url = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[\x21-\x7e]+$")]


class NewWebhook(BaseModel):
    """Where to send. Every regression alert is POSTed there as JSON: type, timestamp, data (the alert)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"url": "https://hooks.example.com/evals"}]}
    )

    url: Url


class WebhookRead(BaseModel):
    """A webhook, without its secret."""

    id: uuid.UUID
    url: str
    created_at: datetime

    @classmethod
    def of(cls, row: Webhook) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class WebhookCreated(WebhookRead):
    """A new webhook and the secret that signs its messages (whsec_…), which is shown once."""

    secret: str | None


class DeliveryRead(BaseModel):
    """One alert for one webhook: how often it was tried, and what the last attempt gave."""

    id: uuid.UUID
    webhook_id: uuid.UUID
    regression_alert_id: uuid.UUID
    status: str
    attempts: int
    next_attempt_at: datetime | None
    response_status: int | None
    error: str
    delivered_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, row: WebhookDelivery) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


@webhooks.get("", response_model=Page[WebhookRead])
def list_webhooks(context: Admin, paging: Paging) -> Response:
    """The webhooks, the newest first."""
    sorts = {"created_at": Webhook.created_at}
    return context.reply(page_of(context.session, select(Webhook), paging, sorts, Webhook.id, WebhookRead.of))


@webhooks.post("", status_code=201, response_model=WebhookCreated)
def create_webhook(context: Admin, new: NewWebhook, once: Idempotent) -> Response:
    """Register an address. The secret is in this answer only; an answer that is repeated has it no more."""
    service.check_url(new.url, private=context.wiring.private_addresses)

    def work() -> Response:
        box, user = context.wiring.box, context.caller.user_id
        row, secret = service.create_webhook(context.session, box, context.organization_id, new.url, user_id=user)
        own: dict[str, Any] = columns(row, WebhookRead)
        return context.created(WebhookCreated(**own, secret=secret), row.id)

    return once.answer(context, work, keep=lambda body: {**body, "secret": None})


@webhooks.delete("/{webhook_id}", status_code=204)
def remove_webhook(context: Admin, webhook_id: uuid.UUID) -> Response:
    """Send nothing more there; what was to be sent, and what was, is forgotten."""
    context.session.delete(service.webhook(context.session, webhook_id))
    return Response(status_code=204)


@webhooks.get("/{webhook_id}/deliveries", response_model=Page[DeliveryRead])
def list_deliveries(context: Admin, webhook_id: uuid.UUID, paging: Paging) -> Response:
    """What was sent to a webhook, or is to be, the newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == service.webhook(context.session, webhook_id).id)
    sorts = {"created_at": WebhookDelivery.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, WebhookDelivery.id, DeliveryRead.of))

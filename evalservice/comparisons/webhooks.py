"""Webhooks: who is told of regression alerts, what they are told, and what came of it. Sending is `cluster.webhooks`.

A delivery is made in the transaction that makes the alert, and is pending until a receiver has answered 2xx. An attempt
is claimed before it is made and its outcome is noted after it, so that a process that dies in between leaves a delivery
that is tried again: at least once, never lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson
from pydantic import SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, joinedload

from evalservice.addresses import check_base_url
from evalservice.comparisons.regression_schemas import RegressionAlertRead
from evalservice.comparisons.signing import new_secret
from evalservice.errors import Conflict, InvalidInput, NotFound
from evalservice.organizations.secrets import SecretBox, origin_of
from evalservice.tables import RegressionAlert, Webhook, WebhookDelivery

MOST_WEBHOOKS = 10
EVENT = "regression_alert.created"
BACKOFF = tuple(timedelta(seconds=s) for s in (5, 300, 1800, 7200, 18_000, 36_000, 36_000))
"""Waits after the first attempt, the second, …, as Standard Webhooks recommends; after the last comes one attempt."""
MOST_ATTEMPTS = len(BACKOFF) + 1
CLAIMED_FOR = timedelta(seconds=60)
"""How long an attempt is nobody else's: longer than one may take."""
GONE = 410


@dataclass(frozen=True, slots=True)
class Message:
    """One attempt to be made: what is sent, where to, and the secret that signs it."""

    delivery_id: uuid.UUID
    organization_id: uuid.UUID
    url: str
    secret: SecretStr
    body: bytes
    attempt: int

    @property
    def message_id(self) -> str:
        """The same at every attempt: receivers know by it what they have had."""
        return f"msg_{self.delivery_id.hex}"


def check_url(url: str, *, private: bool) -> None:
    """Refuse what is no http(s) URL or must not be reached. Raises InvalidInput naming `url`."""
    try:
        check_base_url(url, private=private)
    except InvalidInput as error:
        accepted = error.accepted
        if "--api-key-env" in accepted:
            accepted = "an http:// or https:// URL without user, query and fragment: what is sent is signed instead"
        raise InvalidInput("url", error.value, accepted) from None


def create_webhook(
    session: Session, box: SecretBox, organization_id: uuid.UUID, url: str, *, user_id: uuid.UUID | None
) -> tuple[Webhook, str]:
    """A webhook at a checked address, and its secret, which is shown now and never again. Raises Conflict: too many."""
    if (session.scalar(select(func.count()).select_from(Webhook)) or 0) >= MOST_WEBHOOKS:
        raise Conflict(f"there are {MOST_WEBHOOKS} webhooks, which is the most: remove one first")
    secret = new_secret()
    sealed = box.seal(SecretStr(secret), organization_id, _bound(url))
    row = Webhook(organization_id=organization_id, url=url, encrypted_secret=sealed, created_by_id=user_id)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row, secret


def webhook(session: Session, webhook_id: uuid.UUID) -> Webhook:
    """A webhook. Raises NotFound."""
    row = session.get(Webhook, webhook_id)
    if row is None:
        raise NotFound("webhook", str(webhook_id))
    return row


def announce(session: Session, alert: RegressionAlert) -> None:
    """Make the deliveries of an alert, one for each webhook of its organization."""
    kept = select(Webhook.id).with_for_update(read=True, key_share=True)  # one that is removed now is told nothing
    for webhook_id in session.scalars(kept).all():
        session.add(
            WebhookDelivery(
                organization_id=alert.organization_id,
                webhook_id=webhook_id,
                regression_alert_id=alert.id,
                next_attempt_at=func.now(),
            )
        )
    session.flush()


def due_deliveries(session: Session, most: int) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(organization, delivery) of those that are due, the longest first. The session needs no organization."""
    query = text("SELECT organization_id, delivery_id FROM evalservice_due_webhook_deliveries(:most)")
    return [(organization, delivery) for organization, delivery in session.execute(query, {"most": most})]


def own_due_deliveries(session: Session, most: int) -> Sequence[uuid.UUID]:
    """Those of the session's organization that are due, the longest first."""
    return session.scalars(
        select(WebhookDelivery.id)
        .where(WebhookDelivery.status == "pending", WebhookDelivery.next_attempt_at <= func.now())
        .order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
        .limit(most)
    ).all()


def claim_delivery(session: Session, box: SecretBox, delivery_id: uuid.UUID) -> Message | None:
    """Count an attempt and give what is to be sent; None when it is not due, or somebody else is at it."""
    row = session.scalars(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.status == "pending",
            WebhookDelivery.next_attempt_at <= func.now(),
        )
        .options(joinedload(WebhookDelivery.webhook))
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    ).one_or_none()
    if row is None:
        return None
    if row.attempts >= MOST_ATTEMPTS:  # who made the last one died before its outcome was noted
        row.status, row.next_attempt_at = "failed", None
        return None
    row.attempts += 1
    row.next_attempt_at = func.now() + CLAIMED_FOR
    hook, alert = row.webhook, row.alert
    try:
        secret = box.open(hook.encrypted_secret, row.organization_id, _bound(hook.url))
    except Conflict as error:
        row.status, row.next_attempt_at, row.error = "failed", None, error.message[:500]
        return None
    data = RegressionAlertRead.of(alert).model_dump(mode="json")
    body = orjson.dumps({"type": EVENT, "timestamp": alert.created_at.isoformat(), "data": data})
    return Message(row.id, row.organization_id, hook.url, secret, body, row.attempts)


def note_outcome(session: Session, message: Message, status: int | None, error: str) -> str | None:
    """Store what an attempt gave (the answer's status, or why there was none); gives the delivery's status.

    2xx is delivered, 410 says that the receiver wants no more of this, everything else is tried again after a while.
    None when the webhook was removed meanwhile, or this attempt took so long that another was made.
    """
    row = session.get(WebhookDelivery, message.delivery_id, with_for_update=True)
    if row is None or row.status != "pending" or row.attempts != message.attempt:
        return None
    row.response_status, row.error = status, error[:500]
    if status is not None and 200 <= status < 300:
        row.status, row.delivered_at, row.next_attempt_at = "delivered", func.now(), None
    elif status == GONE or row.attempts >= MOST_ATTEMPTS:
        row.status, row.next_attempt_at = "failed", None
    else:
        row.next_attempt_at = func.now() + BACKOFF[row.attempts - 1]
    return row.status


def _bound(url: str) -> str:
    """What the secret is sealed for: a webhook's is no provider's credential, though both be for one origin."""
    return f"webhook {origin_of(url)}"

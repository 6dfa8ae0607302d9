"""Who is told of events over HTTP, and what came of telling them."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Index, Integer, LargeBinary, Uuid, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    Base,
    CreatedAt,
    CreatedBy,
    Identified,
    Owned,
    count,
    index,
    maybe_time,
    one_of,
    parent_key,
    same_organization,
    short,
)
from evalservice.tables.organizations import Organization
from evalservice.tables.regressions import RegressionAlert

DELIVERY_STATUSES = ("pending", "delivered", "failed")


class Webhook(Identified, Owned, CreatedBy, CreatedAt, Base):
    """An address that is told of an organization's regression alerts; its secret signs what it is sent."""

    __tablename__ = "webhooks"
    __table_args__ = (
        parent_key("webhooks"),
        index("webhooks", "organization_id", "-created_at"),
        index("webhooks", "created_by_id"),
    )

    url: Mapped[str] = short(2000)
    encrypted_secret: Mapped[bytes] = mapped_column(LargeBinary)

    organization: Mapped[Organization] = relationship()


class WebhookDelivery(Identified, Owned, CreatedAt, Base):
    """One alert for one webhook: made with the alert, sent at least once. Its id is the message's, at every attempt."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        same_organization("webhook_deliveries", "webhook_id", "webhooks", "CASCADE"),
        same_organization("webhook_deliveries", "regression_alert_id", "regression_alerts", "CASCADE"),
        one_of("status", DELIVERY_STATUSES),
        parent_key("webhook_deliveries"),
        index("webhook_deliveries", "organization_id", "-created_at"),
        index("webhook_deliveries", "regression_alert_id"),
        Index("uq_webhook_deliveries_webhook_id_regression_alert_id", "webhook_id", "regression_alert_id", unique=True),
        Index("ix_webhook_deliveries_due", "next_attempt_at", "id", postgresql_where=text("status = 'pending'")),
    )

    webhook_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    regression_alert_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    status: Mapped[str] = short(20, "pending")
    attempts: Mapped[int] = count()
    next_attempt_at: Mapped[datetime | None] = maybe_time()
    response_status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str] = short(500, "")
    delivered_at: Mapped[datetime | None] = maybe_time()

    webhook: Mapped[Webhook] = relationship(
        primaryjoin="WebhookDelivery.webhook_id == Webhook.id", foreign_keys="WebhookDelivery.webhook_id"
    )
    alert: Mapped[RegressionAlert] = relationship(
        primaryjoin="WebhookDelivery.regression_alert_id == RegressionAlert.id",
        foreign_keys="WebhookDelivery.regression_alert_id",
    )

"""Who: organizations, users, memberships, API keys, provider credentials and idempotency keys."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    MONEY,
    TIME,
    Base,
    CreatedAt,
    CreatedBy,
    Identified,
    Owned,
    Timestamps,
    flag,
    index,
    json_list,
    json_object,
    maybe_money,
    maybe_time,
    one_of,
    parent_key,
    short,
)

DEFAULT_ORGANIZATION_ID = uuid.UUID("00000000-0000-7000-8000-000000000001")
"""The organization `default`, made by the first migration."""
LOCAL_USER_ID = uuid.UUID("00000000-0000-7000-8000-000000000002")
"""The user `local`, its owner."""

ROLES = ("owner", "admin", "member", "viewer")


class Organization(Identified, Timestamps, Base):
    """A tenant and its limits; NULL is no limit."""

    __tablename__ = "organizations"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint("max_concurrent_runs > 0", name="max_concurrent_runs"),
        CheckConstraint("daily_spend_limit >= 0", name="daily_spend_limit"),
    )

    slug: Mapped[str] = short(100)
    name: Mapped[str] = short(200)
    max_concurrent_runs: Mapped[int | None] = mapped_column(Integer)
    daily_spend_limit: Mapped[Decimal | None] = maybe_money()
    settings: Mapped[dict[str, Any]] = json_object()


class DailySpend(Owned, Base):
    """What an organization's runs have reserved of its daily limit on a day (UTC), as long as it has one."""

    __tablename__ = "daily_spend"
    __table_args__ = (CheckConstraint("reserved_cost >= 0", name="reserved_cost"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    reserved_cost: Mapped[Decimal] = mapped_column(MONEY, default=Decimal(0), server_default=text("0"))


class User(Identified, Timestamps, Base):
    """A person or a program. Visible to an organization that it is a member of.

    A new user is invisible until its membership exists, so its insert must not read back what it wrote.
    """

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("username"),)
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    username: Mapped[str] = short(150)
    display_name: Mapped[str] = short(200, "")
    email: Mapped[str] = short(254, "")
    is_active: Mapped[bool] = flag(True)


class Membership(Owned, CreatedAt, Base):
    """A user's role in an organization."""

    __tablename__ = "memberships"
    __table_args__ = (one_of("role", ROLES), index("memberships", "user_id"))

    organization_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = short(20, "member")

    organization: Mapped[Organization] = relationship()
    user: Mapped[User] = relationship()


class ApiKey(Identified, Owned, CreatedAt, Base):
    """A key of one member: only its SHA-256 is stored. It acts with the member's role, narrowed by `scopes`."""

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["organization_id", "user_id"],
            ["memberships.organization_id", "memberships.user_id"],
            name="fk_api_keys_user_id",
            ondelete="CASCADE",
        ),
        UniqueConstraint("key_hash"),
        UniqueConstraint("organization_id", "name"),
        index("api_keys", "organization_id", "-created_at"),
        index("api_keys", "user_id"),
    )

    user_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    name: Mapped[str] = short(200)
    prefix: Mapped[str] = short(20)
    key_hash: Mapped[str] = short(64)
    scopes: Mapped[list[Any]] = json_list()
    expires_at: Mapped[datetime | None] = maybe_time()
    last_used_at: Mapped[datetime | None] = maybe_time()
    revoked_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()
    membership: Mapped[Membership] = relationship(
        primaryjoin="and_(ApiKey.organization_id == Membership.organization_id, ApiKey.user_id == Membership.user_id)",
        foreign_keys="ApiKey.user_id",
    )


class ProviderCredential(Identified, Owned, CreatedBy, Timestamps, Base):
    """A provider's secret, encrypted, for one origin (scheme, host, port). `key_id` names the key that encrypted it."""

    __tablename__ = "provider_credentials"
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        parent_key("provider_credentials"),
        CheckConstraint("requests_per_minute > 0", name="requests_per_minute"),
        CheckConstraint("tokens_per_minute > 0", name="tokens_per_minute"),
        index("provider_credentials", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    origin: Mapped[str] = short(300)
    encrypted_secret: Mapped[bytes] = mapped_column(LargeBinary)
    key_id: Mapped[str] = short(64, "")
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()


class IdempotencyKey(Identified, Owned, CreatedAt, Base):
    """The first answer to a POST with an Idempotency-Key. `response_status` is NULL while it is being made."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        UniqueConstraint("organization_id", "key"),
        index("idempotency_keys", "expires_at"),
    )

    key: Mapped[str] = short(255)
    method: Mapped[str] = short(10)
    path: Mapped[str] = short(500)
    request_hash: Mapped[str] = short(64)
    response_status: Mapped[int | None] = mapped_column(Integer)
    response_headers: Mapped[dict[str, Any]] = json_object()
    response_body: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    expires_at: Mapped[datetime] = mapped_column(TIME, server_default=text("now() + interval '1 day'"))

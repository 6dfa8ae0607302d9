"""What the API takes and gives about organizations, members, API keys and provider credentials."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from evalservice.organizations.identity import Permission
from evalservice.tables import ApiKey, Membership, Organization, ProviderCredential
from evalservice.web.fields import JsonObject, Name

Role = Literal["owner", "admin", "member", "viewer"]


def _header_safe(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value or len(value) > 8192 or not value.isascii() or not value.isprintable():
        raise ValueError("a key of 1 to 8192 printable ASCII characters")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_header_safe)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class OrganizationRead(_Read):
    """A tenant and its limits, which the operator sets; null is no limit."""

    id: uuid.UUID
    slug: str
    name: str
    max_concurrent_runs: int | None
    daily_spend_limit: Decimal | None
    settings: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class OrganizationLimits(_Given):
    """What the operator allows a tenant; null is no limit."""

    max_concurrent_runs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    daily_spend_limit: Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=10)] | None = None


class NewOrganization(OrganizationLimits):
    """A tenant to be made by the operator."""

    slug: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    name: Name


class OrganizationChanges(_Given):
    """What an owner may change."""

    name: Name | None = None
    settings: JsonObject | None = None


class MemberRead(BaseModel):
    """A user and their role here."""

    user_id: uuid.UUID
    username: str
    display_name: str
    email: str
    role: Role
    created_at: datetime

    @classmethod
    def of(cls, row: Membership) -> Self:
        """From the tables."""
        user = row.user
        return cls(
            user_id=user.id,
            username=user.username,
            display_name=user.display_name,
            email=user.email,
            role=row.role,  # type: ignore[arg-type]
            created_at=row.created_at,
        )


class NewMember(_Given):
    """A user to be made a member."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"username": "ada", "email": "ada@example.org", "role": "member"}]},
    )

    username: Annotated[str, StringConstraints(min_length=1, max_length=150, pattern=r"^[A-Za-z0-9._@+-]+$")]
    display_name: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] = ""
    email: Annotated[str, StringConstraints(max_length=254, pattern=r"^[^\x00-\x20]*$")] = ""
    role: Role = "member"


class MemberChanges(_Given):
    """A new role."""

    role: Role


class ApiKeyRead(_Read):
    """A key without its secret: only the first characters are kept."""

    id: uuid.UUID
    name: str
    prefix: str
    user_id: uuid.UUID
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class ApiKeyCreated(ApiKeyRead):
    """A key with its secret, this once. In a repetition by Idempotency-Key the secret is null."""

    key: str | None


class NewApiKey(_Given):
    """A key to make: of whom, for what, until when."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "nightly", "scopes": ["read", "write"], "expires_in_days": 90}]},
    )

    name: Name
    scopes: tuple[Permission, ...] = ()
    """What the key may do of what its user may; empty: all of it."""
    expires_in_days: Annotated[float, Field(gt=0, le=3660)] | None = None
    user_id: uuid.UUID | None = None
    """Whose key it is; the caller's own by default. Others' keys need the permission `owner`."""


class KeyRotation(_Given):
    """How long the old secret goes on working beside the new one."""

    grace_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 86_400


PerMinute = Annotated[int, Field(ge=1, le=10**12)]


class CredentialRead(_Read):
    """A provider's key: where it may be sent, never what it is."""

    id: uuid.UUID
    name: str
    origin: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None

    @classmethod
    def of(cls, row: ProviderCredential) -> Self:
        """From the table."""
        return cls.model_validate(row)


class NewCredential(_Given):
    """A provider's key, for one origin."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "openai", "base_url": "https://api.openai.com/v1", "secret": "sk-…"}]},
    )

    name: Name
    base_url: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    secret: Secret
    requests_per_minute: PerMinute | None = None
    """What the provider allows whoever uses the key, over all models; kept by the whole cluster."""
    tokens_per_minute: PerMinute | None = None


class CredentialChanges(_Given):
    """A new secret, or other limits: runs that start from now on use them, runs that go on keep the old secret."""

    secret: Secret | None = None
    requests_per_minute: PerMinute | None = None
    """null: no limit is known."""
    tokens_per_minute: PerMinute | None = None


def organization_read(row: Organization) -> OrganizationRead:
    """From the table."""
    return OrganizationRead.model_validate(row)


def key_read(row: ApiKey) -> ApiKeyRead:
    """From the table."""
    return ApiKeyRead.model_validate(row)

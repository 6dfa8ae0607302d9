"""Members and their API keys. Every function takes the tenant's session; edges commit."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from psycopg.errors import UniqueViolation
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from evalservice.database import set_organization
from evalservice.errors import AlreadyExists, Conflict, NotFound
from evalservice.organizations.identity import SHOWN_PREFIX_CHARS, Caller, hash_of, new_key, permissions_of
from evalservice.organizations.schemas import KeyRotation, NewApiKey, NewMember, NewOrganization, OrganizationLimits
from evalservice.tables import ApiKey, Membership, Organization, new_id

FIRST_KEY = "first"
"""The name of the key that an organization begins with."""
_ADD = text("SELECT evalservice_add_member(:id, :username, :display_name, :email, :role)")


def add_member(session: Session, new: NewMember) -> Membership:
    """Make a user and their membership in this organization. Raises AlreadyExists."""
    user_id = new_id()
    with _unique(session, f"username: {new.username!r} is taken"):
        session.execute(_ADD, {"id": user_id, **new.model_dump()})
    return member(session, user_id)


@contextmanager
def _unique(session: Session, message: str) -> Iterator[None]:
    """Raises AlreadyExists where the database says that a value is taken; the transaction goes on."""
    with session.begin_nested() as savepoint:
        try:
            yield
        except IntegrityError as error:
            if not isinstance(error.orig, UniqueViolation):
                raise
            savepoint.rollback()
            raise AlreadyExists(message) from None


def member(session: Session, user_id: uuid.UUID) -> Membership:
    """A member of this organization. Raises NotFound."""
    row = session.scalar(select(Membership).where(Membership.user_id == user_id).options(joinedload(Membership.user)))
    if row is None:
        raise NotFound("user_id", str(user_id), "no such member")
    return row


def change_role(session: Session, caller: Caller, user_id: uuid.UUID, role: str) -> Membership:
    """Raises NotFound, Forbidden (owners are made and unmade by owners), Conflict (the last owner stays one)."""
    row = member(session, user_id)
    _check_owners(session, caller, row, role)
    row.role = role
    session.flush()
    return row


def remove_member(session: Session, caller: Caller, user_id: uuid.UUID) -> None:
    """Remove a membership, and with it its keys. Raises as `change_role` does."""
    row = member(session, user_id)
    _check_owners(session, caller, row, "")
    session.delete(row)
    session.flush()


def _check_owners(session: Session, caller: Caller, row: Membership, role: str) -> None:
    if "owner" in (row.role, role):
        caller.require("owner")
    if row.role == "owner" and role != "owner":
        owners = session.scalars(select(Membership.user_id).where(Membership.role == "owner").with_for_update()).all()
        if len(owners) == 1:
            raise Conflict("role: the last owner of an organization stays one: make another owner first")


def create_key(session: Session, caller: Caller, new: NewApiKey) -> tuple[ApiKey, str]:
    """A new key of a member and its secret, which is nowhere else. Raises AlreadyExists, NotFound, Forbidden."""
    user_id = new.user_id or caller.user_id
    if user_id != caller.user_id:
        caller.require("owner")
    owner = member(session, user_id)
    for permission in permissions_of(owner.role, list(new.scopes)):
        caller.require(permission)  # type: ignore[arg-type]  # nobody hands out more than they have
    if session.scalar(select(ApiKey.id).where(ApiKey.name == new.name)) is not None:
        raise AlreadyExists(f"name: there is an API key {new.name!r}: give another name, or rotate it")
    expires = None if new.expires_in_days is None else datetime.now(UTC) + timedelta(days=new.expires_in_days)
    return _store(session, caller.organization_id, user_id, new.name, list(new.scopes), expires)


def _store(
    session: Session,
    organization_id: uuid.UUID,
    user_id: uuid.UUID,
    name: str,
    scopes: list[str],
    expires: datetime | None,
) -> tuple[ApiKey, str]:
    secret = new_key()
    row = ApiKey(
        organization_id=organization_id,
        user_id=user_id,
        name=name,
        prefix=secret[:SHOWN_PREFIX_CHARS],
        key_hash=hash_of(secret),
        scopes=list(scopes),
        expires_at=expires,
    )
    session.add(row)
    session.flush()
    return row, secret


def api_key(session: Session, key_id: uuid.UUID) -> ApiKey:
    """Raises NotFound."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("api_key", str(key_id))
    return row


def rotate_key(session: Session, caller: Caller, key_id: uuid.UUID, rotation: KeyRotation) -> tuple[ApiKey, str]:
    """A new secret under the key's name; the old one works on for the grace period, under a name that says so.

    Raises NotFound, Forbidden, Conflict (revoked, expired).
    """
    old = session.get(ApiKey, key_id, with_for_update=True)
    if old is None:
        raise NotFound("api_key", str(key_id))
    if old.revoked_at is not None:
        raise Conflict(f"api_key: {old.name!r} is revoked: create a new one")
    for permission in permissions_of(member(session, old.user_id).role, old.scopes):
        caller.require(permission)  # type: ignore[arg-type]
    name, now = old.name, session.execute(select(func.now())).scalar_one()
    if old.expires_at is not None and old.expires_at <= now:
        raise Conflict(f"api_key: {name!r} has expired: create a new one")
    lasts = old.expires_at
    end = now + timedelta(seconds=rotation.grace_seconds)
    old.expires_at = end if old.expires_at is None else min(end, old.expires_at)
    old.name = f"{name[:150]} (until {end:%Y-%m-%dT%H:%M:%S.%fZ})"
    session.flush()
    return _store(session, old.organization_id, old.user_id, name, old.scopes, lasts)


def revoke_key(session: Session, key_id: uuid.UUID) -> ApiKey:
    """From now on the key opens nothing. Revoking twice is once. Raises NotFound."""
    row = api_key(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = session.execute(select(func.now())).scalar_one()
        session.flush()
    return row


def first_key(session: Session, organization_id: uuid.UUID, user_id: uuid.UUID, name: str) -> str | None:
    """The secret of an organization's first key; None when it has had one."""
    if session.scalar(select(ApiKey.id).limit(1)) is not None:
        return None
    return _store(session, organization_id, user_id, name, [], None)[1]


def found_organization(session: Session, new: NewOrganization, owner: NewMember) -> tuple[Organization, str]:
    """A tenant, its first owner and the secret of that owner's first key.

    Takes a session of the database owner's login: the service may not make tenants. Raises AlreadyExists.
    """
    organization = Organization(id=new_id(), **new.model_dump())
    set_organization(session, organization.id)
    with _unique(session, f"slug: {new.slug!r} is taken"):
        session.add(organization)
        session.flush()
    member = add_member(session, owner)
    return organization, _store(session, organization.id, member.user_id, FIRST_KEY, [], None)[1]


def sweep(session: Session) -> int:
    """Delete the idempotency keys of all organizations whose day is over; gives how many."""
    return int(session.execute(text("SELECT evalservice_sweep()")).scalar_one())


def limit_organization(session: Session, slug: str, limits: OrganizationLimits) -> Organization:
    """Set an organization's limits, as the operator. Raises NotFound."""
    row = session.scalar(select(Organization).where(Organization.slug == slug).with_for_update())
    if row is None:
        raise NotFound("organization", slug)
    row.max_concurrent_runs, row.daily_spend_limit = limits.max_concurrent_runs, limits.daily_spend_limit
    session.flush()
    session.refresh(row)
    return row

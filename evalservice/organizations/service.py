"""What organizations own besides their measurements: provider credentials, encrypted and bound to one origin."""

from __future__ import annotations

import uuid

from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from evalservice.errors import AlreadyExists, Conflict, NotFound
from evalservice.organizations.secrets import SecretBox
from evalservice.tables import Model, ProviderCredential


def store_credential(
    session: Session,
    box: SecretBox,
    organization_id: uuid.UUID,
    *,
    name: str,
    origin: str,
    secret: SecretStr,
    user_id: uuid.UUID | None = None,
) -> ProviderCredential:
    """Store a secret under a name, for one origin; a credential of that name and origin gets the new secret."""
    unique_name = f"{name}@{origin}"[:200]
    stored = _named(session, unique_name)
    if stored is None:
        return create_credential(
            session, box, organization_id, name=unique_name, origin=origin, secret=secret, user_id=user_id
        )
    stored.encrypted_secret = box.seal(secret, organization_id, origin)
    session.flush()
    return stored


def create_credential(
    session: Session,
    box: SecretBox,
    organization_id: uuid.UUID,
    *,
    name: str,
    origin: str,
    secret: SecretStr,
    user_id: uuid.UUID | None = None,
) -> ProviderCredential:
    """A new credential. Raises AlreadyExists."""
    if _named(session, name) is not None:
        raise AlreadyExists(f"name: there is a credential {name!r}: give another name, or change its secret")
    row = ProviderCredential(
        organization_id=organization_id,
        name=name,
        origin=origin,
        encrypted_secret=box.seal(secret, organization_id, origin),
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    return row


def credential(session: Session, credential_id: uuid.UUID) -> ProviderCredential:
    """Raises NotFound."""
    row = session.get(ProviderCredential, credential_id)
    if row is None:
        raise NotFound("provider_credential", str(credential_id))
    return row


def replace_secret(session: Session, box: SecretBox, credential_id: uuid.UUID, secret: SecretStr) -> ProviderCredential:
    """A new secret for the same origin. Runs read it when they start. Raises NotFound."""
    row = credential(session, credential_id)
    row.encrypted_secret = box.seal(secret, row.organization_id, row.origin)
    session.flush()
    session.refresh(row)
    return row


def remove_credential(session: Session, credential_id: uuid.UUID) -> None:
    """Raises NotFound, Conflict while a model uses it."""
    row = credential(session, credential_id)
    used = session.scalars(select(Model.name).where(Model.credential_id == row.id).limit(5)).all()
    if used:
        raise Conflict(f"provider_credential: {row.name!r} is used by {', '.join(used)}: give these another one first")
    session.delete(row)
    session.flush()


def open_credential(
    session: Session, box: SecretBox, organization_id: uuid.UUID, credential_id: uuid.UUID, origin: str
) -> SecretStr:
    """The secret, for use at `origin` and nowhere else. Raises Conflict when the key or the origin is another."""
    row = session.get_one(ProviderCredential, credential_id)
    secret = box.open(row.encrypted_secret, organization_id, origin)
    row.last_used_at = session.execute(select(func.now())).scalar_one()
    return secret


def _named(session: Session, name: str) -> ProviderCredential | None:
    return session.scalar(select(ProviderCredential).where(ProviderCredential.name == name))

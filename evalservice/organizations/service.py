"""What organizations own besides their measurements: provider credentials, encrypted and bound to one origin."""

from __future__ import annotations

import uuid

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from evalservice.organizations.secrets import SecretBox
from evalservice.tables import ProviderCredential


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
    sealed = box.seal(secret, organization_id, origin)
    unique_name = f"{name}@{origin}"[:200]
    credential = session.execute(
        select(ProviderCredential).where(
            ProviderCredential.organization_id == organization_id, ProviderCredential.name == unique_name
        )
    ).scalar_one_or_none()
    if credential is None:
        credential = ProviderCredential(
            organization_id=organization_id,
            name=unique_name,
            origin=origin,
            encrypted_secret=sealed,
            created_by_id=user_id,
        )
        session.add(credential)
    else:
        credential.encrypted_secret = sealed
    session.flush()
    return credential


def open_credential(
    session: Session, box: SecretBox, organization_id: uuid.UUID, credential_id: uuid.UUID, origin: str
) -> SecretStr:
    """The secret, for use at `origin` and nowhere else. Raises Conflict when the key or the origin is another."""
    credential = session.get_one(ProviderCredential, credential_id)
    return box.open(credential.encrypted_secret, organization_id, origin)

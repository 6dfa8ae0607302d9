"""Who is calling: API keys, what a role may do, and what a key's scopes leave of it.

    evs_3kTq9…                      a key: the prefix `evs_` and 256 random bits in base 62, shown once
    SHA-256 of it, in hexadecimal   what is stored, and looked up by an index: keys are never compared byte by byte

A key acts with its member's role, narrowed by its scopes:

    viewer: read     member: read, write     admin: read, write, admin     owner: read, write, admin, owner
"""

from __future__ import annotations

import hashlib
import secrets
import string
import time
import uuid
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from evalservice.database import driver_connection
from evalservice.errors import Forbidden, Unauthenticated

Permission = Literal["read", "write", "admin", "owner"]
PERMISSIONS: Final[tuple[Permission, ...]] = ("read", "write", "admin", "owner")
_OF_ROLE: Final = {"viewer": PERMISSIONS[:1], "member": PERMISSIONS[:2], "admin": PERMISSIONS[:3], "owner": PERMISSIONS}
KEY_PREFIX: Final = "evs_"
SHOWN_PREFIX_CHARS: Final = 10
_ALPHABET: Final = string.digits + string.ascii_letters
_KEY_CHARS: Final = 43  # 62^43 > 2^256
_TOUCH_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """One user of one organization, and what this call may do."""

    organization_id: uuid.UUID
    user_id: uuid.UUID
    role: str
    permissions: frozenset[str]
    key_id: uuid.UUID

    def require(self, permission: Permission) -> None:
        """Raises Forbidden unless the call may do this."""
        if permission not in self.permissions:
            have = ", ".join(name for name in PERMISSIONS if name in self.permissions) or "nothing"
            raise Forbidden(f"this needs the permission {permission!r}; your key (role {self.role}) has {have}")


def permissions_of(role: str, scopes: list[str]) -> frozenset[str]:
    """What the role allows, narrowed by the scopes; no scopes narrow nothing."""
    allowed = frozenset(_OF_ROLE[role])
    return allowed & frozenset(scopes) if scopes else allowed


def new_key() -> str:
    """A new API key."""
    return KEY_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_KEY_CHARS))


def hash_of(key: str) -> str:
    """What is stored of a key. A plain SHA-256 suffices: 256 random bits cannot be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


_FIND = (
    "SELECT k.id, k.organization_id, k.user_id, k.role, k.scopes, "
    "set_config('evalservice.organization_id', k.organization_id::text, true) "
    "FROM evalservice_find_api_key(%s) AS k"
)
_TOUCH = text("UPDATE api_keys SET last_used_at = now() WHERE id = :id")


class Authenticator:
    """Finds a key's holder and makes the transaction theirs. Remembers only when it last noted a key's use."""

    def __init__(self) -> None:
        self._touched: dict[uuid.UUID, float] = {}

    def __call__(self, session: Session, key: str) -> Caller:
        """The caller; from here on the transaction sees their organization alone. Raises Unauthenticated."""
        row = driver_connection(session).execute(_FIND, (hash_of(key),)).fetchone()  # asked by every request
        if row is None:
            raise Unauthenticated("the API key is unknown, revoked or expired")
        key_id, organization_id, user_id, role, scopes, _ = row
        caller = Caller(organization_id, user_id, role, permissions_of(role, scopes), key_id)
        now = time.monotonic()
        if now - self._touched.get(key_id, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            session.execute(_TOUCH, {"id": key_id})
            self._touched[key_id] = now
            if len(self._touched) > 10_000:
                self._touched.clear()
        return caller

"""The secret key, and encryption of provider credentials with it.

Credentials are sealed by AES-256-GCM under a key derived with HKDF-SHA256 (RFC 5869); the organization and the origin
that the credential may be sent to are authenticated with it, so a row that was moved to another origin does not open.
"""

from __future__ import annotations

import os
import re
import secrets
import uuid
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr
from pyreqwest.http import Url

from evalservice.errors import Conflict, InvalidInput
from evalservice.settings import Settings

KEY_FILE = "secret.key"
_NONCE_BYTES = 12


class SecretBox:
    """Seals and opens secrets, and derives the service role's password, from one secret key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> SecretBox:
        """The key of EVALSERVICE_SECRET_KEY, else of HOME/secret.key, which is made with mode 0600 on first use."""
        if settings.secret_key is not None:
            key = settings.secret_key.get_secret_value()
            if len(key) < 16:
                raise InvalidInput("EVALSERVICE_SECRET_KEY", f"{len(key)} characters", "at least 16 characters")
            return cls(key.encode())
        return cls(_key_file(settings.home_path))

    def seal(self, secret: SecretStr, organization_id: uuid.UUID, origin: str) -> bytes:
        """nonce || ciphertext of a secret that may only be sent to `origin`."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = AESGCM(self._derived(b"provider-credentials"))
        return nonce + cipher.encrypt(nonce, secret.get_secret_value().encode(), _bound(organization_id, origin))

    def open(self, sealed: bytes, organization_id: uuid.UUID, origin: str) -> SecretStr:
        """The secret. Raises Conflict when the key is another than it was sealed with, or the origin differs."""
        cipher = AESGCM(self._derived(b"provider-credentials"))
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return SecretStr(cipher.decrypt(nonce, ciphertext, _bound(organization_id, origin)).decode())
        except InvalidTag:
            raise Conflict(
                f"the stored credential for {origin} cannot be decrypted: it was sealed with another "
                "EVALSERVICE_SECRET_KEY (or key file), or for another origin"
            ) from None

    def service_password(self) -> SecretStr:
        """The password of the login role evalservice_service."""
        return SecretStr(self._derived(b"service-role-password").hex())

    def _derived(self, purpose: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"evalservice/" + purpose).derive(self._key)


def origin_of(url: str) -> str:
    """scheme://host:port of a URL, lower case, the port always named: what a credential is bound to.

    The host is what the HTTP client will connect to, for it is the client's parser that finds it (WHATWG URL): in
    ASCII, `bücher.example` as xn--bcher-kva.example, `loc%61lhost` as localhost, what follows a backslash as the path.

    Raises InvalidInput naming `base_url` for what is no http(s) URL.
    """
    accepted = "an http:// or https:// URL such as https://api.openai.com/v1; a key is given with --api-key-env"
    try:
        parts = Url(url)
    except ValueError:
        raise InvalidInput("base_url", _without_secrets(url), accepted) from None
    carries_more = parts.username or parts.password or parts.query_string or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.host_str or carries_more:
        raise InvalidInput("base_url", _without_secrets(url), accepted)
    return f"{parts.scheme}://{parts.host_str}:{parts.port_or_known_default}"


def _without_secrets(url: str) -> str:
    """A URL for an error message: without user and password, query and fragment."""
    return re.sub(r"[?#].*", "?…", re.sub(r"//[^/@]*@", "//…@", url))


def _bound(organization_id: uuid.UUID, origin: str) -> bytes:
    return f"{organization_id}|{origin}".encode()


def _key_file(home: Path) -> bytes:
    path = home / KEY_FILE
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".{KEY_FILE}-{os.getpid()}-{secrets.token_hex(4)}"
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # atomic: of two first commands one wins, and the other reads the winner's key
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    key = path.read_text().strip()
    if not key:
        raise Conflict(f"the key file {path} is empty: restore it, or remove it and enter the provider keys again")
    return key.encode()

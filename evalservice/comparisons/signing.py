"""Signatures of webhooks as Standard Webhooks specifies them (https://www.standardwebhooks.com, symmetric keys, v1).

signed_headers("msg_2KWP", 1674087231, b'{"type": …}', "whsec_C2FVsBQI…")
-> {"webhook-id": "msg_2KWP", "webhook-timestamp": "1674087231", "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmf…"}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

PREFIX = "whsec_"
SECRET_BYTES = 32


def new_secret() -> str:
    """A random key of 256 bits, as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(message_id: str, timestamp: int, body: bytes, secret: str) -> dict[str, str]:
    """The three headers of a message. timestamp: seconds since 1970, of this attempt: receivers refuse old ones."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}

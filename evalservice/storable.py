"""JSON and text in the form that Postgres stores."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from evalservice.records import JSON


def dump(value: JSON) -> str:
    """JSON text that Postgres can store: a NUL character, which jsonb refuses, becomes U+FFFD, a lone surrogate ?.

    What is no JSON value (a scorer's details may hold anything) becomes the number or list that NumPy has for it, or
    its text.
    """
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:
        text = b"\\u0000"
    if b"\\u0000" in text:
        try:
            text = orjson.dumps(_storable(value), default=str, option=orjson.OPT_SERIALIZE_NUMPY)
        except (orjson.JSONEncodeError, RecursionError):
            text = b'"nested too deeply to be stored"'
    return text.decode()


def _storable(value: JSON) -> JSON:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, Mapping):
        return {storable_text(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def storable_text(text: str) -> str:
    """Text without NUL characters and lone surrogates, neither of which Postgres stores."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text

"""Reading what a provider answered: JSON of any shape, of which nothing is believed that was not looked at. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalservice.records import JSON, TokenLogprob

MAX_ERROR_MESSAGE = 500
MAX_TOKENS = 10_000_000
"""A count beyond the longest contexts is no count; it would not fit the columns that add counts up either."""
MAX_LOGPROBS = 1024
"""Tokens of an answer whose log probabilities are kept: the first ones."""


def object_at(value: JSON, *keys: str) -> dict[str, Any]:
    """The object under these keys, one inside the other; an empty one if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def objects_at(value: JSON, key: str) -> list[dict[str, Any]]:
    """The objects of the list under a key."""
    found = value.get(key) if isinstance(value, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def text_at(value: JSON, key: str) -> str:
    """The text under a key, "" if there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def count(value: JSON) -> int | None:
    """A number of tokens that can be believed."""
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS
    return value if valid else None


def total(counts: Iterable[int | None]) -> int | None:
    """The sum of the counts that are known; None if none is, or if the sum cannot be believed."""
    known = [each for each in counts if each is not None]
    return count(sum(known)) if known else None


def short_text(value: JSON) -> str | None:
    """A name that the provider gives, bounded."""
    return value[:200] if isinstance(value, str) else None


def error_text(status: int, message: str) -> str:
    """An error as it is stored: the status, and the provider's own words, bounded."""
    return (f"HTTP {status}" + (f": {message}" if message else ""))[:MAX_ERROR_MESSAGE]


def calls_text(calls: Sequence[tuple[str, JSON]]) -> str:
    """Tool calls (name, arguments) as the completion that they are: canonical JSON, the same for every provider.

    [("weather", {"city": "Paris"})] -> '[{"arguments":{"city":"Paris"},"name":"weather"}]'
    """
    listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return json.dumps(listed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parsed_arguments(text: JSON) -> JSON:
    """The arguments of a call: an object as it is, JSON text read, text that is no JSON kept as a text."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def logprobs_of(
    tokens: Sequence[Mapping[str, Any]], alternatives: Sequence[Sequence[Mapping[str, Any]]], key: str
) -> tuple[TokenLogprob, ...] | None:
    """`Completion.logprobs` of objects with a "token" and a log probability under `key`; None when there are none."""
    kept: list[TokenLogprob] = []
    for position, token in enumerate(tokens[:MAX_LOGPROBS]):
        pair = _logprob(token, key)
        if pair is None:
            continue
        others = alternatives[position] if position < len(alternatives) else ()
        kept.append((*pair, tuple(other for each in others[:20] if (other := _logprob(each, key)) is not None)))
    return tuple(kept) or None


def _logprob(token: Mapping[str, Any], key: str) -> tuple[str, float] | None:
    text, value = token.get("token"), token.get(key)
    if not isinstance(text, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not -1e6 <= value <= 0.001:  # a probability above one, or NaN
        return None
    return text[:200], round(float(value), 6)

"""What a provider says of its rate limits in the headers of its answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests and tokens that may be sent in a window, those that are left, and seconds until all are there again.

    None: the answer does not say. Windows are mostly a minute; what a provider counts as tokens is its own affair.
    """

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset: float | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset: float | None = None


def count_of(headers: Mapping[str, str], *names: str) -> int | None:
    """The first of these headers that holds a whole number from 0 on. (Azure says -1 where it does not know.)"""
    for name in names:
        text = (headers.get(name) or "").strip()
        if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
            return int(text)
    return None


def duration_seconds(text: str | None) -> float | None:
    """Seconds of a duration such as "1s", "6m0s", "12ms", "1h2m3.5s", or of a plain number; None for anything else."""
    text = (text or "").strip()[:40]
    found = _DURATION.fullmatch(text)
    if found and any(found.groups()):
        return sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < float("inf") else None


def seconds_until(moment: str | None, headers: Mapping[str, str]) -> float | None:
    """Seconds from the answer's own `Date` to an RFC 3339 moment, at least 0; None when either is not there.

    The provider's clock is compared with itself, so that it does not matter what this machine's says.
    """
    try:
        answered = parsedate_to_datetime(headers.get("date") or headers.get("Date") or "")
        then = datetime.fromisoformat((moment or "").strip())
    except (TypeError, ValueError):
        return None
    answered, then = (time if time.tzinfo else time.replace(tzinfo=UTC) for time in (answered, then))
    return max(0.0, (then - answered).total_seconds())

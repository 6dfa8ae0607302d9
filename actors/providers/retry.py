"""When to ask a provider again, and how long to wait first. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

DEFAULT_ATTEMPTS = 8
RETRIED_STATUSES = frozenset({408, 409, 425, 429})


def is_worth_retrying(status: int) -> bool:
    """Whether the same request may succeed a little later: 408, 409, 425, 429 and every 5xx."""
    return status in RETRIED_STATUSES or status >= 500


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    attempts: how often one request is sent at most. base, cap, longest_retry_after: seconds.
    """

    attempts: int = DEFAULT_ATTEMPTS
    base: float = 0.5
    cap: float = 30.0
    longest_retry_after: float = 300.0

    def delay(self, attempt: int, retry_after: float | None, rng: random.Random) -> float:
        """Seconds to wait after the `attempt`-th failure (1-based).

        A Retry-After of the server is a lower bound, with a little jitter on top so that waiters do not return at once.
        """
        jittered = rng.uniform(0.0, min(self.cap, self.base * 2.0 ** (attempt - 1)))
        if retry_after is None:
            return jittered
        return retry_after + rng.uniform(0.0, min(1.0, self.base))


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """The wait that a response asks for, in seconds, or None.

    Understands `retry-after-ms` (OpenAI), and `Retry-After` as seconds or as an HTTP date (RFC 9110, section 10.2.3).
    A date in the past is 0; what is neither is ignored.
    """
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None:
        value = _number(milliseconds)
        if value is not None:
            return value / 1000.0
    text = headers.get("Retry-After") or headers.get("retry-after")
    if text is None:
        return None
    value = _number(text)
    if value is not None:
        return value
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None

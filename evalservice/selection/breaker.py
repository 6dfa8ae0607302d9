"""A circuit breaker for one model, as a state machine over outcomes with their times. Pure.

    breaker = fold(Breaker(), now, 1.0)           after each outcome: closed → open on a burst of errors
    state_at(breaker, now)                        closed, open or half-open

It opens when among the latest outcomes (at most 40, of the last 5 minutes) the last m, for any m, have at least 5
failures, so many that a model at its normal rate would show them with a probability below 1e-6 / 40 (binomial; 40 runs
are looked at): 5 in a row for a sound model, 26 in a row for one that fails half its requests. The normal rate is a
discounted one of the outcomes before, never taken for less than 2 % or more than 50 %: a model that always fails a
third of its requests is no outage.

Open lasts 5 seconds, twice as long each time that it opens again, at most 5 minutes. Then it is half-open: one request
at a time tries the model (`probing`). Three successes close it, a failure opens it again. A clock that
was set back during an outage makes it half-open, never open for longer; forwards, a probe comes early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Self

WINDOW = 40  # outcomes
WINDOW_SECONDS = 300.0
LEAST_FAILURES = 5
FALSE_ALARM = 1e-6 / WINDOW
LOWEST_RATE, HIGHEST_RATE = 0.02, 0.5
RATE_PRIOR_N = 50.0  # outcomes at the lowest rate, before there are any
RATE_HALF_LIFE = 1_000.0
COOL_DOWN, LONGEST_COOL_DOWN = 5.0, 300.0  # seconds
QUIET = 600.0  # seconds closed, after which an outage has nothing to do with the one before
SUCCESSES_TO_CLOSE = 3
CLOCK_DISORDER = 60.0  # seconds by which times may come out of order

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """One model's breaker. Times are seconds since the epoch.

    recent: (time, failed) of the latest outcomes, while closed. normal_n, normal_failures: discounted, of the outcomes
    before those. opened: when it opened, None while it is closed. opens: how often since it was quiet.
    successes: since it is half-open. closed: when it last closed, None before it ever opened.
    """

    recent: tuple[tuple[float, int], ...] = ()
    normal_n: float = 0.0
    normal_failures: float = 0.0
    opened: float | None = None
    opens: int = 0
    successes: int = 0
    closed: float | None = None

    def stored(self) -> list[Any]:
        """As JSON values, for `restored`."""
        recent = [[time, failed] for time, failed in self.recent]
        return [recent, *(getattr(self, name) for name in self.__slots__[1:])]

    @classmethod
    def restored(cls, kept: list[Any]) -> Self:
        """The breaker whose `stored` that is."""
        return cls(tuple((time, failed) for time, failed in kept[0]), *kept[1:])


def state_at(breaker: Breaker, now: float) -> State:
    """closed: serves. open: serves nothing. half-open: serves one request at a time, see `probing`."""
    if breaker.opened is None:
        return "closed"
    return "open" if _lasts(breaker.opened, cool_down(breaker.opens), now) else "half-open"


def cool_down(opens: int) -> float:
    """Seconds that it is open for when it opens for the n-th time in a row."""
    return float(min(COOL_DOWN * 2.0 ** min(opens - 1, 16), LONGEST_COOL_DOWN))


def fold(breaker: Breaker, time: float, success: float) -> Breaker:
    """The breaker after an outcome. success: 1 or 0; anything else, or a time that is not finite, changes nothing.

    While it is open, outcomes are late ones of before and count for nothing. While it is half-open each counts, whoever
    sent it: another replica's probe is as good as our own.
    """
    if success not in (0.0, 1.0) or not math.isfinite(time):
        return breaker
    failed = int(success == 0)
    state = state_at(breaker, time)
    if state == "open":
        return breaker
    if state == "half-open":
        return _tried(breaker, time, failed)
    return _watched(breaker, time, failed)


def _lasts(since: float, seconds: float, now: float) -> bool:
    return since - CLOCK_DISORDER <= now < since + seconds


def _tried(breaker: Breaker, time: float, failed: int) -> Breaker:
    if failed:
        return replace(breaker, opened=time, opens=breaker.opens + 1, successes=0)
    if breaker.successes + 1 < SUCCESSES_TO_CLOSE:
        return replace(breaker, successes=breaker.successes + 1)
    return replace(breaker, opened=None, successes=0, closed=time)


def _watched(breaker: Breaker, time: float, failed: int) -> Breaker:
    recent = (*breaker.recent, (time, failed))
    fresh = tuple(each for each in recent if abs(time - each[0]) <= WINDOW_SECONDS)
    stale = tuple(each for each in recent if abs(time - each[0]) > WINDOW_SECONDS)
    watched = replace(_normal(breaker, stale + fresh[:-WINDOW]), recent=fresh[-WINDOW:])
    if not (failed and _burst([was for _, was in watched.recent], normal_rate(watched))):
        return watched
    again = breaker.closed is not None and abs(time - breaker.closed) < QUIET
    # the burst counts too, or a model that always fails a third of its requests would never be known for it
    tripped = replace(_normal(watched, watched.recent), recent=())
    return replace(tripped, opened=time, opens=breaker.opens + 1 if again else 1, successes=0)


def _normal(breaker: Breaker, outcomes: tuple[tuple[float, int], ...]) -> Breaker:
    """With these outcomes in the normal rate."""
    n, failures, keep = breaker.normal_n, breaker.normal_failures, 0.5 ** (1 / RATE_HALF_LIFE)
    for _, failed in outcomes:
        n, failures = n * keep + 1.0, failures * keep + failed
    return replace(breaker, normal_n=n, normal_failures=failures)


def normal_rate(breaker: Breaker) -> float:
    """The share of failures that is normal for this model."""
    rate = (breaker.normal_failures + RATE_PRIOR_N * LOWEST_RATE) / (breaker.normal_n + RATE_PRIOR_N)
    return min(max(rate, LOWEST_RATE), HIGHEST_RATE)


def _burst(failed: list[int], rate: float) -> bool:
    failures = 0
    # rounded up, so that the table of tails stays small
    normal = math.ceil(rate * 200) / 200
    for m, was in enumerate(reversed(failed), start=1):
        failures += was
        if was and failures >= LEAST_FAILURES and _tail(failures, m, normal) < FALSE_ALARM:
            return True
    return False


@lru_cache(maxsize=32_768)
def _tail(failures: int, n: int, rate: float) -> float:
    """The probability of at least so many failures among n."""
    return sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(failures, n + 1))

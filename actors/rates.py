"""How much may be sent, and by whom: token buckets, a concurrency that adapts, fair shares. Pure; time is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")

USED_OF_LIMIT = 0.98
"""Of a limit per minute this much is used: what is left takes up that requests arrive less evenly than they are sent,
so that the provider, whose minute may begin at any moment, has nothing to refuse."""
BURST_SECONDS = 0.5


class TokenBucket:
    """A token bucket (RFC 2697, section 3, with one rate): so many tokens a minute, and few of them at once.

    Its level may be negative: what turned out to be more than was taken is paid for by waiting.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self.set_rate(per_minute)
        self._level = min(1.0, self._capacity)
        self._at = now

    def set_rate(self, per_minute: float) -> None:
        """Tokens a minute from now on."""
        self._rate = per_minute * USED_OF_LIMIT / 60.0
        self._capacity = max(1.0, self._rate * BURST_SECONDS)

    def available(self, now: float) -> float:
        """Tokens that may be taken at `now` (seconds of any clock that does not go back)."""
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def take(self, tokens: float) -> None:
        """Take tokens; a negative number gives them back."""
        self._level = min(self._capacity, self._level - tokens)


class AdaptiveConcurrency:
    """How many requests a provider takes at once, found by additive increase and multiplicative decrease.

    Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in computer networks",
    1989. It shrinks at most once a `CALM_SECONDS`, because one overload refuses many requests, and grows only while
    nearly all of it is used: what nobody asks for says nothing about what could be had.
    """

    CALM_SECONDS = 1.0
    SHRINK = 0.7
    GROWTH = 0.05
    """A second, of the window; at least one request."""
    USED = 0.8

    def __init__(self, most: float, now: float) -> None:
        self.most = most
        self._window: float | None = None
        self._calm_until = self._grown_at = now

    @property
    def window(self) -> float:
        """Requests in flight at most."""
        return self.most if self._window is None else min(self.most, self._window)

    def refused(self, in_flight: float, now: float) -> bool:
        """The provider answered that it was asked too much; whether that shrinks the window."""
        if now < self._calm_until:
            return False
        self._window = max(1.0, min(self.window, max(in_flight, 1.0)) * self.SHRINK)
        self._calm_until = self._grown_at = now + self.CALM_SECONDS
        return True

    def answered(self, in_flight: float, now: float) -> bool:
        """Requests were answered while so many were in flight; whether that lets the window grow."""
        if self._window is None or now <= self._grown_at:
            return False
        if in_flight < self.USED * self._window:
            self._grown_at = now
            return False
        self._window += max(1.0, self._window * self.GROWTH) * min(1.0, now - self._grown_at)
        self._grown_at = now
        if self._window >= self.most:
            self._window = None
        return True


@dataclass(frozen=True, slots=True)
class Demand:
    """What one holder of permits could use, and which run it works for."""

    run: str
    wanted: float


def fair_shares(demands: Mapping[K, Demand], supply: float, served: Mapping[K, float] | None = None) -> dict[K, int]:
    """Whole shares of `supply`: max-min fair between runs first, then between the holders of each run.

    Nobody gets more than is wanted, what one leaves the others get (Bertsekas and Gallager, "Data Networks", 6.5.2).
    What cannot be divided goes to who was served least (`served`) lately.
    """
    by_run: dict[str, list[K]] = {}
    for key, demand in demands.items():
        if demand.wanted >= 1.0:
            by_run.setdefault(demand.run, []).append(key)
    got = served or {}
    runs = {run: sum(got.get(key, 0.0) for key in keys) for run, keys in by_run.items()}
    wanted = {run: sum(int(demands[key].wanted) for key in by_run[run]) for run in runs}
    shares = dict.fromkeys(demands, 0)
    for run, share in _max_min(wanted, int(supply), runs).items():
        of_run = {key: int(demands[key].wanted) for key in by_run[run]}
        shares.update(_max_min(of_run, share, got))
    return shares


def _max_min(wanted: Mapping[K, int], supply: int, served: Mapping[K, float]) -> dict[K, int]:
    left, level = float(max(0, supply)), 0.0
    for position, amount in enumerate(sorted(wanted.values())):
        level = left / (len(wanted) - position)
        if amount >= level:
            break
        left -= amount
        level = float(amount)
    shares = {key: min(amount, int(level)) for key, amount in wanted.items()}
    rest = max(0, supply) - sum(shares.values())
    unsatisfied = sorted((key for key in wanted if shares[key] < wanted[key]), key=lambda key: served.get(key, 0.0))
    for key in unsatisfied[:rest]:
        shares[key] += 1
    return shares

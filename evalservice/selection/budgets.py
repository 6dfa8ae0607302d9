"""The pacers of one process: a budget per stored policy version, or per set of parameters asked for by name."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from evalservice.selection.deciding import PolicyVersion
from evalservice.selection.pacing import Pacer, allowance, begin, begin_daily, charge, price


@dataclass(frozen=True, slots=True)
class Pace:
    """What a budget says of a request: the price of a dollar in quality, and the dollars that it may cost at most."""

    price: float
    allowance: float


UNBOUNDED = Pace(0.0, math.inf)
"""Of a policy without a budget."""


class Budgets:
    """Pacers by policy version, of this process. A mean cost per request holds over all replicas when each holds it; an
    amount per day is each replica's own, from its start."""

    def __init__(self) -> None:
        self._pacers: dict[str, Pacer] = {}
        self._lock = threading.Lock()

    def pace(self, policy: PolicyVersion, now: float) -> Pace:
        """How the budget stands. now: seconds of the epoch."""
        with self._lock:
            pacer = self._pacer(policy, now)
        return Pace(price(pacer, now), allowance(pacer, now))

    def charge(self, policy: PolicyVersion, cost: float, now: float) -> None:
        """A request was decided whose expected cost is `cost` US dollars; NaN is counted and charges nothing."""
        with self._lock:
            self._pacers[_key(policy)] = charge(self._pacer(policy, now), cost, now)

    def _pacer(self, policy: PolicyVersion, now: float) -> Pacer:
        found = self._pacers.get(_key(policy))
        if found is None:
            daily = policy.budget.get("usd_per_day")
            found = begin(policy.budget["mean_cost_usd"]) if daily is None else begin_daily(daily, now)
            self._pacers[_key(policy)] = found
        return found


def _key(policy: PolicyVersion) -> str:
    return policy.id or policy.name

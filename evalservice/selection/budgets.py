"""The pacers of one process: a budget per stored policy version, or per set of parameters asked for by name."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

from evalservice.selection.deciding import Decision, PolicyVersion
from evalservice.selection.pacing import Pacer, affordable, allowance, begin, begin_daily, charge, price, settle

MOST_CHARGED = 100_000
"""Decisions whose costs may still be told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a budget says of a request: the price of a dollar in quality, and the dollars that it may cost at most."""

    price: float
    allowance: float


UNBOUNDED = Pace(0.0, math.inf)
"""Of a policy without a budget."""


class Budgets:
    """Pacers by policy version, of this process. A mean cost per request holds over all replicas when each holds it; an
    amount per day is each replica's own, from its start. What a request cost is settled where it was decided, when its
    outcome is told there; elsewhere it corrects the estimates alone."""

    def __init__(self) -> None:
        self._pacers: dict[str, Pacer] = {}
        self._charged: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def pace(self, policy: PolicyVersion, now: float) -> Pace:
        """How the policy's budget stands, where it has one. now: seconds of the epoch."""
        if not policy.budget:
            return UNBOUNDED
        with self._lock:
            pacer = self._pacer(policy, now)
        return Pace(price(pacer, now), allowance(pacer, now))

    def charge(self, decision: Decision, own: str) -> None:
        """A request was decided; `own` is the selection's id. An expected cost that is not known charges nothing."""
        policy = decision.policy
        if not policy.budget or decision.chosen is None:
            return
        cost = decision.candidates.cost.item(decision.chosen)
        with self._lock:
            self._pacers[_key(policy)] = charge(self._pacer(policy, decision.now), cost, decision.now)
            self._charged[own] = (_key(policy), cost if cost == cost else 0.0)
            if len(self._charged) > MOST_CHARGED:
                self._charged.popitem(last=False)

    def settle(self, own: str, cost: float) -> None:
        """What a request that was charged here has cost, in US dollars; the first time that it is told."""
        with self._lock:
            key, expected = self._charged.pop(own, (None, 0.0))
            if key is not None:
                self._pacers[key] = settle(self._pacers[key], expected, cost)

    def holdable(self, decision: Decision) -> bool:
        """Whether the budget pays for the cheapest candidate of each request at all."""
        if not decision.policy.budget:
            return True
        with self._lock:
            pacer = self._pacer(decision.policy, decision.now)
        return affordable(pacer, decision.candidates.cost, decision.now).holdable

    def _pacer(self, policy: PolicyVersion, now: float) -> Pacer:
        found = self._pacers.get(_key(policy))
        if found is None:
            daily = policy.budget.get("usd_per_day")
            found = begin(policy.budget["mean_cost_usd"]) if daily is None else begin_daily(daily, now)
            self._pacers[_key(policy)] = found
        return found


def _key(policy: PolicyVersion) -> str:
    return policy.id or policy.name

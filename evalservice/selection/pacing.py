"""Budget pacing: a price of money, in quality per dollar, that rises as spending runs ahead of the budget. Pure.

    pacer = begin(0.001)                          or begin_daily(25.0, now): dollars a UTC day
    price(pacer, now)                             what a policy maximises is quality - price * cost
    affordable(pacer, expected_costs, now)        which models fit the money that has accrued; is the budget holdable?
    pacer = charge(pacer, cost, now)              after each request, with what it cost
    pacer = settle(pacer, expected, actual)       where the expected cost was charged and the actual one came later

The price is the dual variable of "maximise quality subject to the mean cost", moved multiplicatively by the relative
overspending of each request (dual mirror descent: Balseiro, Lu, Mirrokni, "The best of many worlds", Operations
Research 2023; for contextual bandits Agrawal and Devanur, "Linear contextual bandits with knapsacks", 2016). Dual
descent alone bounds the overspending by a multiple of √n; what accrued and was not spent (`credit`) steers the price as
well, and what does not fit the credit is not eligible, so that the mean cost holds at every n up to the last request.

Several replicas: a mean cost per request holds for all when each holds it for its own requests; of money per day each
takes its share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from evalservice.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DAY = 86_400.0
CLOCK_DISORDER = 300.0  # seconds by which times may come out of order; a longer step back is a clock that was set

# Chosen on `four_models` for budgets from $0.0001 to $0.01, as are the bounds. Money is in units of one request's.
STEP = 0.02  # of the log price, for a request that costs one unit more than the budget
HORIZON = 100.0  # requests over which credit is spent
PULL = 0.1  # of the log price, at once, for a unit of credit
MOST_PULLED = 50.0  # units
LONGEST_STEP = 50.0  # units that one request can cost as far as the price is concerned: costs have heavy tails
CUSHION = 30.0  # units of credit that are aimed at, so that one dear request does not overspend
CUSHION_SHARE = 0.1  # of the requests so far, where that is less
MOST_SAVED = 200.0  # units of credit; what is beyond was no use to anybody and is no licence to waste
OPENING_PRICE = 0.01  # quality that one unit is worth before anything is known
LOWEST_PRICE, HIGHEST_PRICE = 1e-4, 10.0
OPENING_GAP = 60.0  # seconds between requests before any came
GAP_WEIGHT = 0.05  # of the latest gap in the running mean
LONGEST_GAP = 100.0  # running means that one gap counts for: a night's silence says little about the day


@dataclass(frozen=True, slots=True)
class Pacer:
    """A budget and how it stands.

    budget: USD per request or per UTC day, as `basis` says. log_price: of one unit of money (what accrues for one
    request). credit: accrued and not spent, in USD; negative is debt. spent: USD, count: requests, since the beginning.
    today: requests of this UTC day, gap: running mean of seconds between requests, last: seconds since the epoch when
    the pacer was last charged; these three are of use to a daily budget only. ignored: costs that were no costs.
    """

    basis: Literal["request", "day"]
    budget: float
    log_price: float = math.log(OPENING_PRICE)
    credit: float = 0.0
    spent: float = 0.0
    count: int = 0
    today: int = 0
    gap: float = 0.0
    last: float = 0.0
    ignored: int = 0

    def stored(self) -> list[Any]:
        """As JSON values, for `restored`."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def restored(cls, kept: list[Any]) -> Self:
        """The pacer whose `stored` that is."""
        return cls(*kept)


@dataclass(frozen=True, slots=True)
class Affordable:
    """What the budget allows now. models: [k], at least one is True. holdable: whether the budget can be held at all;
    where it cannot, the cheapest models are all that is left."""

    models: Bools
    holdable: bool


def begin(usd_per_request: float) -> Pacer:
    """A pacer for a mean cost per request. Raises InvalidInput for what is no positive amount."""
    return Pacer("request", _positive("budget.usd_per_request", usd_per_request))


def begin_daily(usd_per_day: float, now: float) -> Pacer:
    """A pacer for money per UTC day, today's pro rata. now: seconds since the epoch.

    What a day leaves unspent ends with it; what it overspent is the next day's debt. Raises InvalidInput as `begin`.
    """
    start = now if math.isfinite(now) else 0.0
    return Pacer("day", _positive("budget.usd_per_day", usd_per_day), gap=OPENING_GAP, last=start)


def price(pacer: Pacer, now: float) -> float:
    """Quality per dollar, positive and finite."""
    seen = _accrued(pacer, now)
    units = _ahead(seen) / _unit(seen)
    pull = PULL * max(-MOST_PULLED, min(units, MOST_PULLED))
    return math.exp(seen.log_price - pull) / _unit(seen)


def affordable(pacer: Pacer, cost: Floats, now: float) -> Affordable:
    """The models whose expected cost (USD, [k]; NaN: unknown, taken for the dearest) fits what has accrued, what
    accrues for this request included; where none fits, the cheapest. [] gives []."""
    models = fitting(cost, allowance(pacer, now))
    known = np.isfinite(cost)
    return Affordable(models, not known.any() or float(cost[known].min()) <= _unit(_accrued(pacer, now)))


def allowance(pacer: Pacer, now: float) -> float:
    """The USD that a request may cost now; negative in debt."""
    seen = _accrued(pacer, now)
    return seen.credit + (seen.budget if seen.basis == "request" else 0.0)


def fitting(cost: Floats, money: float) -> Bools:
    """Which expected costs (USD, [k]; NaN: unknown, taken for the dearest) are within `money`; where none is, the
    lowest; all, where none is known."""
    known = np.isfinite(cost)
    if not known.any():
        return np.ones(len(cost), dtype=bool)
    filled = np.where(known, cost, cost[known].max())
    within: Bools = filled <= max(money, float(filled.min()))
    return within


def charge(pacer: Pacer, cost: float, now: float) -> Pacer:
    """After a request that cost so many USD. What is no cost (NaN, infinite, negative) is counted in `ignored` and
    changes nothing else."""
    if not (math.isfinite(cost) and cost >= 0):
        return replace(pacer, ignored=pacer.ignored + 1)
    seen = _accrued(pacer, now)
    if seen.basis == "request":
        most = MOST_SAVED * seen.budget
        paid = replace(seen, credit=min(seen.credit + seen.budget - cost, most))
    else:
        paid = _timed(pacer, replace(seen, credit=seen.credit - cost))
    paid = replace(paid, spent=paid.spent + cost, count=paid.count + 1, today=paid.today + 1)
    return _repriced(paid, cost / _unit(paid) - 1)


def settle(pacer: Pacer, expected: float, actual: float) -> Pacer:
    """After the actual cost of a request came that was charged with the expected one; both in USD. What is no cost is
    ignored as in `charge`."""
    if not (math.isfinite(actual) and actual >= 0 and math.isfinite(expected) and expected >= 0):
        return replace(pacer, ignored=pacer.ignored + 1)
    more = actual - expected
    step = STEP * max(-LONGEST_STEP, min(more / _unit(pacer), LONGEST_STEP))
    return replace(
        pacer, credit=pacer.credit - more, spent=pacer.spent + more, log_price=_bounded(pacer.log_price + step)
    )


def _positive(field: str, usd: float) -> float:
    if not (math.isfinite(usd) and usd > 0):
        raise InvalidInput(field, usd, "a positive number of dollars")
    return float(usd)


def _unit(pacer: Pacer) -> float:
    """Money that accrues for one request, in USD."""
    if pacer.basis == "request":
        return pacer.budget
    return pacer.budget * max(pacer.gap, 1e-3) / DAY


def _ahead(pacer: Pacer) -> float:
    """Credit beyond the cushion, in USD."""
    requests = pacer.count if pacer.basis == "request" else pacer.today
    return pacer.credit - _unit(pacer) * min(CUSHION, CUSHION_SHARE * requests)


def _repriced(pacer: Pacer, over: float) -> Pacer:
    """The price after a request that cost `over` units more than its own."""
    ahead = max(-HORIZON, min(_ahead(pacer) / _unit(pacer), HORIZON))
    step = STEP * (max(-1.0, min(over, LONGEST_STEP)) - ahead / HORIZON)
    return replace(pacer, log_price=_bounded(pacer.log_price + step))


def _bounded(log_price: float) -> float:
    return max(math.log(LOWEST_PRICE), min(log_price, math.log(HIGHEST_PRICE)))


def _accrued(pacer: Pacer, now: float) -> Pacer:
    """The pacer with what time has brought until now; a clock that went back brings nothing."""
    if pacer.basis == "request" or not math.isfinite(now) or pacer.last - CLOCK_DISORDER <= now <= pacer.last:
        return pacer
    if now < pacer.last:
        return replace(pacer, last=now)
    midnight = now - now % DAY
    if pacer.last >= midnight:
        return replace(pacer, credit=pacer.credit + pacer.budget * (now - pacer.last) / DAY, last=now)
    left = min(0.0, pacer.credit + pacer.budget * (midnight - pacer.last) / DAY)
    return replace(pacer, credit=left + pacer.budget * (now - midnight) / DAY, last=now, today=0)


def _timed(before: Pacer, after: Pacer) -> Pacer:
    """With the time since the request before in the running mean of gaps."""
    gap = min(max(0.0, after.last - before.last), LONGEST_GAP * before.gap + 1.0)
    weight = max(GAP_WEIGHT, 1 / (before.count + 1))
    return replace(after, gap=before.gap + weight * (gap - before.gap))

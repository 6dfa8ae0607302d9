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
HORIZON = 100.0  # requests over which credit is spent, at least
DAY_PART = 0.25  # of the requests that a day still expects, over which its credit is spent where they are more
PULL = 10.0  # of the log price, at once, for as many units of credit as the horizon has requests
MOST_PULLED = 5.0  # of the log price
LONGEST_STEP = 50.0  # units that one request can cost as far as the price is concerned: costs have heavy tails
CUSHION = 30.0  # units of credit that are aimed at, so that one dear request does not overspend
CUSHION_SHARE = 0.1  # of the requests so far, where that is less
MOST_SAVED = 200.0  # units of credit; what is beyond was no use to anybody and is no licence to waste
OPENING_PRICE = 0.01  # quality that one unit is worth before anything is known
LOWEST_PRICE, HIGHEST_PRICE = 1e-4, 10.0
# A day's money accrues as its requests come, by the traffic of the days before; a tenth of it evenly all the same.
EVENLY = (1 / 24,) * 24
EVEN_PART = 0.1
LATEST_DAY = 0.5  # weight of the latest day in the traffic expected
# Requests a day, before any day has passed and after: what is expected weighs as much as this part of a day.
OPENING_TRAFFIC, OPENING_WEIGHT, WEIGHT = 1_440.0, 0.01, 0.25


@dataclass(frozen=True, slots=True)
class Pacer:
    """A budget and how it stands.

    budget: USD per request or per UTC day, as `basis` says. log_price: of one unit of money (what accrues for one
    request). credit: accrued and not spent, in USD; negative is debt. spent: USD, count: requests, since the beginning.
    ignored: costs that were no costs. Of a daily budget: last, when it was last charged, in seconds since the epoch;
    passed, the share of today's money that has accrued; today, its requests by the hour; traffic, requests expected of
    a day, 0 before one has passed; profile, the share of the money that accrues in each hour.
    """

    basis: Literal["request", "day"]
    budget: float
    log_price: float = math.log(OPENING_PRICE)
    credit: float = 0.0
    spent: float = 0.0
    count: int = 0
    ignored: int = 0
    last: float = 0.0
    passed: float = 0.0
    today: tuple[int, ...] = (0,) * 24
    traffic: float = 0.0
    profile: tuple[float, ...] = EVENLY

    def stored(self) -> list[Any]:
        """As JSON values, for `restored`."""
        values = [getattr(self, name) for name in self.__slots__]
        return [list(value) if isinstance(value, tuple) else value for value in values]

    @classmethod
    def restored(cls, kept: list[Any]) -> Self:
        """The pacer whose `stored` that is."""
        values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in kept]
        return cls(*values)


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
    """A pacer for money per UTC day, today's pro rata. now: seconds since the epoch. It learns when requests come.

    What a day leaves unspent ends with it; what it overspent is the next day's debt. Raises InvalidInput as `begin`.
    """
    start = now if math.isfinite(now) else 0.0
    return Pacer("day", _positive("budget.usd_per_day", usd_per_day), last=start)


def price(pacer: Pacer, now: float) -> float:
    """Quality per dollar, positive and finite."""
    seen = _accrued(pacer, now)
    pull = PULL * _ahead(seen) / (_unit(seen) * _horizon(seen))
    pull = max(-MOST_PULLED, min(pull, MOST_PULLED))
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
        hour = _hour(seen.last)
        today = (*seen.today[:hour], seen.today[hour] + 1, *seen.today[hour + 1 :])
        paid = replace(seen, credit=seen.credit - cost, today=today)
    paid = replace(paid, spent=paid.spent + cost, count=paid.count + 1)
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
    expected, weight = (pacer.traffic, WEIGHT) if pacer.traffic > 0 else (OPENING_TRAFFIC, OPENING_WEIGHT)
    return pacer.budget * (weight + pacer.passed) / (weight * expected + sum(pacer.today))


def _ahead(pacer: Pacer) -> float:
    """Credit beyond the cushion, in USD."""
    requests = pacer.count if pacer.basis == "request" else sum(pacer.today)
    return pacer.credit - _unit(pacer) * min(CUSHION, CUSHION_SHARE * requests)


def _horizon(pacer: Pacer) -> float:
    """Requests over which credit is spent."""
    if pacer.basis == "request":
        return HORIZON
    to_come = (1 - _share(pacer.profile, pacer.last)) * pacer.budget / _unit(pacer)
    return max(HORIZON, DAY_PART * to_come)


def _repriced(pacer: Pacer, over: float) -> Pacer:
    """The price after a request that cost `over` units more than its own."""
    ahead = max(-1.0, min(_ahead(pacer) / (_unit(pacer) * _horizon(pacer)), 1.0))
    step = STEP * (max(-1.0, min(over, LONGEST_STEP)) - ahead)
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
    since = _share(pacer.profile, pacer.last)
    if pacer.last >= midnight:
        more = _share(pacer.profile, now) - since
        return replace(pacer, credit=pacer.credit + pacer.budget * more, last=now, passed=pacer.passed + more)
    days = (midnight - pacer.last) // DAY + 1 - since
    left = min(0.0, pacer.credit + pacer.budget * days)
    new = _another_day(replace(pacer, passed=pacer.passed + 1 - since))
    share = _share(new.profile, now)
    return replace(new, credit=left + new.budget * share, last=now, passed=share)


def _another_day(pacer: Pacer) -> Pacer:
    """With the traffic of the day that ended in what is expected of the next; a day without any says nothing."""
    requests = sum(pacer.today)
    if not requests:
        return replace(pacer, passed=0.0)
    whole = requests / max(pacer.passed, 1 / 24)
    traffic = pacer.traffic + LATEST_DAY * (whole - pacer.traffic) if pacer.traffic > 0 else whole
    # a request more in each hour keeps the few of a quiet day from saying much
    profile = tuple(
        (1 - LATEST_DAY) * before + LATEST_DAY * (EVEN_PART / 24 + (1 - EVEN_PART) * (hour + 1) / (requests + 24))
        for before, hour in zip(pacer.profile, pacer.today, strict=True)
    )
    return replace(pacer, passed=0.0, today=(0,) * 24, traffic=traffic, profile=profile)


def _hour(time: float) -> int:
    return int(time % DAY // 3_600) % 24


def _share(profile: tuple[float, ...], time: float) -> float:
    """The share of a day's money that has accrued by then."""
    hour = _hour(time)
    return sum(profile[:hour]) + profile[hour] * min(time % DAY / 3_600 - hour, 1.0)

"""Tests that may be looked at after every item, and intervals that hold at every look.

    prior = planned_prior(difference=0.05, discordance=0.25)
    log_e_value(first_only=30, second_only=12, prior=prior)  -> stop for a difference when it reaches log(1 / α)

    sequence = ConfidenceSequence(level=0.95)
    for value in differences: sequence.add(value)            -> sequence.interval() holds at all times at once

An e-value is a bet against "no difference": its expectation is at most 1 if there is none, whenever one stops, so that
it ever reaches 1/α has a chance of at most α (Ville 1939).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from evalservice.statistics.intervals import Interval, check_level

CONCENTRATION = 200.0
"""How sure the prior is of the planned effect, in observations: the uniform prior needs a third more items."""


@dataclass(frozen=True, slots=True)
class Prior:
    """A Beta distribution of the first system's share of the discordant pairs; mixed half and half with its mirror."""

    alpha: float
    beta: float


UNIFORM = Prior(1.0, 1.0)


def planned_prior(difference: float, discordance: float, concentration: float = CONCENTRATION) -> Prior:
    """The prior that is centred on a planned difference of the shares at this discordance.

    Raises ValueError unless 0 < |difference| <= discordance <= 1.
    """
    delta = abs(difference)
    if not 0 < delta <= discordance <= 1:
        raise ValueError(
            f"a difference of {difference} and a discordance of {discordance}: 0 < |difference| <= it <= 1"
        )
    share = min((1 + delta / discordance) / 2, 1 - 1 / concentration)
    return Prior(share * concentration, (1 - share) * concentration)


def log_e_value(
    first_only: int | npt.NDArray[np.int64], second_only: int | npt.NDArray[np.int64], prior: Prior = UNIFORM
) -> npt.NDArray[np.float64]:
    """Natural logarithm of the e-value of b and c discordant pairs won by the first and by the second system.

    e = 2^(b+c) · ½ [B(b+α, c+β) + B(b+β, c+α)] / B(α, β), a mixture martingale under fair coins; with the uniform prior
    2^(b+c) b! c! / (b+c+1)!. Counts of any shape; the result has it too.
    """
    b, c = np.asarray(first_only, dtype=np.float64), np.asarray(second_only, dtype=np.float64)
    if (b < 0).any() or (c < 0).any():
        raise ValueError("a count is negative")
    base = special.betaln(prior.alpha, prior.beta)
    one = special.betaln(b + prior.alpha, c + prior.beta) - base
    other = special.betaln(b + prior.beta, c + prior.alpha) - base
    return np.asarray((b + c) * math.log(2) + np.logaddexp(one, other) - math.log(2))


def share_interval(first_only: int, second_only: int, level: float = 0.95, prior: Prior = UNIFORM) -> Interval:
    """The first system's share of the discordant pairs, with bounds that hold at every look.

    They are the shares that the e-process does not reject: the likelihood of the share times 1/(1 - level) is above the
    mixture's (Robbins 1970, Ann. Math. Statist. 41:1397). So 1/2 lies outside as long as the e-value is at least that.
    """
    check_level(level)
    b, c = first_only, second_only
    n = b + c
    if not n:
        return Interval(None, None, None, None, 0, "e_process")
    least = float(log_e_value(b, c, prior)) - n * math.log(2) + math.log(1 - level)

    def above(share: float) -> float:
        return float(special.xlogy(b, share) + special.xlog1py(c, -share)) - least

    best, edge = b / n, 1e-12
    low = optimize.brentq(above, edge, best) if b and above(edge) < 0 else 0.0
    high = optimize.brentq(above, best, 1 - edge) if c and above(1 - edge) < 0 else 1.0
    return Interval(best, None, float(low), float(high), n, "e_process")


@dataclass(slots=True)
class BettingProcess:
    """An e-process against a mean of 0 of values in [-bound, bound]: a gambler bets on their sign before each.

    The bet is Waudby-Smith and Ramdas's (2024, JRSS-B 86:1, appendix B.3) approximation of the one that grows the
    fastest, mean over second moment of the values before it, both shrunk as if one value had been seen, and at most
    half of what would ruin the gambler.
    """

    bound: float = 1.0
    n: int = 0
    log_e: float = 0.0
    balance: float = 0.0
    """The sum of the values so far, in bounds."""
    _squares: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ValueError(f"values up to {self.bound}")

    def add(self, value: float) -> None:
        """One more value, in the order in which they came. Raises ValueError for one outside the range."""
        if not abs(value) <= self.bound:
            raise ValueError(f"{value} is not between ±{self.bound}")
        x = value / self.bound
        bet = max(-0.5, min(0.5, self.balance / self._squares))
        self.log_e += math.log1p(bet * x)
        self.n += 1
        self.balance += x
        self._squares += x * x


@dataclass(slots=True)
class ConfidenceSequence:
    """A confidence sequence of a mean of values in [low, high], by empirical Bernstein bets.

    Waudby-Smith and Ramdas (2024, JRSS-B 86:1), theorem 2 with the predictable plug-in of their equation 15; the
    interval is the intersection over all times so far, so that it only ever shrinks.
    """

    level: float = 0.95
    low: float = -1.0
    high: float = 1.0
    n: int = 0
    _sum: float = 0.0
    _spread: float = field(default=0.25)
    _weights: float = 0.0
    _weighted: float = 0.0
    _penalty: float = 0.0
    _bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_level(self.level)
        if not self.low < self.high:
            raise ValueError(f"values between {self.low} and {self.high}")

    def add(self, value: float) -> None:
        """One more value, in the order in which they came. Raises ValueError for one outside the range."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is not between {self.low} and {self.high}")
        x = (value - self.low) / (self.high - self.low)
        mean, spread = (0.5 + self._sum) / (self.n + 1), self._spread / (self.n + 1)
        self.n += 1
        certainty = math.log(2 / (1 - self.level))
        bet = min(math.sqrt(2 * certainty / (spread * self.n * math.log1p(self.n))), 0.5)
        self._weights += bet
        self._weighted += bet * x
        self._penalty += (x - mean) ** 2 * (-math.log1p(-bet) - bet)
        self._sum += x
        self._spread += (x - (0.5 + self._sum) / (self.n + 1)) ** 2
        centre, half = self._weighted / self._weights, (certainty + self._penalty) / self._weights
        before = self._bounds
        self._bounds = max(before[0], centre - half), min(before[1], centre + half)

    def interval(self) -> Interval:
        """The mean so far and the bounds that hold at all times at once; undefined before the first value."""
        if not self.n:
            return Interval(None, None, None, None, 0, "confidence_sequence")
        width = self.high - self.low
        low, high = (self.low + width * bound for bound in self._bounds)
        return Interval(self.low + width * self._sum / self.n, None, low, high, self.n, "confidence_sequence")

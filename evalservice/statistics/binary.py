"""Two systems on the same items, each right or wrong: McNemar's test, intervals of the difference, effect sizes.

    pairs = Pairs.of([1, 1, 0, 1], [1, 0, 0, 0])          -> Pairs(both=1, first_only=2, second_only=0, neither=1)
    mcnemar(Pairs(794, 150, 86, 570)).p_value             -> 3.7e-05
    difference_interval(Pairs(794, 150, 86, 570))         -> 0.04 with [0.0213, 0.0588], "tango"

The difference is (first_only - second_only) / n: the first system's share minus the second's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from evalservice.statistics.intervals import Interval, Values, check_level, vector


@dataclass(frozen=True, slots=True)
class Pairs:
    """How often both systems, only one, or neither were right. Two of them add."""

    both: int
    first_only: int
    second_only: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.first_only, self.second_only, self.neither) < 0:
            raise ValueError(f"a count is negative: {self}")

    @classmethod
    def of(cls, first: Values, second: Values) -> Pairs:
        """The table of two vectors of zeros and ones, item i at position i. Raises ValueError for anything else."""
        x, y = vector(first), vector(second)
        if x.shape != y.shape:
            raise ValueError(f"{x.size} values and {y.size} values are no pairs")
        if not (np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all()):
            raise ValueError("a value is neither 0 nor 1")
        counts = np.bincount((2 * x + y).astype(np.int64), minlength=4)
        return cls(int(counts[3]), int(counts[2]), int(counts[1]), int(counts[0]))

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(
            self.both + other.both,
            self.first_only + other.first_only,
            self.second_only + other.second_only,
            self.neither + other.neither,
        )

    @property
    def n(self) -> int:
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def discordant(self) -> int:
        """Pairs in which one was right and the other was not."""
        return self.first_only + self.second_only

    @property
    def difference(self) -> float | None:
        """Share of the first minus share of the second; None without items."""
        return (self.first_only - self.second_only) / self.n if self.n else None

    def swapped(self) -> Pairs:
        """The same items with the systems' places exchanged."""
        return Pairs(self.both, self.second_only, self.first_only, self.neither)


@dataclass(frozen=True, slots=True)
class McNemar:
    """p_value: exact, two-sided. mid_p: less conservative. chi2 and p_asymptotic: None without discordant pairs."""

    p_value: float
    mid_p: float
    chi2: float | None
    p_asymptotic: float | None


def mcnemar(pairs: Pairs) -> McNemar:
    """McNemar's test (1947) that both systems are right equally often.

    Exact: the discordant pairs are fair coins, the p value twice the smaller tail, at most 1; without any it is 1.
    The mid-p value counts half of the observed outcome's probability (Fagerland, Lydersen and Laake 2013). chi2 is
    without continuity correction.
    """
    b, c, m = pairs.first_only, pairs.second_only, pairs.discordant
    if m == 0:
        return McNemar(1.0, 1.0, None, None)
    tail = float(stats.binom.cdf(min(b, c), m, 0.5))
    point = float(stats.binom.pmf(min(b, c), m, 0.5))
    chi2 = (b - c) ** 2 / m
    return McNemar(min(1.0, 2 * tail), min(1.0, 2 * tail - point), chi2, float(stats.chi2.sf(chi2, 1)))


def difference_interval(pairs: Pairs, level: float = 0.95) -> Interval:
    """The difference of the shares with Tango's score interval, or Newcombe's where that does not converge.

    stderr is Wald's, sqrt(b + c - (b - c)² / n) / n; it is shown, the interval is not made of it.
    """
    try:
        return tango(pairs, level)
    except (RuntimeError, ValueError, ZeroDivisionError, FloatingPointError):
        check_level(level)
        return newcombe(pairs, level)


def tango(pairs: Pairs, level: float = 0.95) -> Interval:
    """The score interval of Tango (1998, Statistics in Medicine 17:891), by bisection. Undefined without items."""
    check_level(level)
    n, b, c = pairs.n, pairs.first_only, pairs.second_only
    if n == 0:
        return Interval(None, None, None, None, 0, "tango")
    z = float(stats.norm.ppf((1 + level) / 2))

    def score(difference: float) -> float:
        """Tango's statistic: falls from +∞ to -∞ as the difference goes from -1 to 1."""
        linear = -b - c + (2 * n - b + c) * difference
        constant = -c * difference * (1 - difference)
        share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        rest = b - c - n * difference
        return rest / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, rest) if rest else 0.0

    observed, edge = (b - c) / n, 1 - 1e-15

    def bound(side: float, outermost: float) -> float:
        if observed == outermost:
            return outermost
        ends = sorted((observed, outermost * edge))
        found = optimize.brentq(lambda d: max(min(score(d), 1e9), -1e9) - side * z, *ends, xtol=1e-14, maxiter=500)
        return float(found)

    return Interval(observed, _wald(pairs), bound(1, -1.0), bound(-1, 1.0), n, "tango")


def newcombe(pairs: Pairs, level: float = 0.95) -> Interval:
    """Method 10 of Newcombe (1998, Statistics in Medicine 17:2635): Wilson's intervals, put together by φ."""
    check_level(level)
    n = pairs.n
    if n == 0:
        return Interval(None, None, None, None, 0, "newcombe")
    rights = (pairs.both + pairs.first_only, pairs.both + pairs.second_only)
    (p1, p2) = (right / n for right in rights)
    (l1, u1), (l2, u2) = (_wilson(right, n, level) for right in rights)
    phi = _phi(pairs)
    difference = (pairs.first_only - pairs.second_only) / n
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    low, high = difference - math.sqrt(max(below, 0.0)), difference + math.sqrt(max(above, 0.0))
    return Interval(difference, _wald(pairs), low, high, n, "newcombe")


def _phi(pairs: Pairs) -> float:
    """The correlation of the two, its numerator drawn towards 0 by n / 2 where it is positive."""
    a, b, c, d = pairs.both, pairs.first_only, pairs.second_only, pairs.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)  # Python's integers do not overflow
    if margins == 0:
        return 0.0
    cross = a * d - b * c
    return (max(cross - pairs.n / 2, 0.0) if cross > 0 else float(cross)) / math.sqrt(margins)


def _wilson(successes: int, n: int, level: float) -> tuple[float, float]:
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return (0.0 if successes == 0 else float(found.low)), (1.0 if successes == n else float(found.high))


def _wald(pairs: Pairs) -> float:
    b, c, n = pairs.first_only, pairs.second_only, pairs.n
    return math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n


def cohens_g(pairs: Pairs) -> float | None:
    """The first's share of the discordant pairs, less a half: -0.5 to 0.5 (Cohen 1988). None without such pairs."""
    return pairs.first_only / pairs.discordant - 0.5 if pairs.discordant else None


def conditional_odds_ratio(pairs: Pairs, level: float = 0.95) -> tuple[float | None, float | None, float | None]:
    """first_only / second_only and its exact interval, by Clopper and Pearson's of the share of the discordant pairs.

    (ratio, low, high); infinite where second_only is 0; all None without discordant pairs.
    """
    check_level(level)
    if not pairs.discordant:
        return None, None, None
    share = stats.binomtest(pairs.first_only, pairs.discordant).proportion_ci(level, method="exact")
    ratio, low, high = (
        math.inf if p >= 1 else float(p / (1 - p)) for p in (pairs.first_only / pairs.discordant, share.low, share.high)
    )
    return ratio, low, high

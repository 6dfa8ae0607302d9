"""How many items a paired comparison needs, what it would notice, and how likely that is.

    items_for_pairs(difference=0.05, discordance=0.25)      -> 783 or so: items for 80 % power
    noticeable_difference(n=1319, discordance=0.25)         -> 0.0385: what 80 % power notices
    items_for_t(dz=0.5)                                     -> 34

Discordance: the share of items that exactly one of both systems gets right. Differences are in the units of the shares.
"""

from __future__ import annotations

import math

from scipy import optimize, stats
from statsmodels.stats.power import TTestPower


def items_for_pairs(difference: float, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Items for McNemar's test: Connor (1987, Biometrics 43:207). Not rounded: take the ceiling.

    n = (z(1 - α/2) √ψ + z(power) √(ψ - δ²))² / δ², with ψ the discordance and δ the difference.
    Raises ValueError unless 0 < |δ| ≤ ψ ≤ 1, 0 < α < 1 and 0 < power < 1. (The test is two-sided.)
    """
    delta = abs(difference)
    if not 0 < delta <= discordance <= 1:
        raise ValueError(
            f"a difference of {difference} and a discordance of {discordance}: 0 < |difference| <= it <= 1"
        )
    _check(alpha, power)
    z_alpha, z_power = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    root = z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - delta**2)
    return root**2 / delta**2


def noticeable_difference(n: int, discordance: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The difference that McNemar's test with n items notices with this power: Connor's formula solved for it.

    None where not even a difference as large as the discordance would be noticed.
    """
    if n <= 0 or discordance <= 0 or items_for_pairs(discordance, discordance, alpha=alpha, power=power) > n:
        return None
    small = discordance * 1e-9
    return float(
        optimize.brentq(
            lambda d: math.log(items_for_pairs(d, discordance, alpha=alpha, power=power) / n), small, discordance
        )
    )


def items_for_t(dz: float, *, alpha: float = 0.05, power: float = 0.8, two_sided: bool = True) -> float:
    """Items for a paired t test at an effect of dz standard deviations, both tails counted. Take the ceiling."""
    if not dz or not math.isfinite(dz):
        raise ValueError(f"an effect of {dz} needs no finite number of items")
    _check(alpha, power)
    side = "two-sided" if two_sided else "larger"
    return float(TTestPower().solve_power(abs(dz), nobs=None, alpha=alpha, power=power, alternative=side))


def power_of_t(dz: float, n: int, *, alpha: float = 0.05) -> float:
    """The power of a two-sided paired t test of n items at an effect of dz standard deviations, both tails too."""
    if n < 2:
        raise ValueError(f"{n} items have no t test")
    _check(alpha, 0.5)
    return float(TTestPower().power(dz, n, alpha, alternative="two-sided"))


def noticeable_effect(n: int, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The effect, in standard deviations of the differences, that a paired t test with n items notices."""
    if n < 2:
        return None
    _check(alpha, power)
    return float(TTestPower().solve_power(None, nobs=n, alpha=alpha, power=power, alternative="two-sided"))


def _check(alpha: float, power: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")
    if not 0 < power < 1:
        raise ValueError(f"the power is {power}, not between 0 and 1")

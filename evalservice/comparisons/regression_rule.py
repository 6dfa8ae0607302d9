"""When a new run of the same configuration is worse than its baseline beyond noise. Pure.

    judge(difference=-0.10, p_value=1e-6, look=3, earlier=[0.81, 0.80, 0.82], higher_is_better=True)
    -> Judgement(regressed=True, p_value=5e-07, alpha=0.0034, retest_stderr=0.01)

Every new run is one more look at the same baseline, and each look could err. The k-th spends alpha_k = alpha * 6 /
(pi^2 k^2): since the sum of 1/k^2 is pi^2/6 (the Basel series), all looks together, however many there will be, raise a
false alert with a chance of at most alpha (the union bound). It needs no independence of looks, which share their
baseline, and no plan of how often one will look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from evalservice.comparisons.designs import Items, PairComparison, Rules, System, compare_pair
from evalservice.scoring import Metric

ALPHA = 0.05
"""The chance of any false alert at one baseline, over all looks at it."""
MOST_DRAWS = 1_000_000
MOST_CELLS = 10_000_000_000
"""Draws times items of one test: a minute of one core."""
_SAMPLED_TESTS = ("sign_flips", "clustered_sign_flips", "approximate_randomisation")


@dataclass(frozen=True, slots=True)
class Judgement:
    """p_value: one-sided, that the run is not worse. alpha: what this look may spend. retest_stderr: how far repeating
    alone moves the difference, one standard error in the metric's units; None where nothing was repeated."""

    regressed: bool
    p_value: float
    alpha: float
    retest_stderr: float | None


def alpha_of(look: int, alpha: float = ALPHA) -> float:
    """What the k-th look (from 1) at a baseline spends of `alpha`. Raises ValueError below 1."""
    if look < 1:
        raise ValueError(f"look {look}: looks are counted from 1")
    return alpha * 6 / (math.pi * look) ** 2


def judge(
    *,
    difference: float,
    p_value: float,
    look: int,
    earlier: Sequence[float],
    higher_is_better: bool,
    alpha: float = ALPHA,
) -> Judgement:
    """Whether a run is worse than its baseline.

    difference: the run's value minus the baseline's. p_value: two-sided, of a test whose null distribution is
    symmetric, as all paired ones here are; half of it is the one-sided p. earlier: the values of the baseline and of
    the runs that were looked at since. Where these are two or more, the drop must also be beyond what repeating does:
    the upper `alpha` point of a normal distribution with the standard error of a difference of two repeats.
    """
    spent = alpha_of(look, alpha)
    drop = -difference if higher_is_better else difference
    one_sided = p_value / 2 if drop > 0 else 1 - p_value / 2
    noise = float(np.std(earlier, ddof=1)) * math.sqrt(2) if len(earlier) > 1 else None
    beyond = noise is None or drop > float(stats.norm.ppf(1 - alpha)) * noise
    return Judgement(drop > 0 and one_sided <= spent and beyond, one_sided, spent, noise)


def compare_with_baseline(run: System, baseline: System, metric: Metric, items: Items, look: int) -> PairComparison:
    """The paired comparison, with as many draws as it takes to see this look's level.

    A p value of 10,000 draws is never below 1e-4, more than late looks may spend. A first test with these draws then
    only tells whether more are worth while, and the second alone decides. Raises ValueError where no item is paired.
    """
    rules = Rules()
    found = compare_pair(run, baseline, metric, rules, items, 1)
    draws = _draws(look, found.n)
    if found.test not in _SAMPLED_TESTS or draws <= rules.draws or found.p_value > 10 / rules.draws:
        return found
    more = replace(rules, draws=draws, seed=rules.seed + look)
    return compare_pair(run, baseline, metric, more, items, 1)


def is_blind(test: str, n: int, look: int) -> bool:
    """Whether this look spends less than the smallest one-sided p value that as many draws as we make can show.

    Only tests that draw: after some 250 looks at a baseline of up to 10,000 items, 75 of 100,000.
    """
    return test in _SAMPLED_TESTS and 1 / (2 * (_draws(look, n) + 1)) > alpha_of(look)


def _draws(look: int, n: int) -> int:
    """Enough for a p value of a quarter of what the look may spend, within bounds; 10,000 at least."""
    least = Rules().draws
    return max(least, min(math.ceil(2 / alpha_of(look)), MOST_DRAWS, MOST_CELLS // n))


def value_of(system: System, taken: npt.NDArray[np.bool_], metric: Metric) -> float | None:
    """The metric over the items that are taken; None where it is undefined."""
    if metric.kind != "corpus":
        return float(system.values[taken].mean())
    assert system.statistics is not None
    assert metric.aggregate is not None
    return metric.aggregate(system.statistics[taken].sum(axis=0).tolist())

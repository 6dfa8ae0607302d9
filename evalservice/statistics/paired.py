"""Two systems on the same items with a number each: permutation, t and signed-rank tests, effect sizes.

    sign_flips([3, -1, 4, 1, -2, 6, 2, 5])      -> SignFlips(p_value=0.0859375, draws=256, exact=True)
    paired_t([0.7, -1.6, -0.2], [1.9, 0.8, 1.1])

Differences are first minus second, in the units of the values. What is not finite has no place among them: ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from evalservice.statistics.intervals import Interval, Values, check_level, mean_interval, resampled_sums, vector

EXACT_ITEMS = 16
"""Up to so many differences that are not zero every one of the 2^n sign vectors is looked at."""
EXACT_RANKS = 200
"""Up to so many ranks their exact distribution is built."""
FEW = 100
"""Below so many items the interval of a mean difference is BCa instead of t."""
_CHUNK_CELLS = 8_000_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SignFlips:
    """p_value: two-sided. draws: sign vectors looked at. exact: whether these were all."""

    p_value: float
    draws: int
    exact: bool


@dataclass(frozen=True, slots=True)
class PairedT:
    """Student's test of a mean difference of 0. cohens_dz: mean / standard deviation of the differences; hedges_gz:
    the same without its bias. None where the differences do not vary or there is only one."""

    interval: Interval
    t: float | None
    p_value: float | None
    cohens_dz: float | None
    hedges_gz: float | None


@dataclass(frozen=True, slots=True)
class SignedRanks:
    """Wilcoxon's test with Pratt's treatment of zeros: they are ranked and then left out.

    w_plus: sum of the ranks of positive differences. rank_biserial: (W+ - W-) / (W+ + W-) over ranks of the differences
    that are not zero (Kerby 2014). exact: whether p_value is of the exact distribution or a normal one.
    """

    w_plus: float
    p_value: float
    rank_biserial: float | None
    exact: bool


def differences(first: Values, second: Values) -> Floats:
    """first - second, shape (n,). Raises ValueError for unequal lengths and values that are not finite."""
    x, y = vector(first), vector(second)
    if x.shape != y.shape:
        raise ValueError(f"{x.size} values and {y.size} values are no pairs")
    return _finite(x - y)


def sign_flips(values: Values, *, draws: int = 10_000, seed: int = 0) -> SignFlips:
    """The sign-flip permutation test that differences are symmetric about 0 (Fisher 1935), two-sided on their sum.

    Exact up to EXACT_ITEMS differences that are not zero; else p = (hits + 1) / (draws + 1) over seeded draws
    (Phipson and Smyth 2010). Sums that differ by rounding only count as equal. Without differences p is 1.
    """
    return sign_flips_of_many(_finite(vector(values))[:, None], draws=draws, seed=seed)[0]


def sign_flips_of_many(columns: Floats, *, draws: int = 10_000, seed: int = 0) -> list[SignFlips]:
    """`sign_flips` of each column of shape (n, k), all with the same sign vectors; memory does not grow with draws."""
    columns = np.asarray(columns, dtype=np.float64)
    found: list[SignFlips] = []
    sampled = [k for k, column in enumerate(columns.T) if np.count_nonzero(column) > EXACT_ITEMS]
    hits = dict(zip(sampled, _hits(columns[:, sampled], draws, seed), strict=True)) if sampled else {}
    for k, column in enumerate(columns.T):
        if k in hits:
            found.append(SignFlips((hits[k] + 1) / (draws + 1), draws, exact=False))
            continue
        own = column[column != 0]
        sums = np.zeros(1)
        for value in own:
            sums = np.concatenate([sums + value, sums - value])
        extreme = int(np.count_nonzero(np.abs(sums) >= _reach(own)))
        found.append(SignFlips(extreme / len(sums), len(sums), exact=True))
    return found


def _hits(columns: Floats, draws: int, seed: int) -> list[int]:
    """How many of the draws give a sum as far from 0 as the one that was seen, for each column."""
    n = len(columns)
    rng = np.random.default_rng(seed)
    total = columns.sum(axis=0)
    reach = np.array([_reach(column) for column in columns.T])
    hits = np.zeros(columns.shape[1], dtype=np.int64)
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, draws, step):
        signs = random_bits(rng, min(step, draws - start), n)
        hits += (np.abs(2 * (signs @ columns) - total) >= reach).sum(axis=0)
    return hits.tolist()


def random_bits(rng: np.random.Generator, rows: int, n: int) -> Floats:
    """Fair zeros and ones, shape (rows, n): one random byte for eight of them."""
    packed = rng.integers(0, 256, size=(rows, (n + 7) // 8), dtype=np.uint8)
    return np.unpackbits(packed, axis=1, count=n).astype(np.float64)


def _reach(values: Floats) -> float:
    """The least absolute sum that is as extreme as the sum of these, but for rounding."""
    return abs(math.fsum(values)) - 1e-12 * float(np.abs(values).sum())


def paired_t(first: Values, second: Values, level: float = 0.95) -> PairedT:
    """Student's paired t test, two-sided, with the t interval of the mean difference."""
    d = differences(first, second)
    interval = mean_interval(d, level)
    n, stderr = d.size, interval.stderr
    if interval.value is None or not stderr:
        return PairedT(interval, None, None, None, None)
    t = interval.value / stderr
    dz = t / math.sqrt(n)
    df = n - 1
    correction = math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2) if df > 1 else 0
    return PairedT(interval, t, float(2 * stats.t.sf(abs(t), df)), dz, dz * correction if df > 1 else None)


def mean_difference_interval(values: Values, level: float = 0.95, *, seed: int = 0, resamples: int = 9999) -> Interval:
    """The mean difference with Student's interval from FEW items on, below it with the BCa bootstrap (Efron 1987).

    Where BCa does not exist (constant differences, one item) it is Student's, which is then degenerate or undefined.
    """
    d = _finite(vector(values))
    student = mean_interval(d, level)
    if d.size >= FEW or not student.stderr:
        return student
    found = stats.bootstrap(
        (d,), np.mean, confidence_level=level, n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed)
    )
    low, high = (float(bound) for bound in found.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        return student
    return Interval(student.value, student.stderr, low, high, d.size, "bca")


def signed_ranks(values: Values) -> SignedRanks:
    """Wilcoxon's signed-rank test (1945) with Pratt's zeros (1959), two-sided.

    Exact by the distribution of the sum of the ranks, ties and all, up to EXACT_RANKS ranks; beyond, normal without
    continuity correction. Without a difference p is 1.
    """
    d = _finite(vector(values))
    ranks = stats.rankdata(np.abs(d))
    kept, signs = ranks[d != 0], d[d != 0]
    w_plus = float(kept[signs > 0].sum())
    if not kept.size:
        return SignedRanks(0.0, 1.0, None, exact=True)
    own = stats.rankdata(np.abs(signs))
    biserial = float((own[signs > 0].sum() - own[signs < 0].sum()) / own.sum())
    away = abs(w_plus - kept.sum() / 2)
    if kept.size > EXACT_RANKS:
        z = away / math.sqrt(float((kept**2).sum()) / 4)
        return SignedRanks(w_plus, float(2 * stats.norm.sf(z)), biserial, exact=False)
    doubled = np.rint(2 * kept).astype(np.int64)  # ranks of ties are halves
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    reached = 0
    for rank in doubled:
        reached += rank
        chances[rank : reached + 1] = (chances[rank : reached + 1] + chances[: reached + 1 - rank]) / 2
        chances[:rank] /= 2
    sums = np.arange(len(chances)) / 2
    extreme = np.abs(sums - kept.sum() / 2) >= away - 1e-9
    return SignedRanks(w_plus, min(1.0, float(chances[extreme].sum())), biserial, exact=True)


def clustered_p_value(interval: Interval) -> float | None:
    """Two-sided p of a clustered mean difference of 0: t with as many degrees of freedom as clusters, less one."""
    if interval.value is None or not interval.stderr or not interval.df:
        return None
    return float(2 * stats.t.sf(abs(interval.value / interval.stderr), interval.df))


def bootstrap_differences(
    columns: Floats, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> list[tuple[float, float]]:
    """Percentile intervals of the means of k columns of shape (n, k), all over the same resamples of items.

    A column with few distinct values (binary differences have three) is resampled as multinomial counts of them, which
    is the same distribution at a cost that does not grow with n; the others share one matrix product a chunk.
    """
    check_level(level)
    columns = np.asarray(columns, dtype=np.float64)
    n = len(columns)
    if n < 2:
        raise ValueError(f"{n} items cannot be resampled")
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds: dict[int, tuple[float, float]] = {}
    continuous = []
    for k, column in enumerate(columns.T):
        distinct, counts = np.unique(column, return_counts=True)
        if len(distinct) > 8:
            continuous.append(k)
            continue
        drawn = np.random.default_rng([seed, k]).multinomial(n, counts / n, size=resamples)
        low, high = np.quantile(drawn @ distinct / n, tails)
        bounds[k] = float(low), float(high)
    if continuous:
        sums = np.concatenate(list(resampled_sums(columns[:, continuous], resamples, np.random.default_rng(seed))))
        for k, (low, high) in zip(continuous, np.quantile(sums / n, tails, axis=0).T, strict=True):
            bounds[k] = float(low), float(high)
    return [bounds[k] for k in range(columns.shape[1])]


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values

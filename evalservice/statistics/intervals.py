"""Estimates with a standard error and a confidence interval, for one system's per-item values.

    mean_interval([0.82, 0.75, 0.91, 0.66]) -> Interval(value=0.785, stderr=0.0527…, low=0.617…, high=0.952…, n=4, …)

What is undefined is None, never 0: no items, the standard error of one item, one cluster, values that are not finite.
Constant values do have a standard error of 0 and an interval without width; `Interval.degenerate` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from evalservice.statistics.clusters import cluster_sums

Method = Literal[
    "t", "wilson", "clopper_pearson", "clustered_t", "bootstrap", "tango", "newcombe", "bca", "confidence_sequence",
    "e_process"
]  # fmt: skip
Values = Sequence[float] | npt.NDArray[np.float64]

_CHUNK_CELLS = 4_000_000
"""Resampled weights held at once by the bootstrap: 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate in the units of the values. df: degrees of freedom of a t interval; clusters: how many there are."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    method: Method
    df: int | None = None
    clusters: int | None = None

    @property
    def degenerate(self) -> bool:
        """True when the interval has no width: the data are constant, which is not the same as certain."""
        return self.low is not None and self.low == self.high


@dataclass(frozen=True, slots=True)
class Moments:
    """A sample as its count, sum and sum of squares: frozen, and two of them add, so that shards merge exactly.

    The variance is by subtraction: of values whose mean exceeds their spread by 10^7 it has no digits left, and a
    difference below rounding is 0. `mean_interval` over the values themselves has no such limit.
    """

    n: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """The moments of some values, summed without rounding error."""
        held = list(values)
        return cls(len(held), math.fsum(held), math.fsum(value * value for value in held))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.sum + other.sum, self.sum_squares + other.sum_squares)

    @property
    def mean(self) -> float | None:
        return self.sum / self.n if self.n and math.isfinite(self.sum) else None

    @property
    def variance(self) -> float | None:
        """Of the sample, with n - 1; None below two values."""
        if self.n < 2 or not math.isfinite(self.sum_squares):
            return None
        squares = self.sum_squares - self.sum * self.sum / self.n
        return squares / (self.n - 1) if squares > 4 * np.finfo(float).eps * self.sum_squares else 0.0

    def interval(self, level: float = 0.95) -> Interval:
        """The t interval of the mean, as `mean_interval`."""
        variance = self.variance
        return _t_interval(self.mean, None if variance is None else math.sqrt(variance / self.n), self.n, level)


def mean_interval(values: Values, level: float = 0.95) -> Interval:
    """Mean with Student's t interval: mean ± t(n - 1) * s / sqrt(n).

    values: shape (n,). With a value that is not finite everything is undefined. The interval is not clipped to the
    values' range. Raises ValueError for a level outside (0, 1).
    """
    x = vector(values)
    if not x.size or not np.isfinite(x).all():
        return _t_interval(None, None, x.size, level)
    deviations = x - x[0]  # constant values get a variance of exactly 0
    mean = float(x[0] + deviations.mean())
    stderr = float(deviations.std(ddof=1)) / math.sqrt(x.size) if x.size > 1 else None
    return _t_interval(mean, stderr, x.size, level)


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share with Wilson's score interval (Wilson 1927), within [0, 1]; at 0 and n successes it still has width.

    stderr: sqrt(p (1 - p) / (n - 1)), the standard error of the mean of the zeros and ones; None for n = 1.
    Raises ValueError unless 0 <= successes <= n.
    """
    return _proportion(successes, n, level, "wilson")


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share with the exact interval of Clopper and Pearson (1934), whose coverage is never below the level."""
    return _proportion(successes, n, level, "clopper_pearson")


def clustered_mean_interval(
    values: Values, clusters: Sequence[object] | npt.NDArray[np.int64], level: float = 0.95
) -> Interval:
    """Mean of items that depend on each other within clusters, with the cluster-robust standard error.

    SE² = G / (G - 1) * Σ_g (Σ_{i in g} (x_i - mean))² / n²   (CR1 of Liang and Zeger 1986, intercept only),
    interval by t with G - 1 degrees of freedom. Undefined for a single cluster.
    values, clusters: shape (n,), item i in cluster clusters[i]. Raises ValueError for unequal lengths.
    """
    x = vector(values)
    labels = np.asarray(clusters)
    if labels.shape != x.shape:
        raise ValueError(f"{x.size} values but {labels.size} clusters")
    codes = np.unique(labels, return_inverse=True)[1]
    groups = int(codes.max()) + 1 if x.size else 0
    if not x.size or not np.isfinite(x).all():
        return _t_interval(None, None, x.size, level, groups)
    deviations = x - x[0]
    residuals = deviations - deviations.mean()
    mean = float(x[0] + deviations.mean())
    if groups < 2:
        return _t_interval(mean, None, x.size, level, groups)
    sums = np.bincount(codes, weights=residuals)
    stderr = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / x.size
    return _t_interval(mean, stderr, x.size, level, groups)


def bootstrap_corpus_interval(
    statistics: npt.NDArray[np.float64] | Sequence[Sequence[float]],
    aggregate: Callable[[Sequence[float]], float | None],
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    clusters: npt.NDArray[np.int64] | None = None,
) -> Interval:
    """A corpus metric, aggregate(sum of statistics), with the percentile bootstrap over items.

    Items are drawn with replacement, as multinomial weights on the rows of `statistics`, whose weighted sum is
    aggregated anew (Koehn 2004); with `clusters`, whole clusters are drawn. stderr is the standard deviation of the
    resampled values, the bounds are their quantiles (linear interpolation).
    statistics: shape (n, k), row i the sufficient statistics of item i, in memory once; weights take 32 MB at most.
    The same seed gives the same interval. Undefined for fewer than two items (or clusters), for statistics that are
    not finite, and when the metric is undefined in a resample.
    """
    check_level(level)
    rows = np.asarray(statistics, dtype=np.float64)
    n = len(rows)
    groups = None
    if n and clusters is not None:
        rows = cluster_sums(rows, clusters)
        groups = len(rows)
    if not n or not np.isfinite(rows).all():
        return Interval(None, None, None, None, n, "bootstrap", clusters=groups)
    value = _finite(aggregate(rows.sum(axis=0).tolist()))
    undefined = Interval(value, None, None, None, n, "bootstrap", clusters=groups)
    if len(rows) < 2 or value is None or resamples < 2:
        return undefined
    drawn: list[float] = []
    rng = np.random.default_rng(seed)
    for sums in resampled_sums(rows, resamples, rng):
        for total in sums.tolist():
            resampled = _finite(aggregate(total))
            if resampled is None:
                return undefined
            drawn.append(resampled)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(np.std(drawn, ddof=1)), float(low), float(high), n, "bootstrap", clusters=groups)


def resampled_sums(
    rows: npt.NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float64]]:
    """The summed rows of each resample of the n items, shape (resamples, k), in chunks of at most 32 MB of weights."""
    n = len(rows)
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, resamples, step):
        weights = np.empty((min(step, resamples - start), n))
        for row in weights:
            row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield weights @ rows


def _proportion(successes: int, n: int, level: float, method: Literal["wilson", "clopper_pearson"]) -> Interval:
    check_level(level)
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(None, None, None, None, 0, method)
    test = stats.binomtest(successes, n)
    bounds = test.proportion_ci(level, method="wilson" if method == "wilson" else "exact")
    share = successes / n
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    low = 0.0 if successes == 0 else float(bounds.low)
    high = 1.0 if successes == n else float(bounds.high)
    return Interval(share, stderr, low, high, n, method)


def _t_interval(
    mean: float | None, stderr: float | None, n: int, level: float, clusters: int | None = None
) -> Interval:
    check_level(level)
    method: Method = "t" if clusters is None else "clustered_t"
    df = max((n if clusters is None else clusters) - 1, 0)
    if mean is None or stderr is None:
        return Interval(mean, None, None, None, n, method, df, clusters)
    half = float(stats.t.ppf((1 + level) / 2, df)) * stderr
    return Interval(mean, stderr, mean - half, mean + half, n, method, df, clusters)


def vector(values: Values) -> npt.NDArray[np.float64]:
    """The values as an array of shape (n,). Raises ValueError for any other shape."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"values have shape {x.shape}, not (n,)")
    return x


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def check_level(level: float) -> None:
    """Raises ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}, not between 0 and 1")

"""Several samples of each item: chances of success within k tries, and where the variance comes from.

pass_at_k(n=10, c=3, k=5) -> 0.9166…        pass_hat_k(n=10, c=3, k=3) -> 0.0083…
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k samples at least one is right, unbiased, from n samples of which c were.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, "Evaluating large language models trained on code"), as a product that
    does not overflow. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    _check(n, c, k)
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_hat_k(n: int, c: int, k: int) -> float:
    """The chance that all of k samples are right, unbiased: C(c, k) / C(n, k) (Yao et al. 2024, "τ-bench")."""
    _check(n, c, k)
    return math.prod((c - i) / (n - i) for i in range(k)) if c >= k else 0.0


def _check(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} samples are right")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}: with {n} samples it may be 1 to {n}")


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """Variance between and within items, from n items with k samples each (one-way random effects).

    within, between: variance components in squared units; between may be slightly negative by chance.
    stderr: of the mean over items, in units. icc1: what share of a single sample's variance is between items; icc_k: of
    the variance of a mean of k samples. None where undefined: within needs k ≥ 2, the rest n ≥ 2.
    """

    mean: float
    between: float | None
    within: float | None
    stderr: float | None
    icc1: float | None
    icc_k: float | None

    def stderr_with(self, items: int, samples: float) -> float | None:
        """The standard error that so many items with so many samples each would have (Miller 2024, section 3.1)."""
        if self.between is None or self.within is None:
            return None
        return math.sqrt(max(self.between + self.within / samples, 0.0) / items)


def variance_split(items_by_samples: npt.ArrayLike) -> VarianceSplit:
    """Split the variance of values of shape (n items, k samples). Raises ValueError for another shape, or NaN.

    The standard error of the mean is sd(item means) / √n, which is √((between + within / k) / n).
    """
    x = np.asarray(items_by_samples, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"shape {x.shape} is not (items, samples), or a value is not finite")
    n, k = x.shape
    means = x.mean(axis=1)
    mean = float(means.mean())
    if n < 2:
        return VarianceSplit(mean, None, float(x.var(ddof=1)) if k > 1 else None, None, None, None)
    stderr = float(means.std(ddof=1)) / math.sqrt(n)
    if k < 2:
        return VarianceSplit(mean, None, None, stderr, None, None)
    msb, msw = k * float(means.var(ddof=1)), float(((x - means[:, None]) ** 2).sum()) / (n * (k - 1))
    single = msb + (k - 1) * msw
    return VarianceSplit(
        mean, (msb - msw) / k, msw, stderr, (msb - msw) / single if single else None, (msb - msw) / msb if msb else None
    )

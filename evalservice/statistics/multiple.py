"""More than two systems, more than one test: corrected p values, and whether any system differs at all.

holm([0.04, 0.01, 0.03]) -> [0.06, 0.03, 0.06]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats import contingency_tables


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): controls the chance of any false rejection, whatever the dependence.

    By hand: statsmodels' `multipletests` forces a whole garbage collection, tens of milliseconds, at every call.
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's step-up correction (1995): controls the share of false rejections; for exploring."""
    p = _checked(p_values)
    return [float(value) for value in stats.false_discovery_control(p, method="bh")] if p.size else []


def cochrans_q(items_by_systems: npt.ArrayLike) -> tuple[float | None, float]:
    """Cochran's Q (1950) that k systems are right equally often on the same n items; (Q, p), chi² with k - 1 df.

    items_by_systems: zeros and ones, shape (n, k), k ≥ 2. Q is None and p is 1 where each item is the same for all.
    """
    x = _matrix(items_by_systems)
    if not np.isin(x, (0, 1)).all():
        raise ValueError("a value is neither 0 nor 1")
    if (x == x[:, :1]).all():
        return None, 1.0
    found = contingency_tables.cochrans_q(x)
    return float(found.statistic), float(found.pvalue)


def friedman(items_by_systems: npt.ArrayLike) -> tuple[float | None, float]:
    """Friedman's rank test (1937) over k ≥ 3 systems, ties corrected; (chi², p). None and 1 where nothing differs."""
    x = _matrix(items_by_systems)
    if x.shape[1] < 3:
        raise ValueError(f"{x.shape[1]} systems: Friedman's test is for 3 and more")
    if (x == x[:, :1]).all():
        return None, 1.0
    found = stats.friedmanchisquare(*x.T)
    return float(found.statistic), float(found.pvalue)


def _matrix(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2 or not x.shape[0]:
        raise ValueError(f"shape {x.shape} is not (items, systems) with at least one item and two systems")
    if not np.isfinite(x).all():
        raise ValueError("a value is not finite")
    return x


def _checked(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a p value is not between 0 and 1")
    return p

"""Two systems under a corpus metric (BLEU, chrF, TER): tests and intervals over items' sufficient statistics.

Both systems' statistics have shape (n, k), item i in row i of both; `aggregate` turns summed statistics into the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalservice.statistics.intervals import Interval, check_level, resampled_sums
from evalservice.statistics.paired import random_bits

Rows = npt.NDArray[np.float64]
Aggregate = Callable[[Sequence[float]], float | None]

EXACT_ITEMS = 12
"""Up to so many items that differ between the systems, every one of the 2^n exchanges is looked at."""
_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Randomisation:
    """difference: first minus second. p_value: two-sided. draws: exchanges looked at; exact: whether these were all."""

    difference: float
    p_value: float
    draws: int
    exact: bool


def approximate_randomisation(
    first: Rows, second: Rows, aggregate: Aggregate, *, draws: int = 10_000, seed: int = 0
) -> Randomisation | None:
    """Riezler and Maxwell's test (2005) that the systems' outputs could be exchanged item by item.

    p = (hits + 1) / (draws + 1) over seeded draws, hits being differences at least as large as the one seen; exact up
    to EXACT_ITEMS items that differ. Systems with the same statistics everywhere have p = 1 by definition. None where
    the metric is undefined. Raises ValueError for unequal shapes.
    """
    a, b = _both(first, second)
    seen = _difference(aggregate, a.sum(axis=0), b.sum(axis=0))
    if seen is None:
        return None
    differing = np.flatnonzero((a != b).any(axis=1))
    if not differing.size:
        return Randomisation(seen, 1.0, 0, exact=True)
    base_a, base_b = a.sum(axis=0), b.sum(axis=0)
    change = b[differing] - a[differing]
    exact = differing.size <= EXACT_ITEMS
    total = 2**differing.size if exact else draws
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // differing.size)
    hits = 0
    for start in range(0, total, step):
        rows = min(step, total - start)
        masks = _all_masks(start, rows, differing.size) if exact else random_bits(rng, rows, differing.size)
        moved = masks @ change
        for one, other in zip((base_a + moved).tolist(), (base_b - moved).tolist(), strict=True):
            drawn = _difference(aggregate, one, other)
            hits += drawn is not None and abs(drawn) >= abs(seen) - 1e-9
    return Randomisation(seen, hits / total if exact else (hits + 1) / (total + 1), total, exact)


def bootstrap_corpus_difference(
    first: Rows,
    second: Rows,
    aggregate: Aggregate,
    *,
    resamples: int = 1000,
    levels: Sequence[float] = (0.95,),
    seed: int = 0,
) -> list[Interval]:
    """The difference of the systems' values with the percentile bootstrap, both on the same resamples (Koehn 2004): an
    interval for each level.

    Undefined for fewer than two items and where the metric is undefined in a resample.
    """
    for level in levels:
        check_level(level)
    a, b = _both(first, second)
    n = len(a)
    value = _difference(aggregate, a.sum(axis=0), b.sum(axis=0)) if n else None
    undefined = [Interval(value, None, None, None, n, "bootstrap") for _ in levels]
    if n < 2 or value is None:
        return undefined
    drawn: list[float] = []
    for sums in resampled_sums(np.hstack([a, b]), resamples, np.random.default_rng(seed)):
        for both in sums.tolist():
            one = _difference(aggregate, both[: a.shape[1]], both[a.shape[1] :])
            if one is None:
                return undefined
            drawn.append(one)
    stderr = float(np.std(drawn, ddof=1))
    bounds = (np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) for level in levels)
    return [Interval(value, stderr, float(low), float(high), n, "bootstrap") for low, high in bounds]


def _both(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"statistics of shapes {a.shape} and {b.shape} are no pairs")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a statistic is not finite")
    return a, b


def _difference(aggregate: Aggregate, first: Sequence[float], second: Sequence[float]) -> float | None:
    one, other = aggregate(first), aggregate(second)
    return None if one is None or other is None else one - other


def _all_masks(start: int, rows: int, n: int) -> Rows:
    numbers = np.arange(start, start + rows, dtype=np.int64)[:, None]
    return ((numbers >> np.arange(n)) & 1).astype(np.float64)

"""What is expected of each model before the request's text is looked at: its mean, by category, shrunk by evidence.

A category's mean is shrunk towards the model's overall mean by empirical Bayes: with n values in the category it is
(n · mean + t · overall) / (n + t), where t is the variance within categories over the variance between them, both by
the method of moments of a one-way random-effects layout (Searle, Casella and McCulloch 1992, section 3.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class CategoryMeans:
    """means, variances: [categories + 1, M], the last row for a request of no known category; NaN without evidence.

    variances: of the error of that mean for a new request's expectation, without what varies within the category.
    """

    categories: tuple[str, ...]
    means: Floats
    variances: Floats

    def rows(self, categories: Sequence[str | None]) -> Ints:
        """The row of each category."""
        known = {name: row for row, name in enumerate(self.categories)}
        return np.array([known.get(name, len(known)) if name is not None else len(known) for name in categories], int)


def category_means(values: Floats, categories: Sequence[str | None]) -> CategoryMeans:
    """From values [n, M], NaN where not measured, and the category of each of the n test cases."""
    names = tuple(sorted({name for name in categories if name is not None}))
    known = {name: row for row, name in enumerate(names)}
    groups = np.array([known.get(name, len(names)) if name is not None else len(names) for name in categories], int)
    shape = (len(names) + 1, values.shape[1])
    means, variances = np.full(shape, np.nan), np.full(shape, np.nan)
    for model, column in enumerate(values.T):
        measured = np.isfinite(column)
        if measured.any():
            means[:, model], variances[:, model] = _shrunk(column[measured], groups[measured], len(names))
    return CategoryMeans(names, means, variances)


def _shrunk(values: Floats, groups: Ints, categories: int) -> tuple[Floats, Floats]:
    overall = values.mean()
    n = np.bincount(groups, minlength=categories + 1).astype(np.float64)
    sums = np.bincount(groups, values, minlength=categories + 1)
    own = np.divide(sums, n, out=np.full(len(n), overall), where=n > 0)
    within, between = _components(values, groups, n, own)
    error = values.var() / len(values)
    if between <= 0:
        return np.full(len(n), overall), np.full(len(n), error)
    strength = within / between
    weight = np.where(n > 0, n / np.maximum(n + strength, 1e-300), 0.0)
    weight[-1] = 0.0
    return overall + weight * (own - overall), np.where(weight > 0, weight * within / np.maximum(n, 1), between + error)


def _components(values: Floats, groups: Ints, n: Floats, own: Floats) -> tuple[float, float]:
    """Variance within and between categories; between is 0 where there is too little to tell."""
    filled = int(np.count_nonzero(n))
    if filled < 2 or len(values) <= filled:
        return float(values.var()), 0.0
    within = float(((values - own[groups]) ** 2).sum()) / (len(values) - filled)
    mean_square = float((n * (own - values.mean()) ** 2).sum()) / (filled - 1)
    size = (len(values) - float((n**2).sum()) / len(values)) / (filled - 1)
    return within, max(0.0, (mean_square - within) / size)

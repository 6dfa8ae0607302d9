"""What scattered measurements say of each model: estimates on benchmarks, shrunk to categories, shrunk to the whole.

    value = difficulty of the benchmark + model + (model in the category) + (model on the benchmark) + noise

A normal hierarchy on a tree, whose variances are estimated by moments and whose posterior is exact (Gaussian belief
propagation up and down the tree; Gelman et al., Bayesian Data Analysis, 3rd ed., section 5.4, for one level). A model
that was measured only on hard benchmarks is not the worse for it, and one with little evidence is near the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

USUAL_SD = (0.10, 0.05, 0.05)
"""Between models, between categories of a model, between benchmarks of a category: where the data cannot tell."""
LEAST_VARIANCE = 1e-6
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Posterior means and standard deviations over M models; `n` is the effective number of test cases behind each.

    overall [M], category [C, M], benchmark [B, M]. NaN where a model has no evidence at all; a benchmark on which it
    was not measured has its expected value there, with n = 0.
    """

    overall: Array
    overall_sd: Array
    overall_n: Array
    category: Array
    category_sd: Array
    category_n: Array
    benchmark: Array
    benchmark_sd: Array
    benchmark_n: Array


def shrink(value: Array, variance: Array, n: Array, category_of: NDArray[np.intp], categories: int) -> Shrunk:
    """Estimates from the measured cells.

    value, variance, n: [B, M], of each mean over test cases, its sampling variance and its effective n; a cell counts
    where all three are finite and n > 0. category_of [B]: which of the `categories` a benchmark is in.
    """
    known = np.isfinite(value) & np.isfinite(variance) & np.isfinite(n) & (n > 0)
    n = np.where(known, n, 0.0)
    seen = known.any(axis=0)
    noise = np.where(known, np.maximum(variance, LEAST_VARIANCE), np.inf)
    difficulty = _difficulty(np.where(known, value, 0.0), known)
    rest = np.where(known, value - difficulty[:, None], 0.0)
    members = np.zeros((categories, value.shape[0]))
    members[category_of, np.arange(value.shape[0])] = 1.0
    between = _variances(rest, known, np.where(known, noise, 0.0), members)

    # Up: what the benchmarks say of model-in-category, what those say of the model.
    of_benchmark = np.where(known, 1.0 / (noise + between[2]), 0.0)
    of_category = members @ of_benchmark
    category_mean = _ratio(members @ (of_benchmark * rest), of_category)
    to_model = np.where(of_category > 0, 1.0 / (_inverse(of_category) + between[1]), 0.0)
    precision = 1.0 / between[0] + to_model.sum(axis=0)
    mean = (to_model * category_mean).sum(axis=0) / precision

    # Down: each joins what the others say, through its parent, with what its own children say.
    above = precision - to_model
    above_mean = (precision * mean - to_model * category_mean) / above
    category, category_sd, in_category = _joined(above_mean, above, between[1], category_mean, of_category)
    own = of_benchmark
    around = in_category[category_of] - own
    around_mean = _ratio(in_category[category_of] * category[category_of] - own * rest, around)
    benchmark, benchmark_sd, _ = _joined(around_mean, around, between[2], rest, np.where(known, 1.0 / noise, 0.0))

    whole = float(difficulty.mean()) if difficulty.size else 0.0
    per_category = _ratio(members @ difficulty, members.sum(axis=1))
    nothing = np.where(seen, 0.0, np.nan)
    return Shrunk(
        mean + whole + nothing,
        np.sqrt(1.0 / precision) + nothing,
        n.sum(axis=0),
        category + per_category[:, None] + nothing,
        category_sd + nothing,
        members @ n,
        benchmark + difficulty[:, None] + nothing,
        benchmark_sd + nothing,
        n,
    )


def _joined(above: Array, above_precision: Array, between: float, below: Array, below_precision: Array) -> list[Array]:
    """Mean, standard deviation and precision of what hangs on a parent: its prior from there, its own evidence."""
    prior = 1.0 / (_inverse(above_precision) + between)
    precision = prior + below_precision
    return [(prior * above + below_precision * below) / precision, np.sqrt(1.0 / precision), precision]


def _difficulty(value: Array, known: NDArray[np.bool_]) -> Array:
    """The mean of each benchmark [B] over models, as if every model had been measured on it: alternating means."""
    if not value.size:
        return np.zeros(value.shape[0])
    per_benchmark, per_model = known.sum(axis=1), known.sum(axis=0)
    ability = np.zeros(value.shape[1])
    difficulty = np.zeros(value.shape[0])
    for _ in range(ROUNDS):
        difficulty = _ratio(((value - ability) * known).sum(axis=1), per_benchmark)
        ability = _ratio(((value - difficulty[:, None]) * known).sum(axis=0), per_model)
        ability -= ability[per_model > 0].mean() if (per_model > 0).any() else 0.0
    grand = difficulty[per_benchmark > 0].mean() if (per_benchmark > 0).any() else 0.0
    return np.where(per_benchmark > 0, difficulty, grand)


def _variances(rest: Array, known: NDArray[np.bool_], noise: Array, members: Array) -> tuple[float, float, float]:
    """Variance between models, between a model's categories, between a category's benchmarks, by moments."""
    count = members @ known
    mean = _ratio(members @ (rest * known), count)
    mean_noise = _ratio(members @ noise, count * count)
    spread = members @ (known * (rest - np.einsum("cb,cm->bm", members, mean)) ** 2)
    free = (count - 1)[count > 1].sum()
    inner = (spread[count > 1].sum() - (members @ noise * (1 - 1 / np.maximum(count, 1)))[count > 1].sum()) / max(
        free, 1
    )
    benchmarks = _usual(inner, 2, free)
    used = count > 0
    categories = used.sum(axis=0)
    of_model = _ratio((mean * used).sum(axis=0), categories)
    error = np.where(used, mean_noise + benchmarks / np.maximum(count, 1), 0.0)
    squares = (used * (mean - of_model) ** 2).sum(axis=0)
    several = categories > 1
    free = (categories - 1)[several].sum()
    expected = (error.sum(axis=0) * (1 - 1 / np.maximum(categories, 1)))[several].sum()
    between_categories = _usual((squares[several].sum() - expected) / max(free, 1), 1, free)
    measured = categories > 0
    own_error = _ratio((error + between_categories * used).sum(axis=0), categories * categories)
    free = measured.sum() - 1
    deviation = of_model[measured] - (of_model[measured].mean() if measured.any() else 0.0)
    models = _usual(((deviation**2).sum() / max(free, 1)) - (own_error[measured].mean() if free > 0 else 0), 0, free)
    return models, between_categories, benchmarks


def _usual(variance: float, level: int, free: float) -> float:
    """The estimate, pulled to the usual one as if that came with four degrees of freedom; never quite 0."""
    usual = USUAL_SD[level] ** 2
    return float(max((max(variance, 0.0) * free + usual * 4) / (free + 4), LEAST_VARIANCE))


def _ratio(over: Array, under: Array) -> Array:
    ratio: Array = np.divide(over, under, out=np.zeros_like(over, dtype=float), where=under > 0)
    return ratio


def _inverse(precision: Array) -> Array:
    return np.divide(1.0, precision, out=np.full_like(precision, 1e12), where=precision > 0)

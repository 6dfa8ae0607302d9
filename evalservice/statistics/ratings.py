"""Bradley–Terry ratings: one number a system from who beat whom, ties aside, with their uncertainty.

bradley_terry([[0, 30], [20, 0]]).abilities -> [0.2027, -0.2027]: log odds, centred on 0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

ELO_SCALE = 400 / math.log(10)


class NoRating(ValueError):
    """The most likely abilities are infinite: some systems never lost to, or never met, the others."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """abilities: log odds, shape (k,), of mean 0; the odds that i beats j are exp(abilities[i] - abilities[j]).
    covariance: of the abilities, shape (k, k)."""

    abilities: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]

    def elo(self, base: float = 1000.0) -> npt.NDArray[np.float64]:
        """The abilities on the scale on which 400 points are odds of ten to one."""
        return base + ELO_SCALE * self.abilities

    def stderr_of_difference(self, first: int, second: int) -> float:
        """The standard error of one ability less another."""
        c = self.covariance
        return math.sqrt(max(c[first, first] + c[second, second] - 2 * c[first, second], 0.0))


def bradley_terry(wins: npt.ArrayLike) -> Ratings:
    """Most likely abilities (Bradley and Terry 1952) by Newton's method; wins[i, j]: how often i beat j, shape (k, k).

    Raises NoRating where the maximum does not exist (Ford 1957: the graph of wins is not strongly connected), and
    ValueError for counts that are negative or not finite, or a diagonal that is not 0.
    """
    w = np.asarray(wins, dtype=np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or w.shape[0] < 2:
        raise ValueError(f"shape {w.shape} is not (k, k) with at least two systems")
    if not np.isfinite(w).all() or (w < 0).any() or np.diag(w).any():
        raise ValueError("wins are finite counts, and nobody beats itself")
    if connected_components(w > 0, directed=True, connection="strong", return_labels=False) > 1:
        raise NoRating("some systems never lost to the others: their ratings are infinite")
    games = w + w.T
    abilities = np.zeros(len(w))
    ones = np.full_like(w, 1 / len(w))
    for _ in range(100):
        chance = 1 / (1 + np.exp(abilities[None, :] - abilities[:, None]))
        gradient = w.sum(axis=1) - (games * chance).sum(axis=1)
        weights = games * chance * (1 - chance)
        information = np.diag(weights.sum(axis=1)) - weights
        step = np.linalg.solve(information + ones, gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        abilities = abilities + step
        if float(np.abs(step).max()) < 1e-12:
            break
    abilities -= abilities.mean()
    covariance = np.linalg.inv(information + ones) - ones
    return Ratings(abilities, covariance)


def bootstrap_ratings(
    wins: npt.ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> list[tuple[float, float]]:
    """Percentile intervals of the abilities, games drawn with replacement; resamples without a maximum are left out.

    Raises what `bradley_terry` raises, and NoRating where fewer than half of the resamples have a maximum.
    """
    w = np.asarray(wins, dtype=np.float64)
    bradley_terry(w)
    games = int(w.sum())
    rng = np.random.default_rng(seed)
    drawn = []
    for counts in rng.multinomial(games, (w / w.sum()).ravel(), size=resamples):
        try:
            drawn.append(bradley_terry(counts.reshape(w.shape)).abilities)
        except NoRating:
            continue
    if 2 * len(drawn) < resamples:
        raise NoRating("too few games: most resamples have no finite ratings")
    bounds = np.quantile(np.array(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [(float(low), float(high)) for low, high in bounds.T]

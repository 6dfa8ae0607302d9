"""Thompson sampling with exact propensities: the shares of wins in posterior draws, to draw a model from. Pure.

    shares = win_shares(mean, sd, cost, price=12.0, floor=0.05, rng=rng)     # [k], sums to 1
    chosen = rng.choice(len(shares), p=shares)

Of 128 joint draws of all models' quality, the share that a model wins is its probability: the decision is then drawn
from these shares, so that what is logged is what was done, and never an estimate of it.

A draw of quality is sin²(θ), θ normal with the two parameters for which mean and variance are the posterior's. It stays
in [0, 1] and is close to the Beta of the same moments (their arcsine transform is nearly normal: Anscombe 1948), whose
own draws cost ten times as much: the distribution functions differ by 0.05 at most where one outcome was bad, and by
0.01 where ten were.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from evalservice.errors import InvalidInput

Floats = npt.NDArray[np.float64]

DRAWS = 128
UNIFORM_SD = 12**-0.5  # of a quality of which nothing is known
_POOL = 1 << 18


def win_shares(
    quality_mean: Floats,
    quality_sd: Floats,
    cost: Floats,
    *,
    price: float,
    draws: int = DRAWS,
    floor: float = 0.0,
    rng: np.random.Generator,
) -> Floats:
    """The probability of each of k eligible models: [k], non-negative, its sum 1 within rounding. [] for none.

    quality_mean, quality_sd: [k], of the posterior of a quality in [0, 1]; NaN: nothing is known, so that it may be
    anything. cost: [k], expected, in USD; NaN: unknown, taken for the dearest known. price: quality per dollar. draws:
    joint draws that are counted. floor: share of the traffic that goes to all models alike, whoever wins; 0 to 1.

    Values beyond [0, 1] are taken for the nearest in it, an sd that is too great for its mean for the greatest. One
    number is taken from `rng`, whatever k is. Draws go to models by their place: in another order they get the same
    shares only up to the noise of so many draws, and of models that are equal and certain the first wins. Raises
    InvalidInput for a floor or number of draws beyond its range.
    """
    if not 0 <= floor <= 1:
        raise InvalidInput("exploration.floor", floor, "a share from 0 to 1")
    if draws < 1:
        raise InvalidInput("draws", draws, "a whole number of at least 1")
    k = len(quality_mean)
    if k == 0:
        return np.empty(0)
    middle, spread = _angles(quality_mean, quality_sd)
    # of utility = (1 - cos 2θ) / 2 - price * cost only the order matters
    loss = _normals(draws, k, rng) * spread
    loss += middle
    np.cos(loss, out=loss)
    loss += _penalty(cost, price)
    shares = np.bincount(loss.argmin(axis=1), minlength=k) / draws
    return shares if floor == 0 else (1 - floor) * shares + floor / k


def _angles(mean: Floats, sd: Floats) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and sd of 2θ, normal, for which sin²(θ) has this mean and sd.

    From E cos 2θ = c e^(-s²/2) =: d and E cos² 2θ = (1 + e^(-2s²)(2c² - 1)) / 2, where c is the cosine of the mean and
    s the sd of 2θ: y = e^(-s²) solves y² - 2 d² y + 2 d² - 1 + 8 sd² = 0. The greatest sd that has a solution with this
    mean is √2 mean (1 - mean), beyond which a Beta has its mode at an end.
    """
    unknown = np.isnan(mean) | np.isnan(sd)
    if unknown.any():
        sd = np.where(unknown, UNIFORM_SD, sd)
        mean = np.where(np.isnan(mean), 0.5, mean)
    d = 1 - 2 * np.minimum(np.maximum(mean, 0.0), 1.0)
    d2 = d * d
    y = d2 + np.sqrt(np.maximum(np.square(1 - d2) - 8 * np.square(np.minimum(np.maximum(sd, 0.0), 1.0)), 0.0))
    # y is next to 0 only for a mean of 1/2 and the greatest sd, where θ is spread over the whole circle
    y = np.minimum(np.maximum(y, 1e-6), 1.0)
    c = np.minimum(np.maximum(d / np.sqrt(y), -1.0), 1.0)
    return np.arccos(c).astype(np.float32), np.sqrt(-np.log(y)).astype(np.float32)


def _penalty(cost: Floats, price: float) -> npt.NDArray[np.float32]:
    """Twice what costs take from utility, less the least of it; more than 2 changes no order."""
    known = np.isfinite(cost)
    if not known.all():
        cost = np.where(known, cost, cost[known].max()) if known.any() else np.zeros(len(cost))
    rate = 2 * min(price, 1e30) if price > 0 else 0.0
    cost = np.minimum(cost, 1e30)
    losses: npt.NDArray[np.float32] = np.minimum((cost - cost.min()) * rate, 4.0).astype(np.float32)
    return losses


def _normals(draws: int, k: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Standard normals, [draws, k]: a run of the pool from a random place, independent within a decision."""
    wanted = draws * k
    pool = _pool(max(_POOL, 1 << (4 * wanted).bit_length()))
    start = int(rng.random() * (len(pool) - wanted))
    return pool[start : start + wanted].reshape(draws, k)


@cache
def _pool(size: int) -> npt.NDArray[np.float32]:
    # RandomState's stream is frozen for good, Generator's may change with numpy: a decision must replay
    pool = np.random.RandomState(20_260_101).standard_normal(size).astype(np.float32)
    pool.setflags(write=False)
    return pool

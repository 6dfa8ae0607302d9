"""The settings of the neighbours' estimates, chosen on inner folds: never on the test case that is estimated.

Each fold's test cases are estimated from the others with every setting; the penalty of the ridge and k, power and
strength are those with the least squared error in what sets the models apart (a value minus the mean of the models
measured on that test case), which is what a choice depends on. How much each correction counts is then a non-negative
least-squares fit of what the prior left over (Breiman 1996, "Stacked regressions"). Equal embeddings share a fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import optimize

from evalservice.selection.evidence_priors import Floats, Ints, category_means
from evalservice.selection.nearest_rows import nearest_of_many
from evalservice.selection.neighbours import Evidence, NeighbourIndex, Settings, build_index
from evalservice.selection.ridge import fit_ridge

FOLDS: Final = 5
FEWEST: Final = 30
"""With fewer test cases nothing can be chosen: the defaults."""
ASKED: Final = 5_000
"""At most so many test cases are estimated, from all others."""
NEIGHBOURS: Final = (20, 60, 200)
POWERS: Final = (1.0, 3.0, 6.0)
STRENGTHS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
PENALTIES: Final = (10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Test cases of one fold: what the prior left over [q, M] (NaN = not measured) of quality and of cost, what each
    ridge predicts [penalties, q, M], and sums over neighbours, [2, k and powers, q, M]: weighted residuals, weights."""

    quality: Floats
    cost: Floats
    linear: Floats
    local: Floats
    local_cost: Floats


def fit_neighbours(evidence: Evidence, seed: int) -> NeighbourIndex:
    """The index over this evidence, with the settings that its inner folds favour."""
    return build_index(evidence, tune(evidence, seed))


def tune(evidence: Evidence, seed: int) -> Settings:
    """The settings; the seed deals the test cases to folds."""
    dealt = deal([row.tobytes() for row in evidence.embeddings], FOLDS, seed)
    if len(evidence.ids) < FEWEST or len(np.unique(dealt)) < FOLDS:
        return Settings()
    held = [_held(evidence, dealt == fold) for fold in range(FOLDS)]
    quality, cost = (np.concatenate([getattr(each, name) for each in held]) for name in ("quality", "cost"))
    linear, local, local_cost = (
        np.concatenate([getattr(each, name) for each in held], axis=-2) for name in ("linear", "local", "local_cost")
    )
    target = _apart(quality)
    penalty = int(np.argmin([np.nansum((target - _apart_like(quality, each)) ** 2) for each in linear]))
    shapes = [(k, power) for k in NEIGHBOURS for power in POWERS]
    errors = [
        [np.nansum((target - _apart_like(quality, sums / (weights + s))) ** 2) for s in STRENGTHS]
        for sums, weights in zip(*local, strict=True)
    ]
    shape, strength = np.unravel_index(int(np.argmin(errors)), (len(shapes), len(STRENGTHS)))
    chosen = local[0][shape] / (local[1][shape] + STRENGTHS[strength])
    shares = _shares(quality, linear[penalty], chosen)
    scale = 1e-300 + np.nansum(cost**2, axis=0)
    misses = [np.nansum((cost - local_cost[0][shape] / (local_cost[1][shape] + s)) ** 2 / scale) for s in STRENGTHS]
    return Settings(*shapes[shape], STRENGTHS[strength], STRENGTHS[int(np.argmin(misses))], PENALTIES[penalty], *shares)


def deal(keys: list[bytes], folds: int, seed: int) -> Ints:
    """The fold of each item [n]: sizes as equal as may be, equal keys together, the same whatever the items' order."""
    distinct = sorted(set(keys))
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold = {key: int(place) % folds for key, place in zip(distinct, order, strict=True)}
    return np.array([fold[key] for key in keys], np.int64)


def _held(evidence: Evidence, out: np.ndarray) -> _Held:
    asked, rest = np.flatnonzero(out), np.flatnonzero(~out)
    asked = asked[:: max(1, -(-len(asked) * FOLDS // ASKED))]
    train, test = evidence.of(rest), evidence.of(asked)
    similarities, found = nearest_of_many(train.embeddings, test.embeddings, max(NEIGHBOURS))
    left: list[Floats] = []
    sums: list[Floats] = []
    linear: list[Floats] = []
    for values, asked_values in ((train.quality, test.quality), (train.cost, test.cost)):
        prior = category_means(values, train.category_of_each())
        measured = np.isfinite(values)
        residuals = np.where(measured, values - prior.means[prior.rows(train.category_of_each())], 0.0)
        left.append(asked_values - prior.means[prior.rows(test.category_of_each())])
        if not linear:
            fits = fit_ridge(train.embeddings, residuals, measured.astype(np.float64), PENALTIES)
            linear = [fit.predict(test.embeddings) for fit in fits]
        sums.append(_sums(similarities.astype(np.float64), residuals[found], measured[found]))
    return _Held(left[0], left[1], np.array(linear), sums[0], sums[1])


def _sums(similarities: Floats, residuals: Floats, measured: np.ndarray) -> Floats:
    found = []
    for k in NEIGHBOURS:
        for power in POWERS:
            weights = np.maximum(similarities[:, :k], 0.0) ** power
            found.append(
                [np.einsum("qk,qkm->qm", weights, each) for each in (residuals[:, :k], measured[:, :k].astype(float))]
            )
    return np.swapaxes(np.array(found), 0, 1)


def _apart(values: Floats) -> Floats:
    """Minus the mean of the models that were measured; where that is one, the value itself."""
    measured = np.isfinite(values)
    count = measured.sum(axis=1, keepdims=True)
    mean = np.where(measured, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    return np.where(count > 1, values - mean, values)


def _apart_like(measured: Floats, predicted: Floats) -> Floats:
    return _apart(np.where(np.isfinite(measured), predicted, np.nan))


def _shares(target: Floats, linear: Floats, local: Floats) -> tuple[float, float, float, float]:
    """How much of each correction counts: linear common, linear apart, local common, local apart."""
    common, local_common = linear.mean(axis=1, keepdims=True), local.mean(axis=1, keepdims=True)
    columns = [
        np.broadcast_to(common, linear.shape),
        linear - common,
        np.broadcast_to(local_common, local.shape),
        local - local_common,
    ]
    known = np.isfinite(target)
    design = np.stack([column[known] for column in columns], axis=1)
    if not design.size or not np.isfinite(design).all():
        return 0.0, 0.0, 1.0, 1.0
    shares, _ = optimize.nnls(design, target[known])
    return float(shares[0]), float(shares[1]), float(shares[2]), float(shares[3])

"""What each model's quality and cost would be for a request, from evaluated test cases like it.

    index = fit_neighbours(Evidence(models, ids, embeddings, quality, cost, categories), seed=0)
    found = index.estimate(embedding, category="algebra")
    found.quality  -> [M], found.quality_sd -> [M], found.cost -> [M], found.neighbours -> (Neighbour("q17", 0.83), …)

An estimate is a prior (the model's mean in the category, `evidence_priors`) plus two corrections: a ridge regression of
what the prior left over on the embedding, and the mean of what it left over among the k nearest test cases, weighted by
similarity to a power and shrunk to 0. With residuals of variance v / weight around a local mean that itself varies with
variance v / strength around the prior, that shrunk mean, sum(w r) / (sum(w) + strength), is the posterior mean, and
v / (sum(w) + strength) its variance. How much each correction counts, in what is common to all models and in what sets
them apart, is learnt with k, power and strengths on inner folds (`tuning`). A model counts only where it was measured,
so models may share few test cases, or none.

An index never changes, so any number of threads may ask it while another one is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalservice.selection.embedders import Vectors
from evalservice.selection.evidence_priors import CategoryMeans, Floats, Ints, category_means
from evalservice.selection.nearest_rows import NearestRows, find_in
from evalservice.selection.ridge import Linear, fit_ridge


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """n evaluated test cases and M models. embeddings: unit rows [n, d]; quality: [n, M], NaN = not measured; cost:
    [n, M] in US dollars, NaN = unknown; categories: one per test case, or None. Raises ValueError for other shapes."""

    models: tuple[str, ...]
    ids: Sequence[str]
    embeddings: Vectors
    quality: Floats
    cost: Floats
    categories: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        n, shape = len(self.ids), (len(self.ids), len(self.models))
        if self.embeddings.ndim != 2 or len(self.embeddings) != n or not n or not self.models:
            raise ValueError(f"{n} ids, {len(self.models)} models and embeddings of shape {self.embeddings.shape}")
        if self.quality.shape != shape or self.cost.shape != shape:
            raise ValueError(f"quality {self.quality.shape} and cost {self.cost.shape} are not {shape}")
        if not np.isfinite(self.embeddings).all() or np.isinf(self.quality).any() or np.isinf(self.cost).any():
            raise ValueError("a value is infinite, or an embedding is not finite")
        if self.categories is not None and len(self.categories) != n:
            raise ValueError(f"{len(self.categories)} categories for {n} test cases")

    def of(self, rows: Ints) -> Evidence:
        """Some of the test cases."""
        return Evidence(
            self.models,
            [self.ids[row] for row in rows],
            self.embeddings[rows],
            self.quality[rows],
            self.cost[rows],
            None if self.categories is None else [self.categories[row] for row in rows],
        )

    def category_of_each(self) -> Sequence[str | None]:
        """None where there are no categories."""
        return [None] * len(self.ids) if self.categories is None else self.categories


@dataclass(frozen=True, slots=True)
class Settings:
    """neighbours: k. power: of the similarity. strength, cost_strength: weight of the prior, in neighbours of
    similarity 1. penalty: of the ridge. The shares of each correction that count: in the mean over the models (common)
    and in each model's difference from it (apart)."""

    neighbours: int = 60
    power: float = 3.0
    strength: float = 10.0
    cost_strength: float = 1.0
    penalty: float = 100.0
    linear_common: float = 0.0
    linear_apart: float = 0.0
    local_common: float = 1.0
    local_apart: float = 1.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An evaluated test case like the request. similarity: cosine, up to 1."""

    id: str
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """What is expected of each model without the text, [M]; NaN where the evidence's own mean is to be used."""

    quality: Floats
    cost: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """For one request, all [M] in the order of the index's models; NaN for a model without evidence."""

    quality: Floats
    quality_sd: Floats
    cost: Floats
    cost_sd: Floats
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """One kind of value (quality or cost): the prior, what it leaves over [n, M] (0 where not measured), whether
    measured [n, M], the residuals' variance [M], and the range of the values [M]."""

    prior: CategoryMeans
    residuals: Floats
    measured: Floats
    variance: Floats
    lowest: Floats
    highest: Floats


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourIndex:
    """See the module; `build_index` and `fit_neighbours` make one. Can be pickled."""

    models: tuple[str, ...]
    ids: tuple[str, ...]
    settings: Settings
    rows: NearestRows
    quality: _Outcome
    cost: _Outcome
    linear: Linear

    def estimate(self, embedding: Vectors, category: str | None = None, prior: Prior | None = None) -> Estimate:
        """For a request with this unit embedding [d]; an unknown category counts as none.

        A prior takes the place of the evidence's means: the corrections are added to it.
        """
        settings = self.settings
        similarities, found = self.rows.search(embedding, settings.neighbours)
        weights = np.maximum(similarities.astype(np.float64), 0.0) ** settings.power
        row = int(self.quality.prior.rows([category])[0])
        expected, error = self.quality.prior.means[row], self.quality.prior.variances[row]
        expected_cost, cost_error = self.cost.prior.means[row], self.cost.prior.variances[row]
        if prior is not None:
            expected = np.where(np.isnan(prior.quality), expected, prior.quality)
            expected_cost = np.where(np.isnan(prior.cost), expected_cost, prior.cost)
        local, variance = _shrunk_mean(self.quality, found, weights, settings.strength)
        local_cost, cost_variance = _shrunk_mean(self.cost, found, weights, settings.cost_strength)
        quality = expected + corrections(settings, self.linear.predict(embedding[None])[0], local)
        return Estimate(
            _within(quality, self.quality, expected),
            np.sqrt(error + variance),
            _within(expected_cost + local_cost, self.cost, expected_cost),
            np.sqrt(cost_error + cost_variance),
            tuple(
                Neighbour(self.ids[position], similarity)
                for position, similarity in zip(found.tolist(), similarities.tolist(), strict=True)
            ),
        )


def build_index(evidence: Evidence, settings: Settings) -> NeighbourIndex:
    """The index with settings that are known already."""
    categories = evidence.category_of_each()
    quality, cost = _outcome(evidence.quality, categories), _outcome(evidence.cost, categories)
    linear = fit_ridge(evidence.embeddings, quality.residuals, quality.measured, [settings.penalty])[0]
    return NeighbourIndex(
        evidence.models,
        tuple(evidence.ids),
        settings,
        find_in(np.ascontiguousarray(evidence.embeddings, np.float32)),
        quality,
        cost,
        linear,
    )


def corrections(settings: Settings, linear: Floats, local: Floats) -> Floats:
    """What is added to the prior, from both corrections of shape (…, M)."""
    common, local_common = linear.mean(axis=-1, keepdims=True), local.mean(axis=-1, keepdims=True)
    added: Floats = (
        settings.linear_common * common
        + settings.linear_apart * (linear - common)
        + settings.local_common * local_common
        + settings.local_apart * (local - local_common)
    )
    return added


def _outcome(values: Floats, categories: Sequence[str | None]) -> _Outcome:
    prior = category_means(values, categories)
    measured = np.isfinite(values)
    residuals = np.where(measured, values - prior.means[prior.rows(categories)], 0.0)
    count = np.maximum(measured.sum(axis=0), 1)
    lowest = np.where(measured, values, np.inf).min(axis=0)
    highest = np.where(measured, values, -np.inf).max(axis=0)
    return _Outcome(prior, residuals, measured.astype(np.float64), (residuals**2).sum(axis=0) / count, lowest, highest)


def _shrunk_mean(outcome: _Outcome, found: Ints, weights: Floats, strength: float) -> tuple[Floats, Floats]:
    """The posterior mean and variance of what the prior leaves over here, [M] each.

    The variance of single values is that of the neighbours, shrunk to that of all in the same way.
    """
    residuals, weight = outcome.residuals[found], weights[:, None] * outcome.measured[found]
    total = weight.sum(axis=0) + strength
    mean = (weight * residuals).sum(axis=0) / total
    spread = ((weight * (residuals - mean) ** 2).sum(axis=0) + strength * outcome.variance) / total
    return mean, spread / total


def _within(estimate: Floats, outcome: _Outcome, expected: Floats) -> Floats:
    """Inside the range of what was measured, and of the prior."""
    return np.clip(estimate, np.fmin(outcome.lowest, expected), np.fmax(outcome.highest, expected))

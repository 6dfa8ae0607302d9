"""Ridge regression of several columns on embeddings, each column over the rows where it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalservice.selection.embedders import Vectors
from evalservice.selection.evidence_priors import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """slopes: [d, M]. intercepts: [M]."""

    slopes: Floats
    intercepts: Floats

    def predict(self, embeddings: Vectors) -> Floats:
        """[n, M] for [n, d]."""
        predicted: Floats = embeddings @ self.slopes + self.intercepts
        return predicted


def fit_ridge(embeddings: Vectors, values: Floats, measured: Floats, penalties: Sequence[float]) -> list[Linear]:
    """One regression for each penalty of the squared slopes (Hoerl and Kennard 1970); intercepts are free.

    embeddings: [n, d]. values, measured: [n, M]; a value counts where measured is 1. A column without any predicts 0.
    """
    d, columns = embeddings.shape[1], values.shape[1]
    slopes, intercepts = np.zeros((len(penalties), d, columns)), np.zeros((len(penalties), columns))
    for pattern in np.unique(measured, axis=1).T:
        own = np.flatnonzero((measured == pattern[:, None]).all(axis=0))
        if not pattern.any():
            continue
        every = bool(pattern.all())
        x, y = (embeddings, values[:, own]) if every else (embeddings[pattern > 0], values[pattern > 0][:, own])
        centre, level = x.mean(axis=0, dtype=np.float64), y.mean(axis=0)
        gram = (x.T @ x).astype(np.float64) - len(x) * np.outer(centre, centre)
        eigenvalues, vectors = np.linalg.eigh(gram)
        target = vectors.T @ (x.T @ (y - level))
        for at, penalty in enumerate(penalties):
            slope = vectors @ (target / (np.maximum(eigenvalues, 0.0) + penalty)[:, None])
            slopes[at][:, own], intercepts[at][own] = slope, level - centre @ slope
    return [Linear(each, level) for each, level in zip(slopes, intercepts, strict=True)]

"""The rows of a matrix of unit vectors that are most similar to a query, faster than by looking at every one.

    rows = find_in(vectors)                        # float32 [n, d]
    similarities, positions = rows.search(query, k)   # both [k], the most similar first

Up to EXACT_ROWS rows are all compared. Beyond, faiss scans codes of half a byte for two or four dimensions each, which
it compares in registers (product quantisation with "fast scan": André, Kermarrec and Le Scouarnec 2015), and compares
the best of these exactly. Unlike graphs and inverted lists this needs no clusters in the data, and the same vectors
give the same index. Searching changes nothing, so any number of threads may.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from evalservice.selection.embedders import Vectors

EXACT_ROWS: Final = 8_192
RECALL: Final = 0.97
"""Of the 50 nearest rows so many, or others as near, are found on average over rows of the matrix: as much is compared
exactly as that takes."""
TRAINED_ON: Final = 20_000
_EFFORTS: Final = ((4, (6, 8, 11, 15)), (2, (6, 8, 11, 15, 20, 30, 50)))
"""From the fastest on: dimensions that share a code, and how many times k rows are compared exactly."""
_ROUNDING: Final = 1e-5
_QUERIES: Final = 256

Positions = npt.NDArray[np.int64]


class NearestRows(Protocol):
    """A search in rows that do not change."""

    def search(self, query: Vectors, k: int) -> tuple[Vectors, Positions]:
        """Cosine similarities and positions of the k rows (or all) nearest to a unit vector [d], descending."""
        ...


def find_in(vectors: Vectors) -> NearestRows:
    """The search for so many rows; every one is compared where faiss is not installed."""
    if len(vectors) <= EXACT_ROWS or find_spec("faiss") is None:
        return ExactRows(vectors)
    return QuantisedRows.build(vectors)


@dataclass(frozen=True, slots=True, eq=False)
class ExactRows:
    """Every row is compared."""

    vectors: Vectors

    def search(self, query: Vectors, k: int) -> tuple[Vectors, Positions]:
        """See `NearestRows`."""
        return nearest_of(self.vectors @ query, np.arange(len(self.vectors)), k)


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedRows:
    """Codes choose candidates, the vectors themselves their order. index: faiss's, which holds both."""

    index: Any

    @classmethod
    def build(cls, vectors: Vectors) -> QuantisedRows:
        """About 10 s for 100,000 rows of 384 dimensions; the same vectors give the same index on the same machine."""
        padded = _padded(vectors)
        sample = padded[:: max(1, len(padded) // 100)]
        least = nearest_of_many(padded, sample, 50)[0][:, -1:] - _ROUNDING
        for dimensions, factors in _EFFORTS:
            index = _refined(padded, dimensions)
            for factor in factors:
                index.k_factor = factor
                if (index.search(sample, 50)[0] >= least).mean() >= RECALL:
                    return cls(index)
        return cls(index)

    def search(self, query: Vectors, k: int) -> tuple[Vectors, Positions]:
        """See `NearestRows`."""
        similarities, positions = self.index.search(_padded(query[None]), min(k, self.index.ntotal))
        found = positions[0] >= 0
        return similarities[0][found], positions[0][found]

    def __getstate__(self) -> Vectors:
        state: Vectors = _faiss().serialize_index(self.index)
        return state

    def __setstate__(self, state: Vectors) -> None:
        object.__setattr__(self, "index", _faiss().deserialize_index(state))


def _faiss() -> Any:
    """Loaded when many rows are searched: it takes a third of a second."""
    return import_module("faiss")


def _refined(vectors: Vectors, dimensions: int) -> Any:
    """An index of codes for so many dimensions each, whose best are compared exactly."""
    faiss = _faiss()
    width = vectors.shape[1]
    codes = faiss.IndexPQFastScan(width, width // dimensions, 4, faiss.METRIC_INNER_PRODUCT)
    codes.train(vectors[:: max(1, len(vectors) // TRAINED_ON)])
    index = faiss.IndexRefineFlat(codes)
    codes.this.disown()
    index.own_fields = True
    index.add(vectors)
    return index


def nearest_of(similarities: Vectors, positions: Positions, k: int) -> tuple[Vectors, Positions]:
    """The k largest, descending; of equal ones those with the lowest positions."""
    if k < len(similarities):
        least = np.partition(similarities, len(similarities) - k)[len(similarities) - k]
        above = np.flatnonzero(similarities > least)
        equal = np.flatnonzero(similarities == least)[: k - len(above)]
        kept = np.concatenate([above, equal])
        similarities, positions = similarities[kept], positions[kept]
    order = np.lexsort((positions, -similarities))
    return similarities[order], positions[order]


def nearest_of_many(vectors: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Positions]:
    """The same for queries [q, d] by comparing all: two arrays of shape (q, min(k, n))."""
    k = min(k, len(vectors))
    similarities, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES):
        every = queries[start : start + _QUERIES] @ vectors.T
        for row, own in enumerate(every, start):
            similarities[row], positions[row] = nearest_of(own, np.arange(len(own)), k)
    return similarities, positions


def _padded(vectors: Vectors) -> Vectors:
    """As many columns as codes need: a multiple of four."""
    missing = -vectors.shape[1] % 4
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors)

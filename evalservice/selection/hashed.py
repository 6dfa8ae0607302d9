"""The embedder that needs nothing: hashed TF-IDF of words and characters, projected by latent semantic analysis.

    Hashed.fit(texts).embed(["What is 3 + 3?"])  -> float32 of shape (1, 128), rows of length 1

Words and pairs of words, and character 3- to 5-grams, are hashed into buckets (Weinberger et al. 2009), weighted by
(1 + log tf) · idf, each of the two kinds to the same length, and projected onto the leading right singular vectors of
the evaluated test cases' matrix (Deerwester et al. 1990). The last coordinate is 1 for a text that shares nothing with
any of them, so that its similarity to all of them is 0.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from evalservice.selection.embedders import Vectors

DIMENSION: Final = 128
BUCKETS: Final = 1 << 14
"""For each of the two kinds of feature."""
COLUMNS: Final = 2 * BUCKETS
MAX_CHARS: Final = 20_000
"""What follows in a longer text does not count."""
MAX_FITTED: Final = 5_000
"""Of more texts so many, evenly spaced, are looked at to fit: singular vectors of more hardly differ."""
_GRAMS: Final = (3, 4, 5)
_WORD: Final = re.compile(r"\w+")
_SPACE: Final = re.compile(r"\s+")
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_NOTHING: Final = 1e-6
_OVERSAMPLED: Final = 24
_ITERATIONS: Final = 3

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Hashed:
    """idf: of shape (COLUMNS,). projection: (COLUMNS, DIMENSION - 1), values that float16 holds exactly."""

    idf: Vectors
    projection: Vectors
    name: ClassVar[str] = "hashed"

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """IDF and singular vectors of these texts; without any, every text is as unknown as every other."""
        step = max(1, -(-len(texts) // MAX_FITTED))
        found = [_features(text) for text in texts[::step]]
        seen = np.bincount(np.concatenate([columns for columns, _ in found]), minlength=COLUMNS) if found else 0
        idf = (np.log((1 + len(found)) / (1 + seen * np.ones(COLUMNS))) + 1).astype(np.float32)
        projection = np.zeros((COLUMNS, DIMENSION - 1), np.float32)
        if found:
            directions = _leading_directions(_matrix(found, idf), DIMENSION - 1)
            projection[:, : directions.shape[1]] = directions.astype(np.float16)
        return cls(idf, projection)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`; the bits for a text do not depend on the others beside it."""
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            columns, counts = _features(text)
            row[:-1] = _weights(columns, counts, self.idf) @ self.projection[columns]
            length = float(np.sqrt(row @ row))
            if length > _NOTHING:
                row /= length
            else:
                row[:-1], row[-1] = 0, 1
        return vectors


def _features(text: str) -> tuple[Ints, Ints]:
    """The columns that a text has, ascending, and how often: words in the first BUCKETS, characters in the others."""
    plain = _SPACE.sub(" ", text[:MAX_CHARS].casefold())
    return np.unique(np.concatenate([_word_columns(plain), _gram_columns(plain)]), return_counts=True)


def _word_columns(text: str) -> Ints:
    words = [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text)]
    pairs = [first + b" " + second for first, second in itertools.pairwise(words)]
    return np.array([zlib.crc32(each) % BUCKETS for each in (*words, *pairs)], np.int64)


def _gram_columns(text: str) -> Ints:
    """A polynomial hash of each run of 3, 4 and 5 characters, its high bits mixed into the low ones."""
    characters = np.frombuffer(f" {text} ".encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    found = []
    for length in _GRAMS:
        count = max(0, len(characters) - length + 1)
        mixed = np.full(count, length, np.uint64)
        for shift in range(length):
            mixed = mixed * _MULTIPLIER + characters[shift : shift + count]
        found.append(((mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER) >> np.uint64(40))
    columns: Ints = (np.concatenate(found) % np.uint64(BUCKETS)).astype(np.int64) + BUCKETS
    return columns


def _weights(columns: Ints, counts: Ints, idf: Vectors) -> Vectors:
    """(1 + log tf) · idf, words and characters each of length 1."""
    weights = ((1 + np.log(counts)) * idf[columns]).astype(np.float32)
    border = int(np.searchsorted(columns, BUCKETS))
    for part in (weights[:border], weights[border:]):
        part /= max(float(np.sqrt(part @ part)), _NOTHING)
    return weights


def _matrix(found: Sequence[tuple[Ints, Ints]], idf: Vectors) -> sparse.csr_matrix:
    columns = np.concatenate([each for each, _ in found])
    weights = np.concatenate([_weights(*each, idf) for each in found])
    starts = np.concatenate([[0], np.cumsum([len(each) for each, _ in found])])
    return sparse.csr_matrix((weights, columns, starts), (len(found), COLUMNS))


def _leading_directions(matrix: sparse.csr_matrix, count: int) -> Vectors:
    """The leading right singular vectors, of shape (columns, at most count), largest first.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from a fixed start.
    """
    width = min(count + _OVERSAMPLED, *matrix.shape)
    basis = np.random.default_rng(0).standard_normal((matrix.shape[0], width)).astype(np.float32)
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
    small = np.asarray(basis.T @ matrix, np.float64)
    values, vectors = np.linalg.eigh(small @ small.T)
    largest = np.argsort(-values, kind="stable")[:count]
    largest = largest[values[largest] > _NOTHING]
    return np.asarray((small.T @ vectors[:, largest]) / np.sqrt(values[largest]), np.float32)

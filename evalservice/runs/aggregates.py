"""From items to metrics: the accumulator that a run's driver feeds and that yields `aggregated_results`.

    totals = Aggregator.of(scorers, seed=17)
    totals.add(cluster="passage-3", success=True, scores={"numeric_match": score})
    totals.results() -> {"numeric_match": {"value": 0.75, "stderr": 0.25, "ci_low": 0.30, "ci_high": 0.95, "n": 4,
                                           "coverage": 0.8, "interval": "wilson", "level": 0.95, "total": 5}}

Which interval, by the kind of metric and the data, never by the result:
- corpus metric: value from the summed statistics, "bootstrap" over items (over clusters, where items are clustered);
- clustered (a cluster with two or more scored items): "clustered_t", with the number of `clusters`;
- binary, one sample a test case: "wilson"; everything else, and binary metrics over several samples: "t".

A missing score is missing, not 0: `n` counts the test cases with a value, `coverage` is scored completions over all
(with one sample a test case: n / total). What is undefined is null. A test case takes 16 bytes and 8 for each number
of its metrics (BLEU: 10), whatever its texts.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evalservice.scoring import AnyScorer, Metric
from evalservice.statistics.clusters import dependent
from evalservice.statistics.intervals import (
    Interval,
    bootstrap_corpus_interval,
    clustered_mean_interval,
    mean_interval,
    proportion_interval,
)

NO_CLUSTER = 0


class ScoreLike(Protocol):
    """What is read of a score; `Score` and `ItemScore` are both. `samples` is optional: several completions."""

    @property
    def status(self) -> str: ...
    @property
    def values(self) -> Mapping[str, float | None]: ...
    @property
    def statistics(self) -> Mapping[str, tuple[float, ...]]: ...


Row = tuple[str | None, bool, Mapping[str, ScoreLike]]
"""A test case: its cluster, whether it has a usable completion, its scores by scorer key."""


@dataclass(slots=True)
class _Column:
    """A metric's numbers over the test cases that have one."""

    key: str
    metric: Metric
    values: array[float] = field(default_factory=lambda: array("d"))
    clusters: array[int] = field(default_factory=lambda: array("q"))
    width: int = 0
    scored: int = 0
    completions: int = 0
    sampled: bool = False

    def add(self, cluster: int, success: bool, score: ScoreLike | None) -> None:
        samples = getattr(score, "samples", ())
        self.completions += max(len(samples), 1)
        self.sampled = self.sampled or len(samples) > 1
        if score is None or not success or score.status != "scored":
            return
        name = self.metric.name
        numbers: tuple[float, ...]
        if self.metric.kind == "corpus":
            numbers = score.statistics.get(name, ())
            if not numbers or (self.width and len(numbers) != self.width):
                return
        else:
            value = score.values.get(name)
            numbers = () if value is None else (value,)
        if not numbers or not all(map(math.isfinite, numbers)):
            return
        self.width = len(numbers)
        self.values.extend(numbers)
        self.clusters.append(cluster)
        self.scored += sum(_has(sample, self.metric) for sample in samples) if samples else 1


class Aggregator:
    """Consumes test cases one at a time or in batches; the order does not matter but to the last digits of sums."""

    def __init__(self, metrics: Mapping[str, Sequence[Metric]], *, seed: int = 0, level: float = 0.95) -> None:
        """metrics: scorer key -> its metrics. seed: of the bootstrap. level: of every interval."""
        self._columns = [_Column(key, metric) for key, each in metrics.items() for metric in each]
        self._seed, self._level = seed, level
        self._total = 0
        self._failed = 0

    @classmethod
    def of(cls, scorers: Iterable[AnyScorer], *, seed: int = 0, level: float = 0.95) -> Aggregator:
        """An accumulator for the metrics of these scorers."""
        return cls({scorer.key: scorer.metrics for scorer in scorers}, seed=seed, level=level)

    @property
    def total(self) -> int:
        """Test cases so far."""
        return self._total

    @property
    def failed(self) -> int:
        """Test cases so far without a usable completion."""
        return self._failed

    def add(self, cluster: str | None, success: bool, scores: Mapping[str, ScoreLike]) -> None:
        """One test case. Without success its scores count as missing."""
        self._total += 1
        self._failed += not success
        code = NO_CLUSTER if cluster is None else _code(cluster)
        for column in self._columns:
            column.add(code, success, scores.get(column.key))

    def add_all(self, rows: Iterable[Row]) -> None:
        """Many test cases."""
        for cluster, success, scores in rows:
            self.add(cluster, success, scores)

    def results(self, resamples: int = 1000) -> dict[str, dict[str, Any]]:
        """`aggregated_results`: metric name -> value with uncertainty, ready for JSON. Can be asked at any time."""
        return {column.metric.name: self._result(column, resamples) for column in self._columns}

    def _result(self, column: _Column, resamples: int) -> dict[str, Any]:
        interval = _interval(column, self._seed, self._level, resamples)
        result = {
            "value": interval.value,
            "stderr": interval.stderr,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "n": interval.n,
            "coverage": column.scored / column.completions if column.completions else None,
            "interval": interval.method,
            "level": self._level,
            "total": self._total,
        }
        return result if interval.clusters is None else {**result, "clusters": interval.clusters}


def _interval(column: _Column, seed: int, level: float, resamples: int) -> Interval:
    values = np.frombuffer(column.values, dtype=np.float64) if column.values else np.empty(0)
    clusters = dependent(np.frombuffer(column.clusters, dtype=np.int64), NO_CLUSTER) if column.clusters else None
    if column.metric.kind == "corpus":
        if column.metric.aggregate is None:
            raise TypeError(f"the corpus metric {column.metric.name} has no aggregate")
        rows = values.reshape(-1, column.width or 1)
        return bootstrap_corpus_interval(
            rows, column.metric.aggregate, seed=seed, resamples=resamples, level=level, clusters=clusters
        )
    if clusters is not None:
        return clustered_mean_interval(values, clusters, level)
    if column.metric.kind == "binary" and not column.sampled and bool(np.isin(values, (0.0, 1.0)).all()):
        return proportion_interval(int(values.sum()), values.size, level)
    return mean_interval(values, level)


def _code(cluster: str) -> int:
    """A cluster's name as 64 bits: two names share a code once in some 10^19 pairs."""
    return int.from_bytes(hashlib.blake2b(cluster.encode(errors="surrogatepass"), digest_size=8).digest(), signed=True)


def _has(sample: ScoreLike, metric: Metric) -> bool:
    if sample.status != "scored":
        return False
    return metric.name in sample.statistics if metric.kind == "corpus" else sample.values.get(metric.name) is not None

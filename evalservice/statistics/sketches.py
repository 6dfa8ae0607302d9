"""Percentiles that add: a sketch of relative error 1 %, and the summary of a sample that keeps one.

    Sketch.of([12.0, 12.1, 340.0]).to_json() -> "20125:1 20126:1 20292:1"

DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): a value goes into the bucket of its logarithm to a base chosen so
that the middle of a bucket is within 1 % of everything in it. Counts of buckets add, so a sketch of the whole is the
sum of its parts' sketches, exactly, in any order. A bucket's code is one integer that grows with the value, negative
for negative values and 0 for zero. `evalservice.metrics.rollups` computes the same codes in SQL.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
SCALE = 1 / math.log(GAMMA)
"""Buckets per unit of the natural logarithm; SQL multiplies by this very double."""
OFFSET = 20_000
"""Added to a bucket's index, so that the code of every positive value is positive."""
SMALLEST, LARGEST = 1e-150, 1e150
"""Below the first a value counts as 0, beyond the second as unusable: their squares are no doubles."""


def usable(value: float) -> float | None:
    """The value as it is counted; None where it is not: not finite, or beyond 1e150."""
    if abs(value) < SMALLEST:
        return 0.0
    return value if abs(value) <= LARGEST else None


def code_of(value: float) -> int:
    """The bucket of a usable value."""
    if value == 0:
        return 0
    return int(math.copysign(OFFSET + math.ceil(math.log(abs(value)) * SCALE), value))


def value_of(code: int) -> float:
    """What stands for a bucket: within 1 % of every value in it."""
    if code == 0:
        return 0.0
    return math.copysign(2 * math.exp((abs(code) - OFFSET) / SCALE) / (GAMMA + 1), code)


@dataclass(frozen=True, slots=True)
class Sketch:
    """How many values each bucket holds, as (code, count) in the order of the values. Two of them add."""

    counts: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: Iterable[float]) -> Sketch:
        """The sketch of some values; those that are not usable are left out."""
        kept = (usable(value) for value in values)
        return cls._from(Counter(code_of(value) for value in kept if value is not None))

    @classmethod
    def from_json(cls, text: str) -> Sketch:
        """From `code:count` between spaces; without a count it is 1, and a code may come more than once."""
        counts: Counter[int] = Counter()
        for bucket in text.split():
            code, _, count = bucket.partition(":")
            counts[int(code)] += int(count or 1)
        return cls._from(counts)

    @classmethod
    def _from(cls, counts: Mapping[int, int]) -> Sketch:
        return cls(tuple(sorted(counts.items())))

    def to_json(self) -> str:
        """`code:count` between spaces: smaller than an object, and faster to build and to merge in SQL."""
        return " ".join(f"{code}:{count}" for code, count in self.counts)

    def __add__(self, other: Sketch) -> Sketch:
        return Sketch._from(Counter(dict(self.counts)) + Counter(dict(other.counts)))

    @property
    def n(self) -> int:
        return sum(count for _, count in self.counts)

    def quantile(self, q: float) -> float | None:
        """The smallest value that at least the share `q` of the values do not exceed, within 1 % of itself.

        None without values. Raises ValueError unless 0 ≤ q ≤ 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"the quantile is {q}, not between 0 and 1")
        rank = max(1, math.ceil(q * self.n))
        for code, count in self.counts:
            rank -= count
            if rank <= 0:
                return value_of(code)
        return None


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample without its values: enough for mean, spread, extremes and percentiles. Two of them add.

    `unusable` counts values that are not finite or beyond 1e150; they are in none of the other fields.
    """

    n: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0
    min: float | None = None
    max: float | None = None
    unusable: int = 0
    sketch: Sketch = Sketch()

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """The summary of some values."""
        given = [usable(value) for value in values]
        kept = [value for value in given if value is not None]
        return cls(
            len(kept),
            math.fsum(kept),
            math.fsum(value * value for value in kept),
            min(kept, default=None),
            max(kept, default=None),
            len(given) - len(kept),
            Sketch.of(kept),
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Summary:
        """From a value of `metric_aggregations.metrics`, where a large double is an integer of many digits."""
        low, high = (None if stored[name] is None else float(stored[name]) for name in ("min", "max"))
        return cls(
            stored["n"],
            float(stored["sum"]),
            float(stored["sum_squares"]),
            low,
            high,
            stored["unusable"],
            Sketch.from_json(stored["sketch"]),
        )

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        names = ("n", "sum", "sum_squares", "min", "max", "unusable")
        return {**{name: getattr(self, name) for name in names}, "sketch": self.sketch.to_json()}

    def __add__(self, other: Summary) -> Summary:
        low = [one.min for one in (self, other) if one.min is not None]
        high = [one.max for one in (self, other) if one.max is not None]
        return Summary(
            self.n + other.n,
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
            min(low, default=None),
            max(high, default=None),
            self.unusable + other.unusable,
            self.sketch + other.sketch,
        )

    @property
    def mean(self) -> float | None:
        return self.sum / self.n if self.n else None

    @property
    def stddev(self) -> float | None:
        """Of the sample, with n - 1; None below two values. A spread below rounding is 0."""
        if self.n < 2:
            return None
        squares = self.sum_squares - self.sum * self.sum / self.n
        return math.sqrt(squares / (self.n - 1)) if squares > 4 * sys.float_info.epsilon * self.sum_squares else 0.0

    def quantile(self, q: float) -> float | None:
        """As `Sketch.quantile`, and never outside of what was measured: q of 0 and 1 are the extremes themselves."""
        found = self.sketch.quantile(q)
        if found is None or self.min is None or self.max is None:
            return None
        if q in (0, 1):
            return self.max if q else self.min
        return min(max(found, self.min), self.max)

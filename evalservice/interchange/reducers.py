"""How Inspect AI makes one value of an item's epochs, and numbers of its letters and words.

number_of("P") -> 0.5        reduced("pass_at_2", [1.0, 0.0, 1.0]) -> 1.0
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

from evalservice.interchange.logjson import finite

MEAN = "mean"
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_COUNTED = re.compile(r"(pass_at|at_least)_(\d{1,6})")


def number_of(value: Any) -> float | None:
    """A score as a number; None for NaN, which means unscored, and for what is no number."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return finite(value)
    if value in _LETTERS:
        return _LETTERS[value]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        return finite(float(value))
    except ValueError:
        return None


def is_known(reducer: str) -> bool:
    """Whether `reduced` can do it."""
    return reducer in (MEAN, "median", "mode", "max") or _COUNTED.fullmatch(reducer) is not None


def reduced(reducer: str, epochs: Sequence[float]) -> float | None:
    """One value of the epochs that have one; None without any."""
    if not epochs:
        return None
    if reducer == MEAN:
        return sum(epochs) / len(epochs)
    if reducer == "median":
        return statistics.median(epochs)
    if reducer == "mode":
        return Counter(epochs).most_common(1)[0][0]
    if reducer == "max":
        return max(epochs)
    found = _COUNTED.fullmatch(reducer)
    if found is None:
        raise ValueError(f"no such reducer: {reducer}")
    wanted, total = int(found[2]), len(epochs)
    correct = sum(value >= 1.0 for value in epochs)
    if found[1] == "at_least":
        return float(correct >= wanted)
    if total - correct < wanted:
        return 1.0
    return 1.0 - prod(1.0 - wanted / count for count in range(total - correct + 1, total + 1))

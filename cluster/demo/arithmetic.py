"""The demo's benchmark: questions of two-digit arithmetic, and which of them no demo model was trained on.

A test case:

    {"id": "addition-47-38", "input": "What is 47 + 38?", "expected_output": "85",
     "metadata": {"operation": "addition", "carry": true}}

The split is by unordered pair of numbers, so that a model that saw 38 + 47 is never asked 47 + 38 as something new.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Operation = Literal["addition", "subtraction"]

SPLIT_SEED = 20_240_601
HELD_OUT_SHARE = 0.15
NUMBERS = range(10, 100)
SIGNS: dict[Operation, str] = {"addition": "+", "subtraction": "-"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One question: `left` and `right` have two digits each, and a difference is never negative."""

    operation: Operation
    left: int
    right: int

    @property
    def question(self) -> str:
        return f"What is {self.left} {SIGNS[self.operation]} {self.right}?"

    @property
    def answer(self) -> str:
        return str(self.left + self.right if self.operation == "addition" else self.left - self.right)

    @property
    def carry(self) -> bool:
        """Whether the ones carry (or borrow): what makes a problem hard."""
        left, right = self.left % 10, self.right % 10
        return left + right > 9 if self.operation == "addition" else left < right

    def test_case(self) -> dict[str, Any]:
        return {
            "id": f"{self.operation}-{self.left}-{self.right}",
            "input": self.question,
            "expected_output": self.answer,
            "metadata": {"operation": self.operation, "carry": self.carry},
        }


Pair = tuple[int, int]


def split() -> tuple[list[Pair], list[Pair]]:
    """The unordered pairs to train on and those held out; the same on every call and machine."""
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS if a >= b]
    random.Random(SPLIT_SEED).shuffle(pairs)
    held_out = round(len(pairs) * HELD_OUT_SHARE)
    return pairs[held_out:], pairs[:held_out]


def problems_of(pairs: Iterable[Pair]) -> list[Problem]:
    """Every problem on these pairs: both orders of the sum, and the difference that is not negative."""
    found = []
    for a, b in pairs:
        found += [Problem("addition", a, b), Problem("subtraction", a, b)]
        if a != b:
            found.append(Problem("addition", b, a))
    return found


def training_problems() -> list[Problem]:
    """What demo models are trained on."""
    return problems_of(split()[0])


def held_out_problems(n: int = 400, seed: int = 0) -> list[dict[str, Any]]:
    """`n` test cases that no demo model was trained on: one per held-out pair, so that they are independent."""
    pairs = split()[1]
    if not 0 < n <= len(pairs):
        raise ValueError(f"n: {n} is not valid: there are 1 to {len(pairs)} independent held-out problems")
    rng = random.Random(seed)
    return [rng.choice(problems_of([pair])).test_case() for pair in rng.sample(pairs, n)]

"""What the API takes and gives about comparisons; A/B tests and experiments have schemas of their own."""

from __future__ import annotations

import uuid
from typing import Literal

from pydantic import BaseModel

Gate = Literal["go", "no_go", "inconclusive"]


class RetestRead(BaseModel):
    """What measuring the same configuration again gave: `repeats` other runs, the standard deviation of the value over
    all of them, and the share of test cases that scored differently."""

    repeats: int
    stderr: float
    changed: float


class SystemRead(BaseModel):
    """A run's own value on a metric, over the test cases that are compared. retest: null unless it was repeated."""

    model: str
    value: float | None
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    coverage: float
    rank: int
    retest: RetestRead | None


class PairRead(BaseModel):
    """Two runs; the difference is run_a minus run_b, whatever is better, with its 95 % interval.

    wins_a, wins_b: test cases on which the one is better, the metric's direction considered. simultaneous_*: the
    interval at 1 - alpha / pairs. noticeable: the least difference that so many test cases would show. needed: further
    test cases to show the one that was seen. won_items, lost_items: some of the test cases that decide. retest_stderr:
    how far the difference moves when both are only measured again; null unless both were repeated.
    """

    run_a: uuid.UUID
    run_b: uuid.UUID
    n: int
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    interval: str
    simultaneous_low: float | None
    simultaneous_high: float | None
    test: str
    p_value: float
    p_corrected: float
    effect: str | None
    effect_size: float | None
    wins_a: int
    ties: int
    wins_b: int
    noticeable: float | None
    needed: int | None
    also: dict[str, float | None]
    won_items: list[int]
    lost_items: list[int]
    retest_stderr: float | None


class MetricRead(BaseModel):
    """One metric over all runs: the verdict, and in plain words."""

    kind: str
    higher_is_better: bool
    verdict: Literal["winner", "equivalent", "inconclusive"]
    winner: uuid.UUID | None
    said: str
    runs: dict[str, SystemRead]
    pairs: list[PairRead]
    overall: dict[str, float | str | None] | None


class ComparisonRead(BaseModel):
    """Runs compared by test case. `primary`: the metric that decides the gate, of the first run, the candidate:
    "go" when it is the winner, or equivalent to the best; "no_go" when another is the winner."""

    primary: str
    gate: Gate
    alpha: float
    margin: float
    test_cases: int
    clustered: bool
    warnings: list[str]
    metrics: dict[str, MetricRead]

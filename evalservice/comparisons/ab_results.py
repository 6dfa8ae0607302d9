"""What an A/B test has found, so far or in the end: the JSON of `ab_tests.results`.

    {"format": 1, "verdict": "winner", "said": "large is better than mini: …", "leaders": ["0197…"],
     "test_cases": 312, "planned_test_cases": 1097,
     "pairs": [{"model_a": "0197…", "model_b": "0198…", "n": 312, "wins_a": 61, "ties": 224, "wins_b": 27,
                "difference": 0.109, "ci_low": 0.012, "ci_high": 0.205, "win_share": 0.69, "win_share_low": 0.51, …}],
     "models": {"0197…": {"evaluation_run_id": "0199…", "is_shared": false, "test_cases": 312, "stopped": false}, …},
     "looks": [{"at": "2026-03-01T12:00:00Z", "test_cases": 48, "p_values": [0.31]}, …],
     "calls": {"planned": 2194, "made": 668, "saved_by_stopping": 1526, "saved_by_sharing": 0},
     "comparison": {…}}

`comparison` is what `/v1/comparisons` gives out, over the test cases that the test has taken of each run.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from evalservice.comparisons.schemas import ComparisonRead

MOST_LOOKS = 100
"""About so many looks are kept, evenly over the plan, and the last one."""


class PairState(BaseModel):
    """Two models at the last look; differences are model_a minus model_b, wins consider the metric's direction.

    ci_*: the difference's 95 % confidence sequence, which holds at all looks at once. win_share: model_a's share of the
    test cases that tell the two apart, with the 95 % bounds of the test itself (binary metrics). p_value: holds at
    all looks; p_corrected: Holm over the pairs. outcome: what was decided, None while nothing is.
    """

    model_a: uuid.UUID
    model_b: uuid.UUID
    n: int
    wins_a: int
    ties: int
    wins_b: int
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    win_share: float | None = None
    win_share_low: float | None = None
    win_share_high: float | None = None
    p_value: float
    p_corrected: float
    outcome: Literal["a", "b", "equivalent"] | None = None


class ModelState(BaseModel):
    """A model's part: its run, the test cases taken of it, and whether it was stopped because it had lost."""

    evaluation_run_id: uuid.UUID
    is_shared: bool
    test_cases: int
    stopped: bool = False


class Look(BaseModel):
    """One look at the results that had arrived. p_values: corrected, in the order of `pairs`."""

    at: datetime
    test_cases: int
    p_values: list[float]


class Calls(BaseModel):
    """Completions asked of models; attempts that were repeated are not counted.

    planned: at most, by the plan and without sharing. saved_by_stopping: not asked because the test had decided.
    """

    planned: int
    made: int
    saved_by_stopping: int
    saved_by_sharing: int


class ABTestResults(BaseModel):
    """What an A/B test has found; while it runs, so far. verdict: None until it is known. leaders: the models that no
    other beats; several are a tie. error: why a test failed."""

    format: Literal[1] = 1
    verdict: Literal["winner", "equivalent", "inconclusive"] | None = None
    said: str = ""
    leaders: list[uuid.UUID] = []
    test_cases: int = 0
    planned_test_cases: int = 0
    pairs: list[PairState] = []
    models: dict[uuid.UUID, ModelState] = {}
    looks: list[Look] = []
    calls: Calls | None = None
    comparison: ComparisonRead | None = None
    error: str = ""


class StoredResults(ABTestResults):
    """As it is stored: with what the next turn goes on from, until the test has ended. stopped: it is decided, and its
    runs were asked to end."""

    race: dict[str, Any] | None = None
    stopped: bool = False

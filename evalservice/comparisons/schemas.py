"""What the API takes and gives about comparisons and experiments; about A/B tests: `ab_schemas`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from evalservice.tables import Experiment, ExperimentRun
from evalservice.web.fields import JsonObject, Name, Tag, Text, columns

Gate = Literal["go", "no_go", "inconclusive"]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewExperiment(_Given):
    """A grid of runs that tests a hypothesis."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "temperature",
                    "hypothesis": "GSM8K does not suffer below 0.7",
                    "experiment_config": {"models": ["mini"], "benchmarks": ["gsm8k"], "temperature": [0, 0.3, 0.7, 1]},
                }
            ]
        },
    )

    name: Name
    description: Text = ""
    hypothesis: Text = ""
    objective: Text = ""
    experiment_config: JsonObject = {}
    tags: tuple[Tag, ...] = ()
    metadata: JsonObject = {}


class ExperimentChanges(_Given):
    """What may change; the configuration only while it is a draft. `archived` takes it out of lists."""

    name: Name | None = None
    description: Text | None = None
    hypothesis: Text | None = None
    objective: Text | None = None
    experiment_config: JsonObject | None = None
    tags: tuple[Tag, ...] | None = None
    metadata: JsonObject | None = None
    status: Literal["archived"] | None = None


class ExperimentRead(BaseModel):
    """An experiment and how many runs it has."""

    id: uuid.UUID
    name: str
    description: str
    hypothesis: str
    objective: str
    status: str
    experiment_config: dict[str, Any]
    template_id: uuid.UUID | None
    total_runs: int
    last_run_at: datetime | None
    tags: list[Any]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Experiment) -> Self:
        """From the table."""
        own: dict[str, Any] = {"metadata": row.metadata_}
        return cls(**columns(row, cls, *own), **own)


class ExperimentRunRead(BaseModel):
    """One point of an experiment's grid."""

    id: uuid.UUID
    experiment_id: uuid.UUID
    run_number: int
    name: str
    description: str
    status: str
    run_config: dict[str, Any]
    results: dict[str, Any]
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    created_at: datetime

    @classmethod
    def of(cls, row: ExperimentRun) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


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

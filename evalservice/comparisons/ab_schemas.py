"""What the API takes and gives about A/B tests."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from evalservice.comparisons.ab_results import ABTestResults
from evalservice.tables import ABTest, ABTestRun
from evalservice.web.fields import JsonObject, Name, Reference, Text, columns

MOST_MODELS = 20
MOST_METRICS = 50
DISCORDANCE = 0.25

Significance = Annotated[float, Field(gt=0, lt=1)]
MetricName = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ABTestConfig(BaseModel):
    """An A/B test's design.

    fixed: every model answers the same random sample, and one test at its end decides. sequential: the results are
    looked at after every test case, by a test that allows it; a model that has lost is asked no more, and all end when
    it is decided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: Literal["fixed", "sequential"] = "fixed"
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=MOST_METRICS)] = ()
    """The first decides, the others are told as well. Default: the benchmark's primary metric."""
    test_cases: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """A random sample of so many. Default: what power and effect call for, else all."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The chance to find a difference as large as the minimum detectable effect."""
    minimum_detectable_effect: Positive | None = None
    """The difference that the test shall find, in the metric's units."""
    discordance: Annotated[float, Field(gt=0, le=1)] | None = None
    """Binary metrics: the share of test cases that one of two models gets right and the other wrong; a guess, by
    default 0.25 (or the effect, when that is larger)."""
    difference_sd: Positive | None = None
    """Other metrics: the standard deviation of the difference on a test case; a guess."""
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The least difference that matters: a winner is better by more, within it models are equivalent."""
    max_model_calls: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    """The budget: completions over all models, repeated attempts not counted."""
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests in flight of each run."""
    share: bool = True
    """Use runs of the same model, benchmark and configuration that are there or under way."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the order of the test cases, the permutations and the resamples."""


class ABTestPlan(BaseModel):
    """What follows from a configuration: the sample, and what it costs at most.

    test_cases: for each model, at most. fixed_test_cases: what a fixed design with the asked power needs; None where
    no effect is named. noticeable: the least difference that a fixed design of `test_cases` finds with that power; None
    where nothing is known of the spread. model_calls: completions over all models, at most.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    metrics: tuple[str, ...]
    epochs: int
    pairs: int
    test_cases: int
    fixed_test_cases: int | None
    noticeable: float | None
    model_calls: int


class NewABTest(BaseModel):
    """Two or more models on one benchmark, paired by test case. The first model is the candidate."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "mini against large",
                    "benchmark": "gsm8k",
                    "models": ["mini", "large"],
                    "test_config": {"design": "sequential", "minimum_detectable_effect": 0.05},
                }
            ]
        },
    )

    name: Name
    benchmark: Reference
    models: Annotated[tuple[Reference, ...], Field(min_length=2, max_length=MOST_MODELS)]
    description: Text = ""
    significance_level: Significance = 0.05
    """The chance that any model is said to be better that is not."""
    test_config: ABTestConfig = ABTestConfig()
    metadata: JsonObject = {}


class ABTestChanges(BaseModel):
    """What may change; the significance level and the configuration only while it is a draft."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = None
    description: Text | None = None
    metadata: JsonObject | None = None
    significance_level: Significance | None = None
    test_config: ABTestConfig | None = None


class ABTestRunRead(BaseModel):
    """A model's run: how far it is. is_shared: it was there before the test, which never stops it."""

    model_id: uuid.UUID
    model: str
    evaluation_run_id: uuid.UUID
    is_shared: bool
    status: str
    total_test_cases: int
    completed_test_cases: int
    failed_test_cases: int

    @classmethod
    def of(cls, link: ABTestRun) -> Self:
        """From the tables."""
        run = link.evaluation_run
        names = ("status", "total_test_cases", "completed_test_cases", "failed_test_cases")
        progress = {name: getattr(run, name) for name in names}
        return cls(
            model_id=link.model_id,
            model=run.model.name,
            evaluation_run_id=link.evaluation_run_id,
            is_shared=link.is_shared,
            **progress,
        )


class ABTestRead(BaseModel):
    """An A/B test: its design and plan, its runs once it was started, and what it has found so far or in the end."""

    id: uuid.UUID
    name: str
    description: str
    status: str
    benchmark_id: uuid.UUID | None
    dataset_id: uuid.UUID
    models: list[uuid.UUID]
    """As they were given: the first is the candidate."""
    test_config: ABTestConfig
    plan: ABTestPlan | None
    significance_level: float
    runs: list[ABTestRunRead]
    results: ABTestResults
    winner_model_id: uuid.UUID | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: ABTest) -> Self:
        """From the tables."""
        order = model_order(row)
        own: dict[str, Any] = {
            "benchmark_id": row.test_config.get("benchmark"),
            "models": order,
            "test_config": config_of(row),
            "plan": plan_of(row),
            "runs": sorted((ABTestRunRead.of(link) for link in row.runs), key=lambda run: order.index(run.model_id)),
            "results": ABTestResults.model_validate(row.results),
            "metadata": row.metadata_,
        }
        return cls(**columns(row, cls, *own), **own)


def config_of(row: ABTest) -> ABTestConfig:
    """The configuration as it was given."""
    known = ABTestConfig.model_fields.keys()
    return ABTestConfig.model_validate({name: value for name, value in row.test_config.items() if name in known})


def plan_of(row: ABTest) -> ABTestPlan | None:
    """What follows from the configuration; None where it names no benchmark."""
    plan = row.test_config.get("plan")
    return None if plan is None else ABTestPlan.model_validate(plan)


def model_order(row: ABTest) -> list[uuid.UUID]:
    """The models as they were given, the candidate first."""
    given: Sequence[str] = row.test_config.get("models", ())
    return [uuid.UUID(each) for each in given] or sorted(model.id for model in row.models)


def planned_discordance(config: ABTestConfig) -> float:
    """The share of test cases that tells two models apart, as it is given or guessed."""
    return config.discordance or max(DISCORDANCE, config.minimum_detectable_effect or 0.0)

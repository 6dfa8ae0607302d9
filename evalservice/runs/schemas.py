"""What the API takes and gives about runs and their results."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from evalservice.catalog.criteria_parts import abridged
from evalservice.catalog.model_config import ModelConfig
from evalservice.errors import InvalidInput
from evalservice.records import CacheUse
from evalservice.runs.completion_cache import CACHED
from evalservice.runs.service import primary_metric
from evalservice.runs.spending import budget_of
from evalservice.tables import EvaluationResult, EvaluationRun
from evalservice.web.fields import Line, Reference, columns

Priority = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


MaxCost = Annotated[Decimal, Field(gt=0, max_digits=20, decimal_places=10)]


class RunBody(BaseModel):
    """A run to make: one model on one benchmark."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"model": "mini", "benchmark": "gsm8k", "max_concurrency": 256, "config": {"temperature": 0}}]
        },
    )

    model: Reference
    benchmark: Reference
    config: ModelConfig = ModelConfig()
    """Overrides the model's configuration for this run."""
    limit: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Only the first so many test cases."""
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_cost: MaxCost | None = None
    """The run's budget in US dollars: reserved before anything is sent, and never exceeded."""
    completion_cache: CacheUse | None = None
    """Of which requests completions that the organization has stored are used again: off, deterministic (temperature
    0), all. null: as the organization's setting `completion_cache` says, else off."""
    name: Line = ""
    priority: Priority = 0
    """Higher is started earlier, within the organization."""


class RunChanges(BaseModel):
    """What may change about a run: its name, and its priority while it is pending."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line | None = None
    priority: Priority | None = None


class RunResume(BaseModel):
    """How to go on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_cost: MaxCost | None = None
    """Another budget in US dollars, over all that the run has spent so far."""


class RunRead(BaseModel):
    """A run: what it is, how far it is, what came out. `waiting_for` says what a run that stands still waits for."""

    id: uuid.UUID
    name: str
    status: str
    model: str
    model_id: uuid.UUID
    benchmark: str
    benchmark_id: uuid.UUID
    dataset_id: uuid.UUID
    priority: int
    progress: float
    total_test_cases: int
    completed_test_cases: int
    failed_test_cases: int
    duration_seconds: float | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    total_cost: Decimal | None
    cached_test_cases: int
    """How many of the completed ones needed no model, because their completions were stored."""
    max_cost: Decimal | None
    """The run's budget."""
    reserved_cost: Decimal
    """What counts against it: what was spent, and what may have been."""
    aggregated_results: dict[str, Any]
    primary_metric: str
    error_message: str
    waiting_for: str
    requested_work: str | None
    work_error: str
    """Why the last thing that was asked of an ended run (resume, rescore) could not be done."""
    cancel_requested: bool
    attempt: int
    orphaned: int
    imported: str | None
    """The format of the log that the run was imported from; `provenance.imported` has the rest."""
    configuration_hash: str
    config: dict[str, Any]
    """The run's own configuration, as it was given."""
    effective_config: dict[str, Any]
    evaluation_config: dict[str, Any]
    provenance: dict[str, Any]
    latency_ms: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, row: EvaluationRun) -> Self:
        """From the table."""
        own: dict[str, Any] = {
            "model": row.model.name,
            "benchmark": row.benchmark.name,
            "primary_metric": _primary_metric(row),
            "waiting_for": row.metadata_.get("waiting_for", ""),
            "latency_ms": row.metadata_.get("latency_ms", {}),
            "imported": row.provenance.get("imported", {}).get("format"),
            "work_error": row.metadata_.get("work_error", ""),
            "cancel_requested": row.cancel_requested_at is not None,
            "config": row.model_config,
            "cached_test_cases": row.metadata_.get(CACHED, 0),
            "max_cost": budget_of(row.evaluation_config),
            "effective_config": row.provenance.get("config", {}),
        }
        return cls(**columns(row, cls, *own), **own)

    @classmethod
    def in_list(cls, row: EvaluationRun) -> Self:
        """As lists show it, without the benchmark's groups of examples."""
        found = cls.of(row)
        criteria = abridged(found.provenance.get("criteria") or {})
        return found.model_copy(update={"provenance": {**found.provenance, "criteria": criteria}} if criteria else {})


def _primary_metric(row: EvaluationRun) -> str:
    """The first metric where a scorer is not installed any more, or none is named: such a run can be looked at, too."""
    try:
        return primary_metric(row)
    except (InvalidInput, KeyError):
        return next(iter(row.aggregated_results), "")


class RunProgress(BaseModel):
    """How far a run is: the data of a progress event."""

    id: uuid.UUID
    status: str
    progress: float
    total_test_cases: int
    completed_test_cases: int
    failed_test_cases: int
    waiting_for: str
    error_message: str

    @classmethod
    def of(cls, row: EvaluationRun) -> Self:
        """From the table."""
        own: dict[str, Any] = {"waiting_for": row.metadata_.get("waiting_for", "")}
        return cls(**columns(row, cls, *own), **own)


class RunAsked(BaseModel):
    """What became of a request to cancel, resume or rescore a run."""

    id: uuid.UUID
    status: str
    requested_work: str | None = None
    cancel_requested: bool = False


class ResultRead(BaseModel):
    """The one row of a test case: what was asked, expected and answered, and how it was scored."""

    test_case_index: int
    test_case_id: str
    cluster: str | None
    input_data: Any
    expected_output: Any
    actual_output: Any
    metrics: dict[str, float | None]
    success: bool
    error_kind: str
    error_message: str
    latency_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    executed_at: datetime
    completion_info: dict[str, Any]
    score_details: dict[str, Any]

    @classmethod
    def of(cls, row: EvaluationResult) -> Self:
        """From the table."""
        return cls(**columns(row, cls))

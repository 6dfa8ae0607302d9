"""What the API takes and gives about experiments, their numbered runs and their templates."""

from __future__ import annotations

import math
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evalservice.catalog.model_config import ModelConfig
from evalservice.comparisons.ab_schemas import MetricName, Significance
from evalservice.tables import Experiment, ExperimentRun, ExperimentTemplate
from evalservice.web.fields import JsonObject, Name, Reference, Tag, Text, columns

MOST_CELLS = 200
"""Runs of one experiment run: a grid grows faster than one thinks."""
MOST_LEVELS = 50

Levels = Annotated[tuple[Any, ...], Field(min_length=1, max_length=MOST_LEVELS)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentConfig(_Given):
    """A grid: every model on every benchmark with every combination of the parameters' values.

    The first model with each parameter's first value is the baseline that the others are compared with.
    """

    models: Annotated[tuple[Reference, ...], Field(min_length=1, max_length=MOST_LEVELS)]
    benchmarks: Annotated[tuple[Reference, ...], Field(min_length=1, max_length=MOST_LEVELS)]
    parameters: Annotated[dict[MetricName, Levels], Field(max_length=10)] = {}
    """A model configuration's keys, each with the values to try."""
    metric: MetricName | None = None
    """What the report compares. Default: each benchmark's primary metric."""
    test_cases: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """A random sample of each benchmark; default: all."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    significance_level: Significance = 0.05
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    share: bool = True
    """Use what runs of the same model, benchmark and configuration have answered."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        cells = math.prod(map(len, (self.models, self.benchmarks, *self.parameters.values())))
        if cells > MOST_CELLS:
            raise ValueError(f"a grid of {cells:,} cells; at most {MOST_CELLS} are allowed")
        for key, values in self.parameters.items():
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"parameters.{key}: each value once")
            for value in values:
                _check_parameter(key, value)
        return self


def _check_parameter(key: str, value: Any) -> None:
    try:
        ModelConfig.model_validate({key: value})
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"parameters.{key}: {value!r:.80} is not valid: {reason}") from None


class NewExperiment(_Given):
    """A grid of runs that tests a hypothesis; given, or taken from a template."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "temperature",
                    "hypothesis": "GSM8K does not suffer below 0.7",
                    "experiment_config": {
                        "models": ["mini"],
                        "benchmarks": ["gsm8k"],
                        "parameters": {"temperature": [0, 0.3, 0.7, 1]},
                    },
                }
            ]
        },
    )

    name: Name
    description: Text = ""
    hypothesis: Text = ""
    objective: Text = ""
    experiment_config: ExperimentConfig | None = None
    template: Reference | None = None
    """A template's name or id: its hypothesis, objective, configuration and tags, where none are given here."""
    tags: tuple[Tag, ...] = ()
    metadata: JsonObject = {}


class ExperimentChanges(_Given):
    """What may change; the configuration only while it is a draft. `archived` takes it out of lists."""

    name: Name | None = None
    description: Text | None = None
    hypothesis: Text | None = None
    objective: Text | None = None
    experiment_config: ExperimentConfig | None = None
    tags: tuple[Tag, ...] | None = None
    metadata: JsonObject | None = None
    status: Literal["archived"] | None = None


class NewTemplate(_Given):
    """What experiments are made from."""

    name: Name
    description: Text = ""
    hypothesis: Text = ""
    objective: Text = ""
    experiment_config: ExperimentConfig
    tags: tuple[Tag, ...] = ()
    metadata: JsonObject = {}


class TemplateRead(BaseModel):
    """A template of experiments."""

    id: uuid.UUID
    name: str
    description: str
    hypothesis: str
    objective: str
    experiment_config: dict[str, Any]
    tags: list[Any]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: ExperimentTemplate) -> Self:
        """From the table."""
        own: dict[str, Any] = {"metadata": row.metadata_}
        return cls(**columns(row, cls, *own), **own)


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


class Cell(BaseModel):
    """One point of a grid and the run that measures it. is_shared: the run was there before."""

    model_id: uuid.UUID
    model: str
    benchmark_id: uuid.UUID
    benchmark: str
    parameters: dict[str, Any]
    evaluation_run_id: uuid.UUID
    is_shared: bool

    @property
    def label(self) -> str:
        """The model, and the parameters' values."""
        return ", ".join([self.model, *(f"{key} {value}" for key, value in self.parameters.items())])


class CellResult(Cell):
    """A cell and how its run stands. total_cost: US dollars."""

    status: str
    total_test_cases: int
    completed_test_cases: int
    failed_test_cases: int
    aggregated_results: dict[str, Any]
    total_cost: Decimal | None
    error_message: str


class ExperimentRunRead(BaseModel):
    """One numbered run of an experiment: the grid that was asked, and each cell with what it has found.

    results: once it has ended, {"cells": as `cells` were then, "error": why it failed}.
    """

    id: uuid.UUID
    experiment_id: uuid.UUID
    run_number: int
    name: str
    description: str
    status: str
    run_config: dict[str, Any]
    cells: list[CellResult]
    results: dict[str, Any]
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    created_at: datetime

    @classmethod
    def of(cls, row: ExperimentRun) -> Self:
        """From the tables."""
        return cls(**columns(row, cls, "cells"), cells=cell_results(row))


def cells_of(row: ExperimentRun) -> list[Cell]:
    """The cells of a run, in the grid's order."""
    return [Cell.model_validate(each) for each in row.run_config.get("cells", ())]


def cell_results(row: ExperimentRun) -> list[CellResult]:
    """The cells of a run and how their runs stand."""
    runs = {run.id: run for run in row.evaluation_runs}
    names = CellResult.model_fields.keys() - Cell.model_fields.keys()
    return [
        CellResult(**dict(cell), **{name: getattr(runs[cell.evaluation_run_id], name) for name in names})
        for cell in cells_of(row)
        if cell.evaluation_run_id in runs
    ]

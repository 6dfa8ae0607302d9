"""The report of a numbered experiment run, as data: what is drawn from it is in `rendering`."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

from pydantic import BaseModel


class CellScore(BaseModel):
    """A cell's value of the metric with its 95 % interval. cost: US dollars for 1,000 test cases, None where no price
    is known. pareto: no other cell is at least as good and as cheap, and better in one of both."""

    label: str
    model: str
    parameters: dict[str, Any]
    evaluation_run_id: uuid.UUID
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    coverage: float
    cost: Decimal | None
    pareto: bool


class LevelScore(BaseModel):
    """A level of a factor: the mean over the test cases, each being its mean over the level's cells, with its 95 %
    interval."""

    factor: str
    level: str
    cells: int
    value: float | None
    ci_low: float | None
    ci_high: float | None


class Difference(BaseModel):
    """A cell minus the baseline, over the test cases that both have scored, with its 95 % interval.

    p_corrected: Holm over all differences of the benchmark. better: whether the cell is, None while that is not sure.
    """

    label: str
    n: int
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    test: str
    p_value: float
    p_corrected: float
    better: bool | None


class BenchmarkReport(BaseModel):
    """What was found on one benchmark. problem: why nothing can be compared; the rest is empty then."""

    benchmark: str
    metric: str
    higher_is_better: bool
    test_cases: int
    baseline: str
    cells: list[CellScore]
    levels: list[LevelScore]
    differences: list[Difference]
    warnings: list[str]
    problem: str = ""


class ReportRead(BaseModel):
    """A numbered run of an experiment, told to the end. total_cost: US dollars that this run has cost: shared runs were
    paid before."""

    experiment: str
    description: str
    hypothesis: str
    objective: str
    run_number: int
    status: str
    significance_level: float
    model_calls: int
    shared_cells: int
    total_cost: Decimal | None
    benchmarks: list[BenchmarkReport]

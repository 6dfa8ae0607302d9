"""What an export says of its run, whatever the format, so that formats know no database."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.records import JSON
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import Metric
from evalservice.tables import EvaluationRun


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run that is exported. model_id: PLATFORM/MODEL, as other tools name models. completed, failed: test cases."""

    id: uuid.UUID
    model: str
    model_id: str
    platform: str
    benchmark: str
    dataset: Mapping[str, str]
    criteria: Mapping[str, JSON]
    results: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]
    evaluation_config: Mapping[str, Any]
    status: str
    completed: int
    failed: int
    version: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def when(self) -> datetime:
        """When it was measured."""
        return self.completed_at or self.created_at

    @property
    def epochs(self) -> int:
        """Samples of each test case."""
        return int(self.criteria.get("epochs", 1))

    def metrics(self) -> list[Metric]:
        """Of all its scorers. Raises InvalidInput when one is not installed any more."""
        scorers = scorers_of(EvaluationCriteria.model_validate(self.criteria))
        return [metric for scorer in scorers for metric in scorer.metrics]


def exported_run(run: EvaluationRun) -> ExportedRun:
    """From the table."""
    called = run.model.platform_model_id
    return ExportedRun(
        id=run.id,
        model=run.model.name,
        model_id=called if "/" in called else f"{run.model.platform}/{called}",
        platform=run.model.platform,
        benchmark=run.provenance["benchmark"]["name"],
        dataset=run.provenance["dataset"],
        criteria=run.provenance["criteria"],
        results=run.aggregated_results,
        config=run.provenance["config"],
        evaluation_config=run.evaluation_config,
        status=run.status,
        completed=run.completed_test_cases,
        failed=run.failed_test_cases,
        version=version("evalservice"),
        created_at=run.created_at,
        started_at=run.started_at,
        completed_at=run.completed_at,
    )

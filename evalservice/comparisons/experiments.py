"""Experiments: drafts and templates, numbered runs of a grid, pause and resume.

    draft ──start──► active ◄──start── (another numbered run)        a numbered run:
                     │    ▲                                          running ──► completed | failed
                   pause resume                                       │    ▲
                     ▼    │                                         pause resume
                     paused                                           ▼    │
                                                                      pending
Every function takes the tenant's session; edges commit. Rows that change are locked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from evalservice.catalog.model_config import ModelConfig
from evalservice.comparisons.experiment_schemas import (
    Cell,
    ExperimentConfig,
    NewExperiment,
    NewTemplate,
    cell_results,
    cells_of,
)
from evalservice.comparisons.sharing import shareable, stop_unused
from evalservice.errors import AlreadyExists, InvalidInput, InvalidTransition, NotFound
from evalservice.lookup import find
from evalservice.runs.lifecycle import ENDED
from evalservice.runs.queue import request_resume
from evalservice.runs.service import NewRun, configuration_hash, create_run, provenance_of
from evalservice.tables import (
    BenchmarkSuite,
    EvaluationDataset,
    EvaluationRun,
    Experiment,
    ExperimentRun,
    ExperimentRunEvaluation,
    ExperimentTemplate,
    Model,
)

OnRun = Callable[[Session, EvaluationRun], None]
CheckRun = Callable[[Model, BenchmarkSuite, ModelConfig], None]


def create_experiment(
    session: Session, organization_id: uuid.UUID, new: NewExperiment, *, user_id: uuid.UUID | None
) -> Experiment:
    """A draft. Raises NotFound (template; a model or benchmark of the grid), InvalidInput (the same one twice)."""
    template = None if new.template is None else find_template(session, new.template)
    config: dict[str, Any] = {} if template is None else template.experiment_config
    if new.experiment_config is not None:
        config = new.experiment_config.model_dump(mode="json")
    if config:
        _subjects(session, ExperimentConfig.model_validate(config))
    row = Experiment(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        hypothesis=new.hypothesis or (template.hypothesis if template else ""),
        objective=new.objective or (template.objective if template else ""),
        experiment_config=config,
        template_id=template.id if template else None,
        tags=list(new.tags or (template.tags if template else ())),
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def create_template(
    session: Session, organization_id: uuid.UUID, new: NewTemplate, *, user_id: uuid.UUID | None
) -> ExperimentTemplate:
    """A template. Raises AlreadyExists."""
    if session.scalar(select(ExperimentTemplate.id).where(ExperimentTemplate.name == new.name)) is not None:
        raise AlreadyExists(f"an experiment template {new.name!r} exists already")
    given = new.model_dump(mode="json", exclude={"metadata"})
    row = ExperimentTemplate(organization_id=organization_id, created_by_id=user_id, metadata_=new.metadata, **given)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def find_template(session: Session, reference: str) -> ExperimentTemplate:
    """A template by name or id. Raises NotFound."""
    named = select(ExperimentTemplate).where(ExperimentTemplate.name == reference)
    found = session.scalars(named).one_or_none()
    if found is None:
        try:
            found = session.get(ExperimentTemplate, uuid.UUID(reference))
        except ValueError:
            found = None
    if found is None:
        raise NotFound("template", reference)
    return found


def change_experiment(session: Session, row: Experiment, given: Mapping[str, Any]) -> None:
    """Set the given fields that are not null. Raises InvalidTransition for a grid that runs, or has run."""
    for name, value in given.items():
        if value is None:
            continue
        if name == "experiment_config":
            if row.status != "draft":
                raise InvalidTransition(f"{name}: it is {row.status}: only a draft's can be changed")
            _subjects(session, ExperimentConfig.model_validate(value))
        if name == "status":
            _give_up(session, row)
        setattr(row, "metadata_" if name == "metadata" else name, list(value) if name == "tags" else value)
    session.flush()
    session.refresh(row)


def _give_up(session: Session, row: Experiment) -> None:
    """Before it is archived. Raises InvalidTransition while a numbered run goes on; one that is paused is over."""
    if _runs(session, row, "running"):
        raise InvalidTransition(f"experiment {row.id} has a run under way: pause it first, or let it end")
    for run in _runs(session, row, "pending"):
        run.status = "cancelled"


def start_experiment(
    session: Session, row: Experiment, *, user_id: uuid.UUID | None, check: CheckRun, on_run: OnRun
) -> ExperimentRun:
    """The next numbered run: every cell has its run, shared or new, and the queue has the new ones.

    Raises InvalidInput (no grid, a cell that cannot work), InvalidTransition (paused, archived).
    """
    if row.status not in ("draft", "active"):
        raise InvalidTransition(f"experiment {row.id} is {row.status}: only a draft or an active one can be started")
    if not row.experiment_config:
        raise InvalidInput("experiment_config", {}, "a grid of models, benchmarks and parameters")
    config = ExperimentConfig.model_validate(row.experiment_config)
    now = session.execute(select(func.now())).scalar_one()
    row.total_runs += 1
    row.status, row.last_run_at = "active", now
    run = ExperimentRun(
        organization_id=row.organization_id,
        experiment_id=row.id,
        run_number=row.total_runs,
        name=f"{row.name} {row.total_runs}"[:200],
        status="running",
        started_at=now,
        created_by_id=user_id,
    )
    session.add(run)
    session.flush()
    cells = _measured(session, row, config, user_id, check, on_run)
    run.run_config = {**row.experiment_config, "cells": [cell.model_dump(mode="json") for cell in cells]}
    session.add_all(
        ExperimentRunEvaluation(organization_id=row.organization_id, experiment_run_id=run.id, evaluation_run_id=each)
        for each in dict.fromkeys(cell.evaluation_run_id for cell in cells)
    )
    session.flush()
    session.refresh(run)
    session.refresh(row)
    return run


def _measured(
    session: Session,
    row: Experiment,
    config: ExperimentConfig,
    user_id: uuid.UUID | None,
    check: CheckRun,
    on_run: OnRun,
) -> list[Cell]:
    """Every cell of the grid with its run."""
    models, suites = _subjects(session, config)
    cells: list[Cell] = []
    mine: dict[tuple[uuid.UUID, uuid.UUID, str], EvaluationRun] = {}
    for suite, model, values in product(suites, models, product(*config.parameters.values())):
        parameters = dict(zip(config.parameters, values, strict=True))
        new = _new_run(session, row, config, model, suite, parameters)
        dataset = session.get_one(EvaluationDataset, suite.dataset_id)
        key = model.id, suite.id, configuration_hash(provenance_of(new, dataset), new.evaluation_config())
        run, shared = mine.get(key), False  # a parameter's value may be what another cell has anyway
        if run is None and config.share:
            run = shareable(session, new)
            shared = run is not None
        if run is None:
            check(model, suite, new.config)
            run = mine[key] = create_run(session, row.organization_id, new, user_id=user_id)
            on_run(session, run)
        cells.append(
            Cell(
                model_id=model.id,
                model=model.name,
                benchmark_id=suite.id,
                benchmark=suite.name,
                parameters=parameters,
                evaluation_run_id=run.id,
                is_shared=shared,
            )
        )
    session.flush()
    return cells


def _new_run(
    session: Session,
    row: Experiment,
    config: ExperimentConfig,
    model: Model,
    suite: BenchmarkSuite,
    parameters: Mapping[str, Any],
) -> NewRun:
    total = session.get_one(EvaluationDataset, suite.dataset_id).total_test_cases
    whole = config.test_cases is None or config.test_cases >= total
    return NewRun(
        model,
        suite,
        config=ModelConfig.parse("parameters", parameters),
        limit=None if whole else config.test_cases,
        order_seed=None if whole else config.seed,
        max_concurrency=config.max_concurrency,
        name=f"experiment {row.name}"[:200],
    )


def _subjects(session: Session, config: ExperimentConfig) -> tuple[list[Model], list[BenchmarkSuite]]:
    """The grid's models and benchmarks. Raises NotFound, InvalidInput."""
    models = [find(session, Model, reference, "models") for reference in config.models]
    suites = [find(session, BenchmarkSuite, reference, "benchmarks") for reference in config.benchmarks]
    for field, given, found in (("models", config.models, models), ("benchmarks", config.benchmarks, suites)):
        if len({each.id for each in found}) < len(found):
            raise InvalidInput(field, list(given), "each once")
    return models, suites


def pause_experiment(session: Session, row: Experiment) -> None:
    """Have what its numbered runs have made end, to be gone on with. Raises InvalidTransition."""
    if row.status != "active":
        raise InvalidTransition(f"experiment {row.id} is {row.status}: only an active one can be paused")
    row.status = "paused"
    for run in _runs(session, row, "running"):
        run.status = "pending"
        stop_unused(session, {cell.evaluation_run_id for cell in cells_of(run)}, run.id)
    session.flush()
    session.refresh(row)


def resume_experiment(session: Session, row: Experiment, on_run: OnRun) -> None:
    """Go on with what was paused. Raises InvalidTransition, and LeaseHeld while a driver is still stopping."""
    if row.status != "paused":
        raise InvalidTransition(f"experiment {row.id} is {row.status}: only a paused one can be resumed")
    row.status = "active"
    for run in _runs(session, row, "pending"):
        run.status = "running"
        for run_id in dict.fromkeys(cell.evaluation_run_id for cell in cells_of(run)):
            evaluation = session.get_one(EvaluationRun, run_id, with_for_update=True, populate_existing=True)
            if evaluation.status in ("failed", "cancelled") or evaluation.cancel_requested_at is not None:
                request_resume(session, run_id)
                session.refresh(evaluation)
                on_run(session, evaluation)
    session.flush()
    session.refresh(row)


def _runs(session: Session, row: Experiment, status: str) -> list[ExperimentRun]:
    query = select(ExperimentRun).where(ExperimentRun.experiment_id == row.id, ExperimentRun.status == status)
    return list(session.scalars(query.with_for_update()))


def take_turn(session: Session, run_id: uuid.UUID) -> str | None:
    """End a numbered run whose cells have all ended, unless somebody else is at it (None); gives its status."""
    query = select(ExperimentRun).where(ExperimentRun.id == run_id).with_for_update(skip_locked=True, of=ExperimentRun)
    loaded = query.options(selectinload(ExperimentRun.evaluation_runs)).execution_options(populate_existing=True)
    row = session.scalars(loaded).one_or_none()
    if row is None:
        return None
    cells = cell_results(row)
    if row.status == "running" and all(cell.status in ENDED for cell in cells):
        broken = [cell for cell in cells if cell.status != "completed"]
        error = "; ".join(f"{cell.label} × {cell.benchmark}: {cell.status} {cell.error_message}" for cell in broken)
        row.status = "failed" if broken else "completed"
        row.results = {"cells": [cell.model_dump(mode="json") for cell in cells], "error": error[:2000]}
        row.completed_at = session.execute(select(func.now())).scalar_one()
        if row.started_at is not None:
            row.duration_seconds = (row.completed_at - row.started_at).total_seconds()
        session.flush()
    return row.status

"""A/B tests: make a draft, start it, cancel it. What happens between is in `turns`.

    draft ──start──► running ──► completed
      │                 │  ▲
      └──► cancelled ◄──┤  └──start── failed
                        └──────────────►

`ab_tests.test_config` is the configuration as it was given, and beside it "benchmark" and "models" (ids, in the order
given: the first is the candidate) and "plan". Every function takes the tenant's session; edges commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.snapshots import open_snapshot
from evalservice.comparisons.ab_results import StoredResults
from evalservice.comparisons.ab_schemas import (
    ABTestChanges,
    ABTestConfig,
    ABTestPlan,
    NewABTest,
    config_of,
    model_order,
    plan_of,
)
from evalservice.comparisons.plans import Subject, plan_ab_test
from evalservice.comparisons.sharing import shareable, stop_unused
from evalservice.errors import InvalidInput, InvalidTransition, LeaseHeld, NotFound
from evalservice.lookup import find
from evalservice.runs.queue import request_resume
from evalservice.runs.scorers import scorers_of
from evalservice.runs.service import NewRun, create_run, primary_metric_of
from evalservice.tables import ABTest, ABTestModel, ABTestRun, BenchmarkSuite, EvaluationDataset, EvaluationRun, Model

OnRun = Callable[[Session, EvaluationRun], None]
CheckRun = Callable[[Model, BenchmarkSuite, ModelConfig], None]


def create_ab_test(
    session: Session, organization_id: uuid.UUID, new: NewABTest, *, user_id: uuid.UUID | None
) -> ABTest:
    """A draft, with its plan. Raises NotFound (benchmark, models), InvalidInput (a model twice, no such design)."""
    suite = find(session, BenchmarkSuite, new.benchmark, "benchmark")
    models = [find(session, Model, reference, "models").id for reference in new.models]
    if len(set(models)) < len(models):
        raise InvalidInput("models", list(new.models), "each model once")
    plan = _plan(session, suite, new.test_config, len(models), new.significance_level)
    row = ABTest(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        dataset_id=suite.dataset_id,
        test_config=_stored(new.test_config, plan, suite.id, models),
        significance_level=new.significance_level,
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    session.add_all(ABTestModel(organization_id=organization_id, ab_test_id=row.id, model_id=each) for each in models)
    session.flush()
    session.refresh(row)
    return row


def change_ab_test(session: Session, row: ABTest, changes: ABTestChanges) -> None:
    """Set what is given and not null; a draft's design is planned anew.

    Raises InvalidTransition for what only a draft may change, InvalidInput for an impossible design.
    """
    designs = {"significance_level": changes.significance_level, "test_config": changes.test_config}
    for name, value in designs.items():
        if value is not None and row.status != "draft":
            raise InvalidTransition(f"{name}: it is {row.status}: only a draft's can be changed")
    if any(value is not None for value in designs.values()):
        config = changes.test_config or config_of(row)
        row.significance_level = changes.significance_level or row.significance_level
        row.test_config = _replanned(session, row, config)
    for name in ("name", "description"):
        if getattr(changes, name) is not None:
            setattr(row, name, getattr(changes, name))
    if changes.metadata is not None:
        row.metadata_ = changes.metadata
    session.flush()
    session.refresh(row)


def start_ab_test(session: Session, row: ABTest, *, user_id: uuid.UUID | None, check: CheckRun, on_run: OnRun) -> None:
    """Give every model its run, shared or new, and let the queue have them; the row is locked.

    A failed test goes on: its own runs are resumed, others replaced, and it is looked at from the beginning. Of a
    running one nothing changes. Raises InvalidTransition for one that has ended otherwise, and what `create_run` and
    `check` raise.
    """
    if row.status == "running":
        return
    if row.status not in ("draft", "failed"):
        raise InvalidTransition(f"A/B test {row.id} is {row.status}: only a draft or a failed one can be started")
    if row.status == "draft":
        row.test_config = _replanned(session, row, config_of(row))
    suite = _benchmark_of(session, row)
    kept = _resumed(session, row, on_run)
    for model_id in model_order(row):
        if model_id in kept:
            continue
        new = _new_run(row, session.get_one(Model, model_id), suite)
        run = shareable(session, new) if config_of(row).share else None
        shared = run is not None
        if run is None:
            check(new.model, new.benchmark, new.config)
            run = create_run(session, row.organization_id, new, user_id=user_id)
            on_run(session, run)
        session.add(
            ABTestRun(
                organization_id=row.organization_id,
                ab_test_id=row.id,
                evaluation_run_id=run.id,
                model_id=model_id,
                is_shared=shared,
            )
        )
        session.flush()
    row.status, row.completed_at, row.duration_seconds, row.winner_model_id = "running", None, None, None
    row.started_at = row.started_at or session.execute(select(func.now())).scalar_one()
    row.results = StoredResults(planned_test_cases=row.test_config["plan"]["test_cases"]).model_dump(mode="json")
    session.flush()
    session.refresh(row)


def cancel_ab_test(session: Session, row: ABTest) -> None:
    """End a test and the runs that it has made; the row is locked. Raises InvalidTransition when it has ended."""
    if row.status not in ("draft", "running"):
        raise InvalidTransition(f"A/B test {row.id} is {row.status}: only a draft or a running one can be cancelled")
    end(session, row, "cancelled")
    stop_unused(session, [link.evaluation_run_id for link in row.runs], row.id)
    session.flush()
    session.refresh(row)


def end(session: Session, row: ABTest, status: str) -> None:
    """Set how the test ended, now."""
    row.status = status
    row.completed_at = session.execute(select(func.now())).scalar_one()
    if row.started_at is not None:
        row.duration_seconds = (row.completed_at - row.started_at).total_seconds()


def _plan(session: Session, suite: BenchmarkSuite, config: ABTestConfig, models: int, alpha: float) -> ABTestPlan:
    criteria = EvaluationCriteria.model_validate(suite.evaluation_criteria)
    dataset = session.get_one(EvaluationDataset, suite.dataset_id)
    if dataset.total_test_cases < 2 or not dataset.snapshot_uri:
        raise InvalidInput("benchmark", suite.name, f"its dataset {dataset.name!r} has fewer than two test cases")
    subject = Subject(
        metrics=[metric for scorer in scorers_of(criteria) for metric in scorer.metrics],
        primary=primary_metric_of(criteria),
        epochs=criteria.epochs,
        total=dataset.total_test_cases,
        clustered=config.design == "sequential" and open_snapshot(dataset.snapshot_uri).has_clusters,
    )
    return plan_ab_test(config, subject, models=models, alpha=alpha)


def _benchmark_of(session: Session, row: ABTest) -> BenchmarkSuite:
    reference = row.test_config.get("benchmark")
    suite = None if reference is None else session.get(BenchmarkSuite, uuid.UUID(reference))
    if suite is None:
        raise NotFound("benchmark", reference)
    return suite


def _replanned(session: Session, row: ABTest, config: ABTestConfig) -> dict[str, Any]:
    suite, models = _benchmark_of(session, row), model_order(row)
    plan = _plan(session, suite, config, len(models), row.significance_level)
    return _stored(config, plan, suite.id, models)


def _stored(
    config: ABTestConfig, plan: ABTestPlan, benchmark: uuid.UUID, models: Sequence[uuid.UUID]
) -> dict[str, Any]:
    own: Mapping[str, Any] = {"benchmark": str(benchmark), "models": [str(each) for each in models]}
    return {**config.model_dump(mode="json"), **own, "plan": plan.model_dump(mode="json")}


def _new_run(row: ABTest, model: Model, suite: BenchmarkSuite) -> NewRun:
    """The run of one model: all test cases or a sample, in the test's random order."""
    config, plan = config_of(row), plan_of(row)
    assert plan is not None
    whole = plan.test_cases == row.dataset.total_test_cases
    return NewRun(
        model,
        suite,
        limit=None if whole else plan.test_cases,
        max_concurrency=config.max_concurrency,
        name=f"A/B test {row.name}"[:200],
        order_seed=config.seed,
    )


def _resumed(session: Session, row: ABTest, on_run: OnRun) -> set[uuid.UUID]:
    """The models of a failed test whose runs go on; links to shared runs that have failed are taken away."""
    kept = set()
    for link in list(row.runs):
        run = session.get_one(EvaluationRun, link.evaluation_run_id, with_for_update=True, populate_existing=True)
        if run.status == "running" and run.cancel_requested_at is not None:
            raise LeaseHeld(f"run {run.id} is being stopped: start the test again in a moment")
        if run.status in ("failed", "cancelled"):
            if link.is_shared:
                session.execute(
                    delete(ABTestRun).where(ABTestRun.ab_test_id == row.id, ABTestRun.evaluation_run_id == run.id)
                )
                continue
            request_resume(session, run.id)
            session.refresh(run)
            on_run(session, run)
        kept.add(link.model_id)
    return kept

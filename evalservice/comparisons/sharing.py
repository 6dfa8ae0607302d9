"""Runs that serve more than one A/B test or experiment: find one to share, and stop none that another needs."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from evalservice.runs.lifecycle import ENDED, request_cancel
from evalservice.runs.service import NewRun, configuration_hash, provenance_of
from evalservice.tables import (
    ABTest,
    ABTestRun,
    EvaluationDataset,
    EvaluationRun,
    ExperimentRun,
    ExperimentRunEvaluation,
)

MOST_FAILED = 0.02
"""A completed run with more failed test cases is no use to a comparison."""


def shareable(session: Session, new: NewRun) -> EvaluationRun | None:
    """A run that has measured, or is measuring, the same sample or all test cases in the same way; locked."""
    dataset = session.get_one(EvaluationDataset, new.benchmark.dataset_id)
    provenance = provenance_of(new, dataset)
    hashes = {configuration_hash(provenance, config) for config in ({}, new.evaluation_config())}
    driven = (
        (EvaluationRun.status == "running")
        & (EvaluationRun.lease_expires_at > func.now())
        & EvaluationRun.cancel_requested_at.is_(None)
    )
    usable = (EvaluationRun.status == "completed") & (
        EvaluationRun.failed_test_cases <= MOST_FAILED * EvaluationRun.total_test_cases
    )
    return session.scalars(
        select(EvaluationRun)
        .where(
            EvaluationRun.model_id == new.model.id,
            EvaluationRun.benchmark_id == new.benchmark.id,
            EvaluationRun.configuration_hash.in_(hashes),
            or_(usable, driven),
        )
        .order_by(EvaluationRun.status, EvaluationRun.failed_test_cases, EvaluationRun.created_at.desc())
        .limit(1)
        .with_for_update(read=True)
    ).first()


def stop_unused(session: Session, run_ids: Iterable[uuid.UUID], user: uuid.UUID) -> None:
    """Have these runs end, but for those that another running A/B test or experiment run than `user` has."""
    for run_id in sorted(run_ids):
        run = session.get(EvaluationRun, run_id, with_for_update=True, populate_existing=True)
        if run is not None and run.status not in ENDED and not _used_elsewhere(session, run_id, user):
            request_cancel(session, run_id)


def _used_elsewhere(session: Session, run_id: uuid.UUID, user: uuid.UUID) -> bool:
    """Asked under the run's lock: whoever begins to share it locks it, too."""
    tests = (
        select(ABTest.id)
        .join(ABTestRun, ABTestRun.ab_test_id == ABTest.id)
        .where(ABTestRun.evaluation_run_id == run_id, ABTest.id != user, ABTest.status == "running")
    )
    experiments = (
        select(ExperimentRun.id)
        .join(ExperimentRunEvaluation, ExperimentRunEvaluation.experiment_run_id == ExperimentRun.id)
        .where(
            ExperimentRunEvaluation.evaluation_run_id == run_id,
            ExperimentRun.id != user,
            ExperimentRun.status == "running",
        )
    )
    return bool(session.scalar(select(exists(tests) | exists(experiments))))

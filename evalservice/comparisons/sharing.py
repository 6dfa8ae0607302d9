"""Runs that serve more than one A/B test or experiment: find one to share, and stop none that another needs."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from evalservice.runs.lifecycle import ENDED, request_cancel
from evalservice.runs.service import NewRun, configuration_hash, provenance_of
from evalservice.runs.spending import MAX_COST
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
    """A run that has measured, is measuring, or waits to measure for another, the same sample or all test cases in the
    same way; locked."""
    dataset = session.get_one(EvaluationDataset, new.benchmark.dataset_id)
    provenance = provenance_of(new, dataset)
    hashes = {configuration_hash(provenance, config) for config in ({}, new.evaluation_config())}
    unbounded = ~EvaluationRun.evaluation_config.has_key(
        MAX_COST
    )  # one with a budget may end before its last test case
    awaited = (EvaluationRun.status == "pending") & _is_used(EvaluationRun.id)
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
            or_(usable, unbounded & or_(driven, awaited)),
        )
        .order_by(EvaluationRun.status, EvaluationRun.failed_test_cases, EvaluationRun.created_at.desc())
        .limit(1)
        .with_for_update(read=True, key_share=True)  # keeps `stop_unused` out, but not a driver's heartbeat
    ).first()


def stop_unused(session: Session, run_ids: Iterable[uuid.UUID], user: uuid.UUID) -> list[uuid.UUID]:
    """Have those of these runs end that tests or experiments have made and none but `user` needs; gives the others that
    go on. Who made a run may have ended before who shared it: the last one stops it."""
    kept = []
    for run_id in sorted(run_ids):
        found = session.get(EvaluationRun, run_id)
        if found is None or found.status in ENDED:
            continue
        run = session.get_one(EvaluationRun, run_id, with_for_update=True, populate_existing=True)
        if run.status in ENDED:
            continue
        # Asked under the run's lock: whoever begins to share it locks it, too.
        if session.scalar(select(_is_made(run_id))) and not session.scalar(select(_is_used(run_id, but=user))):
            request_cancel(session, run_id)
        else:
            kept.append(run_id)
    return kept


def _is_made(run_id: uuid.UUID) -> ColumnElement[bool]:
    """Whether a test or an experiment made the run, and not somebody for its own sake."""
    cells = {"cells": [{"evaluation_run_id": str(run_id), "is_shared": False}]}
    tests = select(ABTestRun.ab_test_id).where(ABTestRun.evaluation_run_id == run_id, ~ABTestRun.is_shared)
    experiments = _experiment_runs(run_id).where(ExperimentRun.run_config.contains(cells))
    return exists(tests) | exists(experiments)


def _is_used(run_id: uuid.UUID | InstrumentedAttribute[uuid.UUID], but: uuid.UUID | None = None) -> ColumnElement[bool]:
    """Whether a running test or experiment run other than `but` has the run."""
    tests = (
        select(ABTest.id)
        .join(ABTestRun, ABTestRun.ab_test_id == ABTest.id)
        .where(ABTestRun.evaluation_run_id == run_id, ABTest.status == "running")
    )
    experiments = _experiment_runs(run_id).where(ExperimentRun.status == "running")
    if but is not None:
        tests, experiments = tests.where(ABTest.id != but), experiments.where(ExperimentRun.id != but)
    return exists(tests) | exists(experiments)


def _experiment_runs(run_id: uuid.UUID | InstrumentedAttribute[uuid.UUID]) -> Any:
    return (
        select(ExperimentRun.id)
        .join(ExperimentRunEvaluation, ExperimentRunEvaluation.experiment_run_id == ExperimentRun.id)
        .where(ExperimentRunEvaluation.evaluation_run_id == run_id)
    )

"""Start, resume and rescore runs from the process that asked for it: the driver runs in the command's own process."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal

import numpy as np
import pyarrow as pa
from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.blocks import GENERATED, case_json, generated_table
from actors.score import Score
from cluster.driver import Drive, Progress, Stop, drive, lease_patience
from cluster.planning import plan_of
from cluster.runtime import Platform, start_ray
from evalservice.catalog.blocks import plan_blocks, read_block
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.snapshots import open_snapshot
from evalservice.errors import DatabaseUnavailable, LeaseHeld, LeaseLost
from evalservice.records import TestCase
from evalservice.runs.lifecycle import Lease, claim, claim_completed, driver_name, lease_state, reopen
from evalservice.runs.queue import refuse_unscorable, retryable_failures
from evalservice.runs.results import store_scores
from evalservice.runs.scorers import scorers_of
from evalservice.runs.service import change_budget, configuration_hash, get_run
from evalservice.storable import dump
from evalservice.tables import EvaluationDataset, EvaluationResult, EvaluationRun

OnProgress = Callable[[Progress], None]


def run_claimed(platform: Platform, lease: Lease, stop: Stop, on_progress: OnProgress) -> EvaluationRun:
    """Drive a claimed run to its end. Raises what `drive` raises."""
    try:
        start_ray(platform.settings)
        job = drive_of(platform, lease, on_progress)
    except (DatabaseUnavailable, LeaseLost):
        raise
    except BaseException as error:
        give_up(platform, lease, str(error))
        raise
    return drive(job, stop)


def drive_of(platform: Platform, lease: Lease, on_progress: OnProgress) -> Drive:
    """What the driver of a claimed run needs. Raises Conflict when the model's credential does not open here."""
    with platform.transaction() as session:
        run = session.get_one(EvaluationRun, lease.run_id)
        plan, total = plan_of(platform, session, run), run.total_test_cases
        order_seed = run.evaluation_config.get("order_seed")
    return Drive(platform.engine, platform.organization_id, lease, plan, total, on_progress, order_seed=order_seed)


def give_up(platform: Platform, lease: Lease, reason: str) -> None:
    """Close a claimed run as failed. Raises LeaseLost."""
    from evalservice.runs.closing import close_run  # not at the top: it brings scipy, which takes a second

    with platform.transaction() as session:
        close_run(session, lease, "failed", error_message=reason)


def claim_for_resume(
    platform: Platform, reference: str, waiting: Callable[[float], None], max_cost: Decimal | None = None
) -> Lease | None:
    """Take over a run that stopped before its end; None when nothing is left to do.

    A run that still says `running` is waited for until its lease lapses; `waiting` is told the seconds left. Raises
    LeaseHeld when its driver is alive, or another resume was faster. max_cost: the run's budget from now on.
    """
    owner = driver_name()
    with platform.transaction() as session:
        run = get_run(session, reference)
        run_id = run.id
        plan_of(platform, session, run)
    deadline = time.monotonic() + lease_patience()
    first: tuple[int, float] | None = None
    while True:
        with platform.transaction() as session:
            state = lease_state(session, run_id)
            if state.owner is None:
                if max_cost is not None:
                    change_budget(session, run_id, max_cost)
                return _claim_any(session, run_id, state.status, owner)
            left = state.seconds_left or 0.0
            if state.status != "running" or (first is not None and (state.attempt, left) > first):
                raise LeaseHeld(f"run {run_id} is being driven by {state.owner}: its lease was renewed just now")
            first = (state.attempt, left)
        if time.monotonic() > deadline:
            raise LeaseHeld(f"run {run_id} is being driven by {state.owner}")
        waiting(left)
        time.sleep(min(1.0, left + 0.05))


def _claim_any(session: Session, run_id: uuid.UUID, status: str, owner: str) -> Lease | None:
    if status == "completed":
        return claim_completed(session, run_id, owner) if retryable_failures(session, run_id) else None
    if status in ("failed", "cancelled"):
        reopen(session, run_id)
    return claim(session, run_id, owner)


def rescore(platform: Platform, reference: str) -> EvaluationRun:
    """Score the stored completions of an ended run again, without asking a model.

    Raises InvalidTransition when the run has not ended, LeaseHeld when someone else has it.
    """
    with platform.transaction() as session:
        run = get_run(session, reference)
        refuse_unscorable(run)
        lease = claim_completed(session, run.id, driver_name())
    return rescore_claimed(platform, lease)


def rescore_claimed(platform: Platform, lease: Lease) -> EvaluationRun:
    """Score a leased run's stored completions with the benchmark's scorers as this installation has them, and close it.

    Raises LeaseLost.
    """
    from evalservice.runs.closing import close_run

    with platform.transaction() as session:
        run = session.get_one(EvaluationRun, lease.run_id)
        snapshot_uri = session.get_one(EvaluationDataset, run.dataset_id).snapshot_uri
        criteria = run.provenance["criteria"]
    scorers = scorers_of(EvaluationCriteria.model_validate(criteria))
    score = Score(criteria)
    with platform.transaction() as session:  # all or nothing: never new scores under old aggregates
        for generated in _stored_completions(platform, lease.run_id, snapshot_uri):
            store_scores(session, lease, score(generated))
        run = session.get_one(EvaluationRun, lease.run_id)
        run.provenance = {**run.provenance, "scorers": {scorer.key: scorer.version for scorer in scorers}}
        run.configuration_hash = configuration_hash(run.provenance, run.evaluation_config)
        session.flush()
        return close_run(session, lease, run.status)


def _stored_completions(platform: Platform, run_id: uuid.UUID, snapshot_uri: str) -> Iterator[pa.Table]:
    """A run's stored rows, block by block, in the form that the generate stage gives (schema `GENERATED`)."""
    snapshot = open_snapshot(snapshot_uri)
    with platform.transaction() as session:
        indices = np.fromiter(
            session.scalars(
                select(EvaluationResult.test_case_index).where(EvaluationResult.evaluation_run_id == run_id)
            ),
            dtype=np.int64,
        )
    mask = np.ones(snapshot.total, dtype=np.bool_)
    mask[indices] = False
    for block in plan_blocks(snapshot.total, skip=mask):
        cases = {case.index: case for case in read_block(snapshot, block)}
        with platform.transaction() as session:
            stored = session.scalars(
                select(EvaluationResult).where(
                    EvaluationResult.evaluation_run_id == run_id,
                    EvaluationResult.test_case_index.between(block.start, block.stop - 1),
                )
            ).all()
            table = generated_table([_generated(row, cases[row.test_case_index]) for row in stored])
        yield table


def _generated(row: EvaluationResult, case: TestCase) -> dict[str, object]:
    texts = row.actual_output if isinstance(row.actual_output, list) else [row.actual_output]
    values = {name: getattr(row, name, None) for name in GENERATED.names}
    return {
        **values,
        "case": case_json(case),
        "texts": [text if isinstance(text, str) else dump(text) for text in texts],
        "input_data": dump(row.input_data),
        "expected_output": None if row.expected_output is None else dump(row.expected_output),
        "completion_info": dump(row.completion_info),
        "cost": None if row.cost is None else format(row.cost, "f"),
    }

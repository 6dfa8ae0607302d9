"""The queue of runs: what a supervisor claims, and how somebody asks for more work on a run.

There is no queue but Postgres: a pending run, a run whose driver died, and an ended run of which something was asked
are all work. `evalservice_claim_work` gives it out fairly (migration 0006).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from evalservice.errors import InvalidTransition, LeaseHeld
from evalservice.runs.lifecycle import ENDED, LEASE_SECONDS, Lease, LeaseState, lease_state, reopen
from evalservice.scoring import imported
from evalservice.tables import EvaluationResult, EvaluationRun

CHANNEL = "evalservice_runs"
Kind = Literal["run", "resume", "rescore"]


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of claimed work.

    kind: `run` drives a run to its end, `resume` asks again for the failures of one that has ended, `rescore` scores
    its stored completions again. orphaned: how often a driver of the run has died.
    """

    lease: Lease
    organization_id: uuid.UUID
    kind: Kind
    orphaned: int


def claim_work(session: Session, owner: str) -> Work | None:
    """Take what is next, of any organization; None when there is nothing that may be started now.

    The session needs no organization. The organization with the fewest runs under way comes first, within it the
    highest priority, then the oldest.
    """
    row = session.execute(
        text("SELECT id, organization_id, attempt, work, orphaned FROM evalservice_claim_work(:owner, :seconds)"),
        {"owner": owner, "seconds": LEASE_SECONDS},
    ).one_or_none()
    if row is None:
        return None
    run_id, organization_id, attempt, kind, orphaned = row
    return Work(Lease(run_id, owner, attempt, keeps_status=kind != "run"), organization_id, kind, orphaned)


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue of all organizations: runs that wait, how long the first of them has waited, runs that are driven."""

    waiting: int
    oldest_seconds: float
    driven: int


def queue_state(session: Session) -> QueueState:
    """How long the queue is. The session needs no organization."""
    return QueueState(*session.execute(text("SELECT waiting, oldest_seconds, driven FROM evalservice_queue()")).one())


def request_resume(session: Session, run_id: uuid.UUID) -> str:
    """Have a supervisor go on with a run. Gives the status that results.

    Failed and cancelled runs are pending again. A completed run stays completed: its retryable failures are asked
    again (its `requested_work` then says so), or there are none and nothing happens. Raises NotFound, and LeaseHeld
    when a driver is at work.
    """
    state = _free(session, run_id)
    if state.status in ("failed", "cancelled"):
        reopen(session, run_id)
        _wake(session, run_id)
        return "pending"
    if state.status == "completed":
        if retryable_failures(session, run_id):
            _ask(session, run_id, "resume")
        return "completed"
    # Pending, or running without a driver: a supervisor takes it anyway, now instead of after its backoff.
    session.execute(update(EvaluationRun).where(EvaluationRun.id == run_id).values(claim_after=None))
    _wake(session, run_id)
    return state.status


def request_rescore(session: Session, run_id: uuid.UUID) -> str:
    """Have a supervisor score the stored completions of an ended run again. Gives the run's status, which stays.

    Raises NotFound, LeaseHeld when a driver is at work, InvalidTransition when the run has not ended.
    """
    _free(session, run_id)
    run = session.get_one(EvaluationRun, run_id)
    refuse_unscorable(run)
    _ask(session, run_id, "rescore")
    return run.status


def refuse_unscorable(run: EvaluationRun) -> None:
    """Raises InvalidTransition for a run that has not ended, and for one whose scores came with an imported log."""
    if run.status not in ENDED:
        raise InvalidTransition(f"run {run.id} is {run.status}: it can be rescored when it has ended")
    if any(version.startswith(f"{imported.NAME}:") for version in run.provenance.get("scorers", {}).values()):
        raise InvalidTransition(f"run {run.id} was imported with its scores: nothing here could score it again")


def retryable_failures(session: Session, run_id: uuid.UUID) -> bool:
    """Whether a resume would ask for anything that has failed."""
    found = select(EvaluationResult.id).where(
        EvaluationResult.evaluation_run_id == run_id, ~EvaluationResult.success, EvaluationResult.is_retryable
    )
    return session.scalar(found.limit(1)) is not None


def _free(session: Session, run_id: uuid.UUID) -> LeaseState:
    """The run's state, its row locked. Raises LeaseHeld when a driver is at work."""
    session.execute(select(EvaluationRun.id).where(EvaluationRun.id == run_id).with_for_update())
    state = lease_state(session, run_id)
    if state.owner is not None:
        raise LeaseHeld(f"run {run_id} is being driven by {state.owner}")
    return state


def _ask(session: Session, run_id: uuid.UUID, kind: Kind) -> None:
    asked = session.scalar(select(EvaluationRun.requested_work).where(EvaluationRun.id == run_id))
    if asked not in (None, kind):
        raise InvalidTransition(f"run {run_id} waits for its {asked} already: ask again when that is done")
    session.execute(
        update(EvaluationRun)
        .where(EvaluationRun.id == run_id)
        .values(requested_work=kind, claim_after=None, orphaned=0, lease_owner=None, lease_expires_at=None)
    )
    _wake(session, run_id)


def _wake(session: Session, run_id: uuid.UUID) -> None:
    session.execute(select(func.pg_notify(CHANNEL, str(run_id))))

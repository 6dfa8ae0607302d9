"""A run's states and its lease: who may drive it, and how everyone else is kept out.

    pending ──claim──► running ──close──► completed | failed | cancelled
       ▲                                              │
       └──────────────── resume ──────────────────────┘   (failed and cancelled only)

A driver owns a run while it holds the lease: `lease_owner` is its name and `attempt` its number. Every write repeats
both, so a driver that was thought dead changes nothing once another has taken over. A completed run that is rescored,
or whose retryable failures are asked again, is leased without leaving its status.

A lease ends in one of three ways. It is closed; it is given back, and whoever comes next goes on at once; or it lapses,
because its driver died: then the run is an orphan, which `evalservice_claim_work` counts and lets wait a while.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, text, update
from sqlalchemy.orm import Session

from evalservice.errors import InvalidTransition, LeaseHeld, LeaseLost, NotFound
from evalservice.tables import EvaluationRun

LEASE_SECONDS = 15
HEARTBEAT_SECONDS = 5
ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive a run: this owner, at this attempt.

    keeps_status: the run had ended when it was leased, and stays what it was whatever happens now.
    """

    run_id: uuid.UUID
    owner: str
    attempt: int
    keeps_status: bool = False

    def holds(self) -> ColumnElement[bool]:
        """The condition that every write under this lease carries."""
        return and_(
            EvaluationRun.id == self.run_id,
            EvaluationRun.lease_owner == self.owner,
            EvaluationRun.attempt == self.attempt,
        )


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What someone who wants the lease sees. `seconds_left` is None when nobody holds it."""

    status: str
    owner: str | None
    attempt: int
    seconds_left: float | None


def driver_name() -> str:
    """A name for this process that no other driver has: host, process id and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def lease_state(session: Session, run_id: uuid.UUID) -> LeaseState:
    """Status and lease of a run by the database's clock. Raises NotFound."""
    row = session.execute(
        select(
            EvaluationRun.status,
            EvaluationRun.lease_owner,
            EvaluationRun.attempt,
            func.extract("epoch", EvaluationRun.lease_expires_at - func.now()),
        ).where(EvaluationRun.id == run_id)
    ).one_or_none()
    if row is None:
        raise NotFound("run", str(run_id))
    held = row[1] is not None and row[3] is not None and row[3] > 0
    return LeaseState(row[0], row[1] if held else None, row[2], float(row[3]) if held else None)


def claim(session: Session, run_id: uuid.UUID, owner: str) -> Lease:
    """Take a run that nobody drives: pending → running, or a running one whose lease has lapsed.

    Raises LeaseHeld when another driver was faster or is alive, InvalidTransition when the run has ended.
    """
    free = or_(EvaluationRun.lease_owner.is_(None), EvaluationRun.lease_expires_at < func.now())
    claimable = or_(EvaluationRun.status == "pending", and_(EvaluationRun.status == "running", free))
    return _take(
        session,
        run_id,
        owner,
        claimable,
        status="running",
        started_at=func.now(),
        completed_at=None,
        error_message="",
        error_traceback="",
    )


def claim_completed(session: Session, run_id: uuid.UUID, owner: str) -> Lease:
    """Lease an ended run without changing its status: to score it again, or to ask again for what failed."""
    free = or_(EvaluationRun.lease_owner.is_(None), EvaluationRun.lease_expires_at < func.now())
    lease = _take(session, run_id, owner, and_(EvaluationRun.status.in_(ENDED), free))
    return replace(lease, keeps_status=True)


def _take(session: Session, run_id: uuid.UUID, owner: str, claimable: ColumnElement[bool], **changes: Any) -> Lease:
    attempt = session.execute(
        update(EvaluationRun)
        .where(EvaluationRun.id == run_id, claimable)
        .values(
            lease_owner=owner,
            lease_expires_at=lease_end(),
            attempt=EvaluationRun.attempt + 1,
            claim_after=None,
            cancel_requested_at=None,
            metadata_=EvaluationRun.metadata_.op("-")("waiting_for"),
            **changes,
        )
        .returning(EvaluationRun.attempt)
    ).scalar_one_or_none()
    if attempt is not None:
        return Lease(run_id, owner, attempt)
    state = lease_state(session, run_id)
    if state.owner is not None:
        raise LeaseHeld(f"run {run_id} is being driven by {state.owner}")
    raise InvalidTransition(f"run {run_id} is {state.status}: it cannot be started")


def reopen(session: Session, run_id: uuid.UUID) -> None:
    """failed | cancelled → pending. Raises LeaseHeld when somebody has just resumed it, InvalidTransition otherwise."""
    changed = session.execute(
        update(EvaluationRun)
        .where(EvaluationRun.id == run_id, EvaluationRun.status.in_(("failed", "cancelled")))
        .values(
            status="pending",
            lease_owner=None,
            lease_expires_at=None,
            cancel_requested_at=None,
            claim_after=None,
            orphaned=0,
            requested_work=None,
        )
    )
    if changed_rows(changed) == 0:
        state = lease_state(session, run_id)
        if state.owner is not None:
            raise LeaseHeld(f"run {run_id} is being driven by {state.owner}")
        raise InvalidTransition(f"run {run_id} is {state.status}: only a failed or cancelled run can be resumed")


def renew(session: Session, lease: Lease) -> None:
    """Prolong the lease. Raises LeaseLost."""
    changed = session.execute(
        update(EvaluationRun)
        .where(lease.holds())
        .values(lease_expires_at=lease_end(), updated_at=EvaluationRun.updated_at)
    )
    if changed_rows(changed) == 0:
        raise lost(lease)


def cancel_requested(session: Session, lease: Lease) -> bool:
    """Whether somebody asked this driver to stop. Raises LeaseLost."""
    row = session.execute(select(EvaluationRun.cancel_requested_at).where(lease.holds())).one_or_none()
    if row is None:
        raise lost(lease)
    return row[0] is not None


def close(session: Session, lease: Lease, status: str, **values: Any) -> None:
    """End the run and give the lease back; a run that had ended before keeps its status. Raises LeaseLost."""
    if not lease.keeps_status:
        values = {
            **values,
            "status": status,
            "completed_at": func.now(),
            "duration_seconds": func.extract("epoch", func.now() - EvaluationRun.started_at),
        }
    changed = session.execute(
        update(EvaluationRun)
        .where(lease.holds())
        .values(
            lease_owner=None,
            lease_expires_at=None,
            cancel_requested_at=None,
            claim_after=None,
            requested_work=None,
            **values,
        )
    )
    if changed_rows(changed) == 0:
        raise lost(lease)


def request_cancel(session: Session, run_id: uuid.UUID) -> str:
    """Ask the run's driver to stop; a run that nobody drives is cancelled at once. Gives the status that results.

    Of a run that has ended, what was asked of it since is withdrawn. Raises NotFound, and InvalidTransition when the
    run has ended and nothing was asked.
    """
    row = session.get(EvaluationRun, run_id, with_for_update=True, populate_existing=True)
    state = lease_state(session, run_id)
    ended = state.status in ENDED
    if row is None or (ended and state.owner is None and row.requested_work is None):
        raise InvalidTransition(f"run {run_id} is {state.status}: only a pending or running run can be cancelled")
    if state.owner is not None:
        row.cancel_requested_at = session.execute(select(func.now())).scalar_one()
        return state.status
    row.lease_owner, row.lease_expires_at, row.claim_after, row.requested_work = None, None, None, None
    if not ended:
        row.status = "cancelled"
        row.completed_at = session.execute(select(func.now())).scalar_one()
    return row.status


def lease_end() -> Any:
    return func.now() + text(f"interval '{LEASE_SECONDS} seconds'")


def lost(lease: Lease) -> LeaseLost:
    """The error of a driver that no longer owns its run."""
    return LeaseLost(f"run {lease.run_id}: this driver's lease was taken over; it writes nothing more")


def changed_rows(result: Any) -> int:
    """How many rows an UPDATE changed."""
    assert isinstance(result, CursorResult)
    return int(result.rowcount)

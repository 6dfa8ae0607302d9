"""What becomes of a lease between claim and close: handed over to the driver, given back, abandoned by the dead."""

from __future__ import annotations

import uuid
from dataclasses import replace

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from evalservice.runs.lifecycle import ENDED, Lease, changed_rows, lease_end, lost
from evalservice.tables import EvaluationRun

MOST_BACKOFF_SECONDS = 60


def hand_over(session: Session, lease: Lease, owner: str) -> Lease:
    """Make `owner` the driver under the same attempt; whoever held the lease until now loses it. Raises LeaseLost."""
    changed = session.execute(
        update(EvaluationRun).where(lease.holds()).values(lease_owner=owner, lease_expires_at=lease_end())
    )
    if changed_rows(changed) == 0:
        raise lost(lease)
    return replace(lease, owner=owner)


def held_at(session: Session, run_id: uuid.UUID, attempt: int) -> Lease | None:
    """The lease of this attempt, whoever drives it, alive or lapsed; None once it was closed, given back or taken."""
    row = session.execute(
        select(EvaluationRun.lease_owner, EvaluationRun.status)
        .where(EvaluationRun.id == run_id, EvaluationRun.attempt == attempt, EvaluationRun.lease_owner.isnot(None))
        .with_for_update()
    ).one_or_none()
    if row is None or row[0] is None:
        return None
    return Lease(run_id, row[0], attempt, keeps_status=row[1] in ENDED)


def give_back(session: Session, lease: Lease) -> None:
    """Let go of a run that nobody has failed: the next to claim goes on with it, at once. Raises LeaseLost.

    The number of the attempt is spent, so that its job, which is stopped now, tells the next to claim nothing.
    """
    changed = session.execute(
        update(EvaluationRun)
        .where(lease.holds())
        .values(lease_owner=None, lease_expires_at=None, claim_after=None, attempt=EvaluationRun.attempt + 1)
    )
    if changed_rows(changed) == 0:
        raise lost(lease)


def abandon(session: Session, lease: Lease) -> None:
    """The driver is known to be dead: its lease lapses now, and the run waits the longer the oftener that happened.

    Raises LeaseLost.
    """
    seconds = func.least(MOST_BACKOFF_SECONDS, func.power(2, func.least(EvaluationRun.orphaned, 10)))
    changed = session.execute(
        update(EvaluationRun)
        .where(lease.holds())
        .values(
            lease_expires_at=func.now(),
            claim_after=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
        )
    )
    if changed_rows(changed) == 0:
        raise lost(lease)


def note_waiting(session: Session, lease: Lease, what: str) -> None:
    """Show in the run's metadata what it waits for (`waiting_for`); "" when it waits no more. Raises LeaseLost."""
    without = EvaluationRun.metadata_.op("-")("waiting_for")
    noted = without.op("||")(func.jsonb_build_object("waiting_for", what)) if what else without
    if changed_rows(session.execute(update(EvaluationRun).where(lease.holds()).values(metadata_=noted))) == 0:
        raise lost(lease)

"""Half-open breakers: one request at a time, of all replicas, finds out whether a model works again.

A replica takes the probe in Postgres when it refreshes its evidence, not when it decides. The probe is free again when
its outcome is applied, or when nothing was heard of it for `LEASE` seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import func, or_, update
from sqlalchemy.orm import Session

from evalservice.selection.snapshot import Snapshot
from evalservice.tables import SelectionBreaker

LEASE = 30.0
"""Seconds that a probe may take."""


def half_open(snapshot: Snapshot) -> list[str]:
    """The ids of the models whose breaker is half-open."""
    return [own for own, state in zip(snapshot.ids, snapshot.breakers, strict=True) if state == "half-open"]


def claim_probes(session: Session, model_ids: Collection[str]) -> set[str]:
    """Take the probes that are free; gives the models that this caller may send one request to."""
    if not model_ids:
        return set()
    row = SelectionBreaker
    claimed = session.scalars(
        update(row)
        .where(
            row.model_id.in_([uuid.UUID(own) for own in model_ids]),
            or_(row.probe_until.is_(None), row.probe_until < func.now()),
        )
        .values(probe_until=func.now() + timedelta(seconds=LEASE))
        .returning(row.model_id)
        .execution_options(synchronize_session=False)
    )
    return {str(own) for own in claimed}


def with_probes(snapshot: Snapshot, held: Collection[str]) -> Snapshot:
    """The snapshot in which a half-open model is closed to all but the holder of its probe."""
    if not any(state == "half-open" for state in snapshot.breakers):
        return snapshot
    states = tuple(
        "open" if state == "half-open" and own not in held else state
        for own, state in zip(snapshot.ids, snapshot.breakers, strict=True)
    )
    return replace(snapshot, breakers=states)

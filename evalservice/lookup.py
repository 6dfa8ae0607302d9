"""Find what a user names: by id, by name, or by name@version."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any, TypeVar

from sqlalchemy import Uuid, cast, func, select
from sqlalchemy.orm import Session

from evalservice.errors import NotFound
from evalservice.tables import BenchmarkSuite, EvaluationDataset, Model

_CURRENT = cast(func.nullif(func.current_setting("evalservice.organization_id", True), ""), Uuid)
"""The organization of the transaction, as row-level security has it; NULL where it is not set."""
T = TypeVar("T", Model, EvaluationDataset, BenchmarkSuite)


def find(session: Session, kind: type[T], reference: str, field: str) -> T:
    """As `find_or_none`; raises NotFound that names `field` and what there is."""
    row = find_or_none(session, kind, reference)
    if row is not None:
        return row
    columns: Any = kind
    names = session.scalars(select(columns.name).order_by(columns.created_at.desc()).limit(10)).all()
    known = ", ".join(dict.fromkeys(names))
    raise NotFound(field, reference, f"known are {known}" if known else f"no {field} is registered yet")


def find_or_none(session: Session, kind: type[T], reference: str) -> T | None:
    """A model, dataset or benchmark by id, by its exact name (the newest version), or by name@version.

    The organization's own comes before a public one of the same name: what an operator publishes later changes nothing.
    """
    with contextlib.suppress(ValueError):
        row = session.get(kind, uuid.UUID(reference))
        if row is not None:
            return row
    columns: Any = kind
    own = func.coalesce(columns.organization_id == _CURRENT, False)
    newest = select(kind).order_by(own.desc(), columns.created_at.desc(), columns.id.desc())
    named = session.scalars(newest.where(columns.name == reference)).first()
    name, _, version = reference.rpartition("@")
    if named is not None or not name or kind is EvaluationDataset:
        return named
    return session.scalars(newest.where(columns.name == name, columns.version == version)).first()

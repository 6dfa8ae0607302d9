"""Register and change experiments. Every function takes the tenant's session; edges commit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from evalservice.comparisons.schemas import NewExperiment
from evalservice.errors import InvalidTransition, NotFound
from evalservice.tables import Experiment

_DRAFT_ONLY = ("experiment_config",)


def create_experiment(
    session: Session, organization_id: uuid.UUID, new: NewExperiment, *, user_id: uuid.UUID | None
) -> Experiment:
    """A draft."""
    row = Experiment(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        hypothesis=new.hypothesis,
        objective=new.objective,
        experiment_config=new.experiment_config,
        tags=list(new.tags),
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def locked(session: Session, kind: type[Any], row_id: uuid.UUID, field: str) -> Any:
    """The row, until the transaction ends nobody else's. Raises NotFound."""
    row = session.get(kind, row_id, with_for_update=True)
    if row is None:
        raise NotFound(field, str(row_id))
    return row


def change(session: Session, row: Experiment, given: Mapping[str, Any]) -> None:
    """Set the given fields that are not null. Raises InvalidTransition for what only a draft may change."""
    for name, value in given.items():
        if value is None:
            continue
        if name in _DRAFT_ONLY and row.status != "draft":
            raise InvalidTransition(f"{name}: it is {row.status}: only a draft's can be changed")
        setattr(row, "metadata_" if name == "metadata" else name, list(value) if name == "tags" else value)
    session.flush()
    session.refresh(row)

"""What happened after a decision: a row per selection; partial, late, repeated, or before its decision is stored."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from evalservice.errors import Conflict, InvalidInput
from evalservice.lookup import find
from evalservice.tables import Model, SelectionOutcome

_LATER = timedelta(minutes=5)
"""So much later than ours a caller's clock may be."""
_OLDEST = timedelta(days=365)


class NewOutcome(BaseModel):
    """What is known now; what is left out may come later. A value that was given before is not changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"example": {"success": True, "latency_ms": 812.5, "cost": "0.0004", "quality": 1.0}},
    )

    success: bool | None = None
    error_kind: Annotated[str, StringConstraints(max_length=30, pattern=r"^[^\x00]*$")] | None = None
    latency_ms: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    input_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    output_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    cost: Annotated[Decimal, Field(ge=0, lt=Decimal(10) ** 10, decimal_places=10, allow_inf_nan=False)] | None = Field(
        None, description="US dollars."
    )
    quality: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    served_model: Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="The model that answered, where it was not the selected one: a name, name@version or id."
    )
    served_model_name: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="What the provider said that it served, e.g. an alias."
    )
    occurred_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _something(self) -> NewOutcome:
        if not self.model_fields_set:
            raise ValueError("at least one part of an outcome")
        return self


def record_outcome(
    session: Session, organization_id: uuid.UUID, selection_id: uuid.UUID, given: NewOutcome
) -> SelectionOutcome:
    """Store what is new of an outcome. Repeating it changes nothing.

    Raises NotFound (served_model), InvalidInput (occurred_at in the future), Conflict: a part was given before with
    another value.
    """
    now = datetime.now(UTC)
    if given.occurred_at is not None and not now - _OLDEST <= given.occurred_at <= now + _LATER:
        raise InvalidInput("occurred_at", str(given.occurred_at), f"a time of the last {_OLDEST.days} days")
    values = given.model_dump(exclude_none=True, exclude={"served_model"})
    if given.served_model is not None:
        values["served_model_id"] = find(session, Model, given.served_model, "served_model").id
    session.execute(
        text(
            "INSERT INTO selection_outcomes (id, organization_id, selection_id) "
            "VALUES (gen_random_uuid(), :organization, :selection) "
            "ON CONFLICT (organization_id, selection_id) DO NOTHING"
        ),
        {"organization": organization_id, "selection": selection_id},
    )
    row = session.scalars(
        select(SelectionOutcome).where(SelectionOutcome.selection_id == selection_id).with_for_update()
    ).one()
    changed = False
    for name, value in values.items():
        known: Any = getattr(row, name)
        if known in (None, ""):
            setattr(row, name, value)
            changed = True
        elif known != value:
            raise Conflict(f"{name}: this selection's outcome has {known!s} already, and is not changed to {value!s}")
    if changed:
        row.applied_at = None
        row.updated_at = now
        session.flush()
    return row

"""What the API gives about routing decisions."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel

from evalservice.tables import ModelSelectionLog
from evalservice.web.fields import columns


class SelectionRead(BaseModel):
    """One decision of the router: what was asked, what was chosen and why."""

    id: uuid.UUID
    requested_capabilities: list[Any]
    constraints: dict[str, Any]
    use_case: str
    selected_model_id: uuid.UUID | None
    propensity: float | None
    policy_name: str
    policy_version: int | None
    created_at: datetime

    @classmethod
    def of(cls, row: ModelSelectionLog) -> Self:
        """From the table."""
        return cls(**columns(row, cls))

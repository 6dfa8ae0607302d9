"""What the API gives about routing decisions and takes about their outcomes."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel

from evalservice.tables import ModelSelectionLog, SelectionOutcome
from evalservice.web.fields import columns


class SelectedModel(BaseModel):
    """How to call a model; the caller has its key."""

    model_id: uuid.UUID
    name: str
    version: str
    display_name: str
    platform: str
    platform_model_id: str
    base_url: str
    config: dict[str, Any]


class DecidedBy(BaseModel):
    """The policy; version None for an algorithm that was asked for by name."""

    name: str
    version: int | None
    algorithm: str


class SnapshotRead(BaseModel):
    """The evidence that a decision was made from."""

    version: str
    age_seconds: float


class Selection(BaseModel):
    """A decision: the model to call and those to fall back to, why, and every candidate.

    candidates: the eligible ones by score, each with its estimates and the probability that the policy gave it, then
    the rejected ones, each with the first constraint that it breaks. evidence: the row that quality was taken from.
    """

    id: uuid.UUID
    selected: SelectedModel
    fallbacks: list[SelectedModel]
    score: float | None
    propensity: float
    explanation: str
    policy: DecidedBy
    evidence: str
    seed: int
    snapshot: SnapshotRead
    warnings: list[str]
    decided_at: datetime
    candidates: list[dict[str, Any]]


class SelectionRead(BaseModel):
    """A decision as it is logged, with what is known of its outcome."""

    id: uuid.UUID
    requested_capabilities: list[Any]
    constraints: dict[str, Any]
    use_case: str
    selected_model_id: uuid.UUID | None
    selection_algorithm: str
    selection_score: float | None
    selection_explanation: str
    propensity: float | None
    policy_id: uuid.UUID | None
    policy_name: str
    policy_version: int | None
    is_shadow: bool
    seed: int | None
    snapshot_version: str
    snapshot_at: datetime | None
    execution_successful: bool | None
    actual_performance: dict[str, Any]
    created_at: datetime
    decided_at: datetime | None

    @classmethod
    def of(cls, row: ModelSelectionLog) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class SelectionDetail(SelectionRead):
    """A decision with everything that replays it."""

    candidate_models: list[Any]
    request: dict[str, Any]
    request_hash: str
    request_text: str | None
    neighbours: list[Any]
    metadata: dict[str, Any]

    @classmethod
    def of(cls, row: ModelSelectionLog) -> Self:
        """From the table."""
        return cls(**columns(row, cls, "metadata"), metadata=row.metadata_)


class OutcomeRead(BaseModel):
    """What is known of what happened after a decision. applied_at: when it became evidence, None while it waits."""

    selection_id: uuid.UUID
    served_model_id: uuid.UUID | None
    served_model_name: str
    success: bool | None
    error_kind: str
    latency_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    quality: float | None
    occurred_at: datetime | None
    applied_at: datetime | None

    @classmethod
    def of(cls, row: SelectionOutcome) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class Replay(BaseModel):
    """A decision made again from its log. same: whether it is the one that was made, bit for bit; differences say where
    it is not."""

    id: uuid.UUID
    same: bool
    selected_model_id: uuid.UUID | None
    propensity: float | None
    score: float | None
    differences: list[str]

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


class Statistic(BaseModel):
    """A mean or a share with its standard error and 95 % interval; null where n is too small to have one."""

    n: int
    value: float | None
    stderr: float | None
    ci_low: float | None
    ci_high: float | None


class ModelShare(BaseModel):
    """How often a model was chosen. share: of the decisions that chose one. name: null for a model that is gone."""

    model_id: uuid.UUID
    name: str | None
    decisions: int
    share: float


class Rejections(BaseModel):
    """What a constraint rejects: candidates that break it first, and decisions with such a candidate."""

    constraint: str
    candidates: int
    decisions: int


class ModelOutcomes(BaseModel):
    """What was got of a model where it served, as a selection's choice or as a fallback. cost: US dollars."""

    model_id: uuid.UUID
    name: str | None
    success_rate: Statistic
    quality: Statistic
    cost: Statistic
    latency_ms: Statistic


class Regret(BaseModel):
    """Mean quality by which the best eligible candidate exceeds the chosen one, per decision.

    The best is the eligible candidate of the highest quality as it was estimated when the decision was made; the
    greatest of several noisy estimates is on average too high, so regret leans upward. estimated: against the chosen
    one's own estimate of then, over the decisions that have both; exactly 0 where the best was chosen. realised:
    against the quality that outcomes say the chosen one really got, over the decisions with such an outcome (none that
    a fallback served); may be negative. stderr is an upper bound: decisions share the estimates, whose errors do not
    average out.
    """

    estimated: Statistic
    realised: Statistic


class Savings(BaseModel):
    """Against always choosing the eligible candidate of the highest estimated quality (of equals the cheapest).

    Its expected cost minus the chosen one's, US dollars, over the n decisions where both are known; negative where the
    choices cost more. quality_given_up: the mean difference of the estimated qualities of the same decisions.
    """

    n: int
    unknown: int
    total_usd: float | None
    per_request_usd: float | None
    quality_given_up: float | None


class DecisionsSummary(BaseModel):
    """Some decisions as a whole; the most frequent first. nothing_eligible: those that chose no model."""

    decisions: int
    nothing_eligible: int
    models: list[ModelShare]
    rejections: list[Rejections]
    outcomes: list[ModelOutcomes]
    regret: Regret
    savings: Savings


class SelectionSummary(BaseModel):
    """The log of a time [since, until). complete: whether all of its decisions were looked at; else only the latest
    `limit`, which begin at `looked_at_since`. shadows: decisions that did not serve, and so have no outcomes."""

    since: datetime
    until: datetime
    use_case: str | None
    policy_name: str | None
    limit: int
    complete: bool
    looked_at_since: datetime
    served: DecisionsSummary
    shadows: DecisionsSummary

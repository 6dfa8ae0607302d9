"""Which model for this request: versioned policies, the log of decisions, and what happened after them."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    TIME,
    Base,
    CreatedAt,
    CreatedBy,
    Identified,
    Owned,
    Timestamps,
    flag,
    index,
    json_list,
    json_object,
    long,
    maybe_money,
    maybe_real,
    maybe_time,
    one_of,
    parent_key,
    same_organization,
    short,
)
from evalservice.tables.catalog import Model
from evalservice.tables.organizations import Organization, User

POLICY_STATUSES = ("draft", "active", "shadow", "canary", "ab", "retired")


class SelectionPolicy(Identified, Owned, CreatedBy, Timestamps, Base):
    """One version of a named policy. A version never changes but in `status`, so that a decision can be replayed.

    shadow: decides and logs, does not serve. canary, ab: serves `traffic_share` of the requests. At most one version
    of a name is active, and at most one policy is the default of a use case ('' is every other use case).
    """

    __tablename__ = "selection_policies"
    __table_args__ = (
        UniqueConstraint("organization_id", "name", "version"),
        parent_key("selection_policies"),
        one_of("status", POLICY_STATUSES),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("traffic_share >= 0 AND traffic_share <= 1", name="traffic_share"),
        Index(
            "uq_selection_policies_active",
            "organization_id",
            "name",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
        Index(
            "uq_selection_policies_default",
            "organization_id",
            "use_case",
            unique=True,
            postgresql_where=text("is_default AND status = 'active'"),
        ),
        index("selection_policies", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    version: Mapped[int] = mapped_column(Integer)
    description: Mapped[str] = long()
    algorithm: Mapped[str] = short(50)
    parameters: Mapped[dict[str, Any]] = json_object()
    budget: Mapped[dict[str, Any]] = json_object()
    use_case: Mapped[str] = short(200, "")
    is_default: Mapped[bool] = flag(False)
    status: Mapped[str] = short(20, "draft")
    traffic_share: Mapped[float | None] = maybe_real()
    activated_at: Mapped[datetime | None] = maybe_time()
    retired_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()


class ModelSelectionLog(Identified, Owned, CreatedBy, CreatedAt, Base):
    """One decision with everything that replays it. `id` is the selection's id.

    `selected_model_id` is plain and outlives the model; NULL: nothing was eligible. `selected_model_ref_id` is the
    foreign key, emptied when the model goes. The request's text is kept only where the organization asks for it.
    """

    __tablename__ = "model_selection_logs"
    __table_args__ = (
        same_organization("model_selection_logs", "selected_model_ref_id", "evaluation_models", "SET NULL"),
        same_organization("model_selection_logs", "policy_id", "selection_policies", "SET NULL"),
        CheckConstraint("propensity >= 0 AND propensity <= 1", name="propensity"),
        index("model_selection_logs", "organization_id", "-created_at"),
        index("model_selection_logs", "selected_model_id", "-created_at"),
        index("model_selection_logs", "use_case", "-created_at"),
        index("model_selection_logs", "selected_model_ref_id"),
        index("model_selection_logs", "policy_id", "-created_at"),
        index("model_selection_logs", "created_by_id"),
    )

    requested_capabilities: Mapped[list[Any]] = json_list()
    constraints: Mapped[dict[str, Any]] = json_object()
    use_case: Mapped[str] = short(200, "")
    selected_model_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    selected_model_ref_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    candidate_models: Mapped[list[Any]] = json_list()
    selection_algorithm: Mapped[str] = short(50)
    selection_score: Mapped[float | None] = maybe_real()
    selection_explanation: Mapped[str] = long()
    execution_successful: Mapped[bool | None] = mapped_column(Boolean)
    actual_performance: Mapped[dict[str, Any]] = json_object()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    propensity: Mapped[float | None] = maybe_real()
    policy_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    policy_name: Mapped[str] = short(200, "")
    policy_version: Mapped[int | None] = mapped_column(Integer)
    is_shadow: Mapped[bool] = flag(False)
    seed: Mapped[int | None] = mapped_column(BigInteger)
    snapshot_version: Mapped[str] = short(100, "")
    snapshot_at: Mapped[datetime | None] = maybe_time()
    request: Mapped[dict[str, Any]] = json_object()
    request_hash: Mapped[str] = short(64, "")
    request_text: Mapped[str | None] = mapped_column(Text)
    neighbours: Mapped[list[Any]] = json_list()
    decided_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()
    selected_model: Mapped[Model | None] = relationship(
        primaryjoin="ModelSelectionLog.selected_model_ref_id == Model.id",
        foreign_keys="ModelSelectionLog.selected_model_ref_id",
    )
    policy: Mapped[SelectionPolicy | None] = relationship(
        primaryjoin="ModelSelectionLog.policy_id == SelectionPolicy.id", foreign_keys="ModelSelectionLog.policy_id"
    )


class SelectionOutcome(Identified, Owned, Timestamps, Base):
    """What happened after a decision, merged into one row per selection: partial, late, out of order, repeated.

    `selection_id` is plain, because an outcome may come before its decision's batch. `served_model_id` is the model
    that really answered; the outcome is credited to it. `applied_at`: when it reached the log and the metrics.
    """

    __tablename__ = "selection_outcomes"
    __table_args__ = (
        UniqueConstraint("organization_id", "selection_id"),
        index("selection_outcomes", "organization_id", "-created_at"),
        Index("ix_selection_outcomes_waiting", "created_at", postgresql_where=text("applied_at IS NULL")),
    )

    selection_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    served_model_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    served_model_name: Mapped[str] = short(200, "")
    success: Mapped[bool | None] = mapped_column(Boolean)
    error_kind: Mapped[str] = short(30, "")
    latency_ms: Mapped[float | None] = maybe_real()
    input_tokens: Mapped[int | None] = mapped_column(Integer)
    output_tokens: Mapped[int | None] = mapped_column(Integer)
    cost: Mapped[Decimal | None] = maybe_money()
    quality: Mapped[float | None] = mapped_column(Double)
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")
    occurred_at: Mapped[datetime | None] = mapped_column(TIME)
    applied_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()


class SelectionTrial(Identified, Owned, Timestamps, Base):
    """A policy's version with a share of the requests, and the active one that it is held against, since both had it.

    `state` is that of `evalservice.selection.contest`, after the outcomes that are applied. `stopped_at`: when the
    version lost its share because it failed more often.
    """

    __tablename__ = "selection_trials"
    __table_args__ = (
        same_organization("selection_trials", "policy_id", "selection_policies", "CASCADE"),
        same_organization("selection_trials", "against_id", "selection_policies", "CASCADE"),
        UniqueConstraint(
            "organization_id", "policy_id", "against_id", "started_at", name="uq_selection_trials_beginning"
        ),
        index("selection_trials", "policy_id", "-started_at"),
        index("selection_trials", "against_id"),
    )

    policy_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    against_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    started_at: Mapped[datetime] = mapped_column(TIME)
    state: Mapped[dict[str, Any]] = json_object()
    stopped_at: Mapped[datetime | None] = maybe_time()

    organization: Mapped[Organization] = relationship()


class SelectionBelief(Base):
    """What outcomes have taught about an organization's models, for one use case; '' is for all of them together.

    `model_ids` are the models in the order of the arrays in `beliefs` (`evalservice.selection.learning`).
    """

    __tablename__ = "selection_beliefs"

    organization_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True
    )
    use_case: Mapped[str] = mapped_column(String(200), primary_key=True)
    model_ids: Mapped[list[Any]] = json_list()
    beliefs: Mapped[dict[str, Any]] = json_object()
    updated_at: Mapped[datetime] = mapped_column(TIME, server_default=func.now())


class SelectionBreaker(Base):
    """A model's circuit breaker as outcomes have left it, and its running latencies.

    `state` is that of `evalservice.selection.breaker`; `probe_until`: a replica may let one request through until then.
    `latencies` are the newest of its outcomes, in milliseconds, for their percentiles.
    """

    __tablename__ = "selection_breakers"
    __table_args__ = (same_organization("selection_breakers", "model_id", "evaluation_models", "CASCADE"),)

    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    state: Mapped[list[Any]] = json_list()
    latencies: Mapped[list[Any]] = json_list()
    outcome_at: Mapped[datetime | None] = maybe_time()
    probe_until: Mapped[datetime | None] = maybe_time()
    updated_at: Mapped[datetime] = mapped_column(TIME, server_default=func.now())

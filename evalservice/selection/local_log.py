"""Decisions that a client made on the service's evidence, checked and put into the log.

A decision is taken only if it can be made again from what it says: the same estimates, parameters and seed give the
same choice with the same probability, as for any replay. It must be of models and of policies that the organization
has, with the policy's own parameters. What the client saw of each model is its word, as `metadata.local` tells.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from evalservice.errors import EvalserviceError, InvalidInput, NotFound
from evalservice.selection.deciding import PolicyVersion
from evalservice.selection.decisions import COLUMNS, as_jsonb
from evalservice.selection.policy_parameters import parameters_of
from evalservice.selection.replaying import replayed
from evalservice.selection.request import SelectionRequest, parsed
from evalservice.selection.stored_policies import version_of
from evalservice.tables import Model, ModelSelectionLog, SelectionPolicy

MOST_DECISIONS = 200
OLDEST = timedelta(days=7)
LATER = timedelta(minutes=5)
"""So much later than ours a client's clock may be."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=300, pattern=r"^[^\x00]*$")]
Sentence = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rejected(_Given):
    """The first constraint that a model breaks, what it has there, and the limit."""

    constraint: Text
    value: Any
    limit: Any

    @model_validator(mode="after")
    def _numeric(self) -> Rejected:
        if isinstance(self.limit, dict) and not isinstance(self.limit.get("value"), int | float):
            raise ValueError("a limit whose `value` is a number")
        return self


class Candidate(_Given):
    """A model as the decision saw it: with its estimates and probability, or rejected."""

    model_id: uuid.UUID
    name: Text
    score: Finite | None = None
    probability: Share | None = None
    quality: Finite | None = None
    quality_sd: Finite | None = None
    cost: Finite | None = None
    latency_ms: Finite | None = None
    error_rate: Finite | None = None
    outcomes: Finite | None = None
    rejected: Rejected | None = None


class DecidedBy(_Given):
    """The algorithm and its parameters, all of them."""

    algorithm: Text
    parameters: dict[str, Any]


class LocalDecision(_Given):
    """A decision as a client has made it. request: as it was asked, without the text, and `decided_by`."""

    id: uuid.UUID
    selected_model_id: uuid.UUID | None
    selection_score: Finite | None
    selection_explanation: Sentence
    propensity: Share | None
    policy_id: uuid.UUID | None
    policy_name: Text
    policy_version: int | None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    snapshot_version: Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")]
    snapshot_at: AwareDatetime
    candidate_models: Annotated[list[Candidate], Field(max_length=10_000)]
    request: dict[str, Any]
    request_hash: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    request_text: Annotated[str, StringConstraints(max_length=100_000, pattern=r"^[^\x00]*$")] | None
    price: Finite
    allowance: Finite | None
    evidence: Text
    decided_at: AwareDatetime


class LocalDecisions(_Given):
    """Decisions to log."""

    decisions: Annotated[list[LocalDecision], Field(max_length=MOST_DECISIONS)]


class Refusal(BaseModel):
    """A decision that is not logged, and why."""

    id: uuid.UUID
    reason: str


class LocalDecisionsRead(BaseModel):
    """How many are in the log now, those included that were before; and those that are not taken."""

    logged: int
    refused: list[Refusal]


def checked(
    session: Session, user_id: uuid.UUID, given: Sequence[LocalDecision], now: datetime
) -> tuple[list[tuple[Any, ...]], list[Refusal]]:
    """The rows to store, as `decisions.store_rows` takes them, and what is refused."""
    models = _known(session, Model.id, (each.model_id for own in given for each in own.candidate_models))
    wanted = {own.policy_id for own in given if own.policy_id is not None}
    stored = session.scalars(select(SelectionPolicy).where(SelectionPolicy.id.in_(wanted)))
    policies = {row.id: version_of(row) for row in stored}
    rows, refused = [], []
    for own in given:
        try:
            rows.append(_row(own, user_id, models, policies, now))
        except EvalserviceError as error:
            refused.append(Refusal(id=own.id, reason=error.message))
    return rows, refused


def _known(session: Session, column: Any, ids: Iterable[uuid.UUID]) -> frozenset[uuid.UUID]:
    return frozenset(session.scalars(select(column).where(column.in_(set(ids)))))


def _row(
    own: LocalDecision,
    user_id: uuid.UUID,
    models: frozenset[uuid.UUID],
    policies: Mapping[uuid.UUID, PolicyVersion],
    now: datetime,
) -> tuple[Any, ...]:
    """Raises EvalserviceError: it is not taken."""
    asked = dict(own.request)
    decided_by = parsed(DecidedBy, asked.pop("decided_by", None), "request.decided_by")
    request = parsed(SelectionRequest, asked, "request")
    _check_request(own, request, now)
    _check_policy(own, decided_by, policies)
    _check_candidates(own, request, models)
    candidates = [each.model_dump(mode="json", include=_SHOWN[each.rejected is None]) for each in own.candidate_models]
    metadata = {"price": own.price, "allowance": own.allowance, "evidence": own.evidence, "local": True}
    replay = replayed(
        ModelSelectionLog(
            id=own.id,
            selected_model_id=own.selected_model_id,
            candidate_models=candidates,
            selection_score=own.selection_score,
            propensity=own.propensity,
            policy_name=own.policy_name,
            seed=own.seed,
            request=own.request,
            metadata_=metadata,
        )
    )
    if not replay.same:
        raise InvalidInput("decision", str(own.id), f"one that replays: {'; '.join(replay.differences[:3])}")
    values = {
        "id": own.id,
        "created_by_id": user_id,
        "use_case": request.use_case,
        "requested_capabilities": as_jsonb(request.required_capabilities),
        "constraints": as_jsonb(request.constraints.model_dump(mode="json", exclude_defaults=True)),
        "selected_model_id": own.selected_model_id,
        "candidate_models": as_jsonb(candidates),
        "selection_algorithm": decided_by.algorithm,
        "selection_score": own.selection_score,
        "selection_explanation": own.selection_explanation,
        "propensity": own.propensity,
        "policy_id": own.policy_id,
        "policy_name": own.policy_name,
        "policy_version": own.policy_version,
        "is_shadow": False,
        "seed": own.seed,
        "snapshot_version": own.snapshot_version,
        "snapshot_at": own.snapshot_at,
        "request": as_jsonb(own.request),
        "request_hash": own.request_hash,
        "request_text": own.request_text if request.store_text else None,
        "neighbours": "[]",
        "metadata": as_jsonb(metadata),
        "decided_at": own.decided_at,
    }
    return tuple(values[name] for name in COLUMNS)


_SHOWN = {True: set(Candidate.model_fields) - {"rejected"}, False: {"model_id", "name", "rejected"}}
"""Of an eligible candidate, and of a rejected one."""


def _check_request(own: LocalDecision, request: SelectionRequest, now: datetime) -> None:
    if request.text is not None:
        raise InvalidInput("request.text", "…", "nothing: its hash, and `request_text` with `store_text`")
    if request.seed not in (None, own.seed):
        raise InvalidInput("seed", own.seed, f"{request.seed}, as the request has it")
    if not now - OLDEST <= own.decided_at <= now + LATER:
        raise InvalidInput("decided_at", str(own.decided_at), f"a time of the last {OLDEST.days} days")
    if not now - OLDEST <= own.snapshot_at <= own.decided_at + LATER:
        raise InvalidInput("snapshot_at", str(own.snapshot_at), "a time before the decision")


def _check_policy(own: LocalDecision, decided_by: DecidedBy, policies: Mapping[uuid.UUID, PolicyVersion]) -> None:
    """The policy is one of theirs, or an algorithm by its name; with its own parameters."""
    if own.policy_id is None:
        own_parameters = parameters_of(decided_by.algorithm, decided_by.parameters, "request.decided_by.parameters")
        wanted = PolicyVersion(decided_by.algorithm, decided_by.algorithm, own_parameters.model_dump())
    elif own.policy_id in policies:
        wanted = policies[own.policy_id]
    else:
        raise NotFound("policy_id", str(own.policy_id))
    given = (own.policy_name, own.policy_version, decided_by.algorithm, decided_by.parameters)
    if given != (wanted.name, wanted.version, wanted.algorithm, dict(wanted.parameters)):
        raise InvalidInput("request.decided_by", decided_by.parameters, f"what {wanted.name} has")
    if own.price and not wanted.budget:
        raise InvalidInput("price", own.price, f"0: {wanted.name} has no budget")


def _check_candidates(own: LocalDecision, request: SelectionRequest, models: frozenset[uuid.UUID]) -> None:
    """They are the organization's, each once, and the eligible ones keep the limits on what is told of them."""
    asked = request.constraints
    limits = (
        ("cost", asked.max_cost),
        ("latency_ms", asked.max_p95_latency_ms),
        ("error_rate", asked.max_error_rate),
    )
    seen = set()
    for each in own.candidate_models:
        if each.model_id not in models:
            raise NotFound("candidate_models", each.name)
        if each.model_id in seen:
            raise InvalidInput("candidate_models", each.name, "each model once")
        seen.add(each.model_id)
        for name, limit in limits:
            value = getattr(each, name)
            if each.rejected is None and limit is not None and (value is None or value > limit):
                raise InvalidInput("candidate_models", each.name, f"a {name} of at most {limit:g}, or rejected")

"""What the API takes and gives about selection policies and what they would have got."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from evalservice.selection.policy_parameters import Budget
from evalservice.tables import SelectionPolicy
from evalservice.web.fields import JsonObject, Line, Name, Text, columns

Algorithm = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}$")]
Reward = Literal["quality", "success", "utility"]
"""quality and success as the outcomes say; utility: quality - cost_weight × cost in US dollars."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewPolicy(_Given):
    """A draft: the first version of a policy, or the next one where the name exists."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "name": "support",
                    "algorithm": "cheapest_above_quality",
                    "parameters": {"min_quality": 0.8},
                    "budget": {"mean_cost_usd": 0.001},
                    "use_case": "support",
                }
            ]
        },
    )

    name: Name
    description: Text = ""
    algorithm: Algorithm
    parameters: JsonObject = {}
    budget: Budget = Budget()
    use_case: Line = ""
    """What it decides for when it is the default; empty: every use case that has no default of its own."""


class Activation(_Given):
    """is_default: whether the version becomes the default of its use case; null: as the version that it replaces."""

    is_default: bool | None = None


class Traffic(_Given):
    """share: of the policy's requests that this version decides; the active version decides the others."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"share": 0.05}]})

    share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class PolicyRead(BaseModel):
    """One version of a policy. Models in `parameters` are ids.

    traffic_share: of canary and ab. is_default: of its use case; of a retired version, whether it was.
    activated_at: when it was activated last; a rollback to it keeps that time.
    """

    id: uuid.UUID
    name: str
    version: int
    description: str
    algorithm: str
    parameters: dict[str, Any]
    budget: dict[str, Any]
    use_case: str
    is_default: bool
    status: str
    traffic_share: float | None
    activated_at: datetime | None
    retired_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: SelectionPolicy) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class EstimateRead(BaseModel):
    """A mean reward with its standard error and 95 % interval."""

    value: float
    stderr: float
    ci_low: float
    ci_high: float


class RefusalRead(BaseModel):
    """Why the log cannot say what the policy would have got."""

    reason: Literal["no_outcomes", "support", "effective_n"]
    message: str


class PolicyEvaluationRead(BaseModel):
    """What a policy would have got on the logged requests, or the refusal.

    n: decisions with an outcome. without_outcome: those that the reward is not known of, left out. unusable: those that
    do not say what could have been chosen. effective_n: what the log is worth to this policy. without_support: the
    share of requests where it may choose what could not have been chosen. estimators: ips, snips, dr; empty when
    refused. logged: what was got in fact.
    """

    policy_id: uuid.UUID
    policy_name: str
    policy_version: int
    reward: Reward
    cost_weight: float | None
    use_case: str | None
    since: datetime | None
    until: datetime | None
    n: int
    without_outcome: int
    unusable: int
    effective_n: float
    without_support: float
    estimators: dict[str, EstimateRead]
    logged: EstimateRead | None
    refusal: RefusalRead | None

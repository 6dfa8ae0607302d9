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


class VersionRewards(BaseModel):
    """What a version got: n outcomes that say the reward, and its mean."""

    policy_id: uuid.UUID
    version: int
    n: int
    mean: float | None


class Difference(BaseModel):
    """Of the mean rewards, trial minus active version, with a 95 % interval that holds at every look, however often.

    From n blocks, each of outcomes of both versions that came at about the same time; every outcome is in one, but for
    those that wait for the other version's. Bounds are null before the first block, and where the difference changed
    so much that those of different times contradict each other.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


class PolicyTrialRead(BaseModel):
    """A version that serves a share of the requests, against the active one beside it.

    Since started_at; outcomes of requests that name a version or bring a seed do not count. active: the version that
    is, or was then, the active one. stopped_at: when the trial lost its share because it failed more often. verdict:
    which version is better, or that it takes more outcomes to tell. failure_p_value: of "the trial fails at most as
    often as the active version", from all outcomes that say whether it worked; holds at every look. A canary loses its
    share at 0.05.
    """

    policy_name: str
    status: Literal["canary", "ab", "ended"]
    traffic_share: float | None
    started_at: datetime
    stopped_at: datetime | None
    reward: Reward
    cost_weight: float | None
    active: VersionRewards
    trial: VersionRewards
    difference: Difference
    verdict: Literal["trial", "active", "continue"]
    failure_p_value: float


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

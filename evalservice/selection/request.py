"""What may be asked of the router: the request as validated, with every constraint by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from evalservice.errors import InvalidInput
from evalservice.selection.policy_parameters import Weights

Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Words = Annotated[list[Word], Field(max_length=1000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
M = TypeVar("M", bound=BaseModel)
Status = Literal["active", "deprecated", "experimental"]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MinQuality(_Input):
    """A floor that the lower confidence bound of a model's measured quality must reach.

    On one benchmark, one category, or overall when neither is named. The floor is in [0, 1], as are the estimates.
    """

    value: Share
    benchmark: Word | None = None
    category: Word | None = None
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95

    @model_validator(mode="after")
    def _one(self) -> MinQuality:
        if self.benchmark is not None and self.category is not None:
            raise ValueError("a benchmark or a category, not both")
        return self


class Constraints(_Input):
    """Hard limits: no policy and no exploration brings back a model that breaks one.

    A limit on a number that is not known of a model rejects it: `no evidence`.
    """

    max_cost: Positive | None = Field(None, description="Expected US dollars for the request.")
    max_cost_per_1k_tokens: Positive | None = Field(None, description="US dollars.")
    max_p95_latency_ms: Positive | None = None
    max_error_rate: Share | None = None
    min_quality: MinQuality | None = None
    max_evidence_age_seconds: Positive | None = None
    platforms: Words | None = Field(None, description="Only these.")
    tags: Words | None = Field(None, description="Models that have all of these.")
    models: Words | None = Field(None, description="Only these, by name, name@version or id.")
    exclude: Words | None = Field(None, description="None of these, by name, name@version or id.")
    statuses: Annotated[list[Status], Field(min_length=1)] = Field(default=["active"])


class SelectionRequest(_Input):
    """Which model for this request?"""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "example": {
                "required_capabilities": ["text-generation"],
                "constraints": {"max_cost": 0.002, "min_quality": {"category": "qa", "value": 0.7}},
                "use_case": "qa",
                "policy": "weighted",
                "weights": {"quality": 2, "cost": 1},
            }
        },
    )

    required_capabilities: Annotated[list[Word], Field(max_length=100)] = []
    constraints: Constraints = Field(default_factory=lambda: Constraints.model_validate({}))
    use_case: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")] = ""
    policy: Word | None = Field(None, description="A stored policy's name or name@version, or an algorithm's name.")
    weights: Weights | None = None
    parameters: dict[str, Any] | None = Field(None, description="The algorithm's, where `policy` names an algorithm.")
    text: Annotated[str, StringConstraints(max_length=100_000, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="The request's text, for policies that read it. Not stored unless `store_text`."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    durable: bool = Field(False, description="Answer only once the decision is stored.")
    store_text: bool = False


def parsed(kind: type[M], given: bytes | Any, field: str) -> M:
    """Of JSON, or what it was read into. Raises InvalidInput, naming the place as the API does. field: the whole."""
    try:
        return kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(step) for step in first["loc"]) or field
        raise InvalidInput(name, first["input"], str(first["msg"]).removeprefix("Value error, ")) from None

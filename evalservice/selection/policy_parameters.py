"""What each selection algorithm can be told: a policy's parameters and its budget, validated, without a database.

    parameters_of("cheapest_above_quality", {"min_quality": 0.8})
    -> CheapestAboveQuality(exploration=0.0, min_quality=0.8, confidence=0.95)

Another package adds algorithms in its `pyproject.toml`:

    [project.entry-points."evalservice.policies"]
    coin = "my_package.policies:Coin"

`Coin` has a class attribute `Parameters`, a subclass of `PolicyParameters`. It is loaded when a policy names it, never
before, and cannot take a built-in name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evalservice.errors import InvalidInput
from evalservice.selection.embedders import DEFAULT, embedder_names
from evalservice.web.fields import Reference

GROUP = "evalservice.policies"
MOST_EXPLORATION = 0.05

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Dollars = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyParameters(_Given):
    """What every algorithm can be told. exploration: the share of requests that go to any eligible candidate."""

    exploration: Annotated[float, Field(ge=0, le=MOST_EXPLORATION, allow_inf_nan=False)] = 0.0

    def models(self) -> Mapping[str, str]:
        """The parameters that name a model: parameter → reference."""
        return {}


class Weights(_Given):
    """What counts how much; each that is not given keeps its default."""

    quality: Weight = 1.0
    cost: Weight = 1.0
    latency: Weight = 1.0
    reliability: Weight = 0.0

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if not any((self.quality, self.cost, self.latency, self.reliability)):
            raise ValueError("a weight above 0")
        return self


class Weighted(PolicyParameters):
    """The highest weighted sum of the scaled estimates."""

    weights: Weights = Weights()


class CheapestAboveQuality(PolicyParameters):
    """The cheapest whose quality is at least `min_quality` by its lower bound of this one-sided confidence."""

    min_quality: Share
    confidence: Annotated[float, Field(ge=0.5, le=0.999, allow_inf_nan=False)] = 0.95


class Pareto(PolicyParameters):
    """Of those that no other beats in everything, the one of the highest weighted sum."""

    weights: Weights = Weights()


class Thompson(PolicyParameters):
    """Each as often as it is the best in draws from what is known of it.

    cost_weight: quality that a US dollar is worth. draws: how many.
    """

    cost_weight: Weight = 0.0
    draws: Annotated[int, Field(ge=1, le=10_000)] = 128


class Nearest(PolicyParameters):
    """The best on evaluated test cases like the request. cost_weight: quality that a US dollar is worth."""

    cost_weight: Weight = 0.0
    embedder: str = DEFAULT

    @field_validator("embedder")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in embedder_names():
            raise ValueError(f"one of {', '.join(embedder_names())}")
        return name


class Pinned(PolicyParameters):
    """Always this model."""

    model: Reference

    def models(self) -> Mapping[str, str]:
        return {"model": self.model}


class Canary(PolicyParameters):
    """`candidate` for a share of the requests, `model` for the rest.

    All go to `model` once the candidate's error rate, over at least `min_outcomes` outcomes, is above `max_error_rate`.
    """

    model: Reference
    candidate: Reference
    share: Share
    max_error_rate: Share = 0.1
    min_outcomes: Annotated[int, Field(ge=1, le=1_000_000)] = 20

    def models(self) -> Mapping[str, str]:
        return {"model": self.model, "candidate": self.candidate}


class Budget(_Given):
    """US dollars that a policy may spend: a mean for each request, or an amount for each day, or without limit."""

    mean_cost_usd: Dollars | None = None
    usd_per_day: Dollars | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.mean_cost_usd is not None and self.usd_per_day is not None:
            raise ValueError("either mean_cost_usd or usd_per_day")
        return self

    def as_json(self) -> dict[str, float]:
        """What is stored: the one that is set, or {}."""
        return self.model_dump(exclude_none=True)


BUILTIN: Mapping[str, type[PolicyParameters]] = {
    "weighted": Weighted,
    "cheapest_above_quality": CheapestAboveQuality,
    "pareto": Pareto,
    "thompson": Thompson,
    "nearest": Nearest,
    "pinned": Pinned,
    "canary": Canary,
}
"""Algorithm → its parameters."""


def algorithm_names() -> list[str]:
    """Every algorithm that a policy can name, built-in first; plug-ins are not loaded for it."""
    return [*BUILTIN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILTIN))]


def parameters_of(algorithm: str, given: Mapping[str, Any], field: str = "parameters") -> PolicyParameters:
    """The parameters, checked and with their defaults. Raises InvalidInput for an algorithm or parameter that is none,
    naming `field` and the parameter, e.g. `parameters.weights.cost`."""
    kind = BUILTIN.get(algorithm) or plugin(algorithm).Parameters
    try:
        found: PolicyParameters = kind.model_validate(dict(given))
    except ValidationError as error:
        raise _invalid(field, kind, error) from None
    return found


def plugin(algorithm: str) -> Any:
    """What another package has registered under a name that is not built in; it has `Parameters`. Raises InvalidInput:
    there is none, there are several, it does not load, or it is no policy."""
    points = [point for point in entry_points(group=GROUP) if point.name == algorithm]
    if not points:
        raise InvalidInput("algorithm", algorithm, f"one of: {', '.join(algorithm_names())}")
    if len({point.value for point in points}) > 1:
        claims = ", ".join(map(_origin, points))
        raise InvalidInput("algorithm", algorithm, f"it is claimed by several plug-ins: {claims}")
    try:
        found = points[0].load()
    except Exception as error:
        accepted = f"the plug-in {_origin(points[0])} does not load: {type(error).__name__}: {error}"
        raise InvalidInput("algorithm", algorithm, accepted) from error
    parameters = getattr(found, "Parameters", None)
    if not isinstance(parameters, type) or not issubclass(parameters, PolicyParameters):
        accepted = f"the plug-in {_origin(points[0])} has no Parameters that are a subclass of PolicyParameters"
        raise InvalidInput("algorithm", algorithm, accepted)
    return found


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"{point.value} of {package}"


def _invalid(field: str, kind: type[BaseModel], error: ValidationError) -> InvalidInput:
    """Pydantic's first complaint; of an unknown name the ones that there are, of the object that it is in."""
    first = error.errors(include_url=False)[0]
    *inside, last = first["loc"] or ("",)
    where = ".".join(str(part) for part in (field, *inside, last) if part != "")
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        return InvalidInput(where, first["input"], message)
    for part in inside:
        nested = kind.model_fields[str(part)].annotation
        kind = nested if isinstance(nested, type) and issubclass(nested, BaseModel) else kind
    return InvalidInput(where, first["input"], f"the names here are {', '.join(kind.model_fields)}")

"""What evaluation criteria are made of, and how their mistakes are told in one line."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from evalservice.catalog.tools import choice_of_shape, format_of_shape, tools_of_shape
from evalservice.errors import InvalidInput
from evalservice.records import JSON


class StrictModel(BaseModel):
    """Frozen, and without fields that nobody asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Example(StrictModel):
    """A worked example: an input as in the dataset, and the answer that should have been given."""

    input: str | dict[str, Any]
    output: str
    choices: tuple[str, ...] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class FewShot(StrictModel):
    """Examples before the question, as turns of the conversation or inline in the one prompt.

    by: a template variable, such as a subject, whose value says which of the `groups` a test case gets instead.
    """

    style: Literal["turns", "inline"] = "turns"
    examples: tuple[Example, ...] = Field(default=(), max_length=100)
    by: str | None = Field(default=None, min_length=1, max_length=200)
    groups: dict[str, Annotated[tuple[Example, ...], Field(max_length=100)]] = Field(
        default_factory=dict, max_length=1000
    )

    @model_validator(mode="after")
    def _one_kind(self) -> FewShot:
        if (self.by is None) != (not self.groups):
            raise ValueError("by and groups come together")
        if self.groups and self.examples:
            raise ValueError("either examples or groups")
        return self

    @model_serializer(mode="wrap")
    def _without_groups(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Criteria without groups say, and hash to, what they did before there were any."""
        document: dict[str, Any] = standard(self)
        return document if self.groups else {k: v for k, v in document.items() if k not in ("by", "groups")}


def abridged(criteria: dict[str, Any]) -> dict[str, Any]:
    """Stored criteria as lists show them: of each group of examples how many there are, for MMLU's are 150 KB."""
    few_shot = criteria.get("few_shot") or {}
    if not few_shot.get("groups"):
        return criteria
    return {**criteria, "few_shot": {**few_shot, "groups": {name: len(of) for name, of in few_shot["groups"].items()}}}


def few_shot_from(value: Any) -> Any:
    """A bare list of examples is turns."""
    return {"examples": value} if isinstance(value, list | tuple) else value


class ScorerSpec(StrictModel):
    """A scorer by name with its parameters; `as` names its metrics when one scorer is used twice."""

    name: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    label: str | None = Field(default=None, alias="as", min_length=1, max_length=100)


class Sampling(StrictModel):
    """Sampling parameters by their OpenAI names; what is not set is left to the model's own defaults.

    A platform that does not know one of them refuses the run when it is created. tools, tool_choice and
    response_format have the OpenAI form for every provider. logprobs: keep each token's log probability, and those of
    `top_logprobs` alternatives, in the result's `completion_info`.
    """

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | tuple[str, ...] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0)
    logit_bias: dict[str, float] | None = None
    response_format: Annotated[dict[str, Any], AfterValidator(format_of_shape)] | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[tuple[dict[str, Any], ...], AfterValidator(tools_of_shape)] | None = None
    tool_choice: Annotated[str | dict[str, Any], AfterValidator(choice_of_shape)] | None = None
    extra_body: dict[str, Any] | None = None
    """Sent as further top-level keys of the request, for what a server adds to the format; objects are merged."""

    def set_values(self) -> dict[str, JSON]:
        """Only what was set, as JSON."""
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if value is not None}


def scorer_from(value: Any) -> Any:
    """A bare name is a scorer without parameters."""
    return {"name": value} if isinstance(value, str) else value


def one_or_more(value: Any) -> Any:
    """A single name or step is a list of one; null is none."""
    if value is None:
        return []
    return [value] if isinstance(value, str | dict) else value


def field_path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A pydantic location without the names of union members (`str`, `dict[str,any]`), which no user wrote."""
    return tuple(step for step in location if isinstance(step, int) or (step.isidentifier() and step not in _UNION))


_UNION: Final = ("str", "int", "float", "tuple", "dict")


def invalid_input(error: ValidationError, model: type[BaseModel], where: str = "") -> InvalidInput:
    """The first thing that pydantic found wrong, as one line."""
    first = error.errors(include_url=False)[0]
    path = field_path(first["loc"])
    field = ".".join(str(step) for step in (where, *path) if step != "")
    accepted = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        accepted = f"there is no such field; accepted: {', '.join(_fields_at(model, path[:-1]))}"
    elif first["type"] == "missing":
        accepted = "it must be given"
    return InvalidInput(field or "file", None if first["type"] == "missing" else first["input"], accepted)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that a path leads to."""
    for step in path:
        if isinstance(step, int):
            continue
        found: Any = next((f.annotation for name, f in model.model_fields.items() if step in (name, f.alias)), None)
        for candidate in (found, *getattr(found, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return [field.alias or name for name, field in model.model_fields.items()]

"""Taking the answer out of a completion, before it is scored: steps that are applied one after another.

    [{"after": "</think>"}, {"regex": "ANSWER: *(.+)", "group": 1, "which": "last"}, {"strip": true, "lower": true}]
    [{"json_path": "answer.value"}]

Steps, each an object of one kind:
- `after` / `before`: what follows the last, or precedes the first, occurrence of a text. Absent: the whole text, since
  a model that does not think aloud is right not to write the marker.
- `regex` with `group` (default: 1 if the pattern has groups, else 0), `which` ("first" or "last"), `ignore_case`,
  `dotall`, `timeout` in seconds. Patterns cannot run longer than that.
- `json_path`: keys and indexes with dots ("answers.0.value") into the completion's JSON (a code fence is tolerated).
- `strip`, `lower`: true. They always succeed.

When a step finds nothing, its `on_missing` says what the scorers see: "empty" (regex and json_path by default: an empty
answer, scored like any wrong one, with "extracted": null in the details; an answer that ignores the asked format is
wrong, as lm-evaluation-harness and Inspect have it), "whole" (the text as it was; default of after and before), or
"fail" (`scorer_failed`, which lowers coverage instead of the value).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evalservice.errors import InvalidInput, shown
from evalservice.records import Completion, TestCase
from evalservice.scoring.base import Item
from evalservice.scoring.invalid import invalid_parameters
from evalservice.scoring.patterns import compiled
from evalservice.scoring.structured import unfenced

OnMissing = Literal["empty", "whole", "fail"]

MAX_CHARS = 2_000_000
"""A completion longer than this is not searched: its items fail."""


class ExtractionFailed(Exception):
    """The answer cannot be taken out of this completion; the message is for the user."""


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def find(self, text: str) -> str | None:
        raise NotImplementedError


class After(_Step):
    after: str = Field(min_length=1)
    on_missing: OnMissing = "whole"

    def find(self, text: str) -> str | None:
        _, found, rest = text.rpartition(self.after)
        return rest if found else None


class Before(_Step):
    before: str = Field(min_length=1)
    on_missing: OnMissing = "whole"

    def find(self, text: str) -> str | None:
        head, found, _ = text.partition(self.before)
        return head if found else None


class Regex(_Step):
    regex: str
    group: int | str | None = None
    which: Literal["first", "last"] = "first"
    ignore_case: bool = False
    dotall: bool = False
    timeout: float = Field(default=1.0, gt=0, le=60)
    on_missing: OnMissing = "empty"

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern

    @model_validator(mode="after")
    def _group_exists(self) -> Regex:
        pattern = compiled(self.regex)
        if self.group is not None and self.group not in (*range(pattern.groups + 1), *pattern.groupindex):
            raise ValueError(f"the pattern has no group {self.group!r}")
        return self

    def find(self, text: str) -> str | None:
        pattern = compiled(self.regex, ignore_case=self.ignore_case, dotall=self.dotall)
        group = self.group if self.group is not None else min(pattern.groups, 1)
        try:
            found: str | None = None
            for match in pattern.finditer(text, timeout=self.timeout):
                if match[group] is not None:
                    found = match[group]
                    if self.which == "first":
                        break
            return found
        except TimeoutError:
            raise ExtractionFailed(f"the pattern {shown(self.regex)} took longer than {self.timeout} s") from None


class JsonPath(_Step):
    json_path: str = Field(min_length=1)
    on_missing: OnMissing = "empty"

    def find(self, text: str) -> str | None:
        try:
            value = json.loads(unfenced(text))
        except (ValueError, RecursionError):
            return None
        for part in self.json_path.removeprefix("$.").split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        if value is None:
            return None
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Tidy(_Step):
    strip: bool = False
    lower: bool = False
    on_missing: OnMissing = "whole"

    def find(self, text: str) -> str | None:
        text = text.strip() if self.strip else text
        return text.lower() if self.lower else text


_KINDS: dict[str, type[After | Before | Regex | JsonPath | Tidy]] = {
    "after": After,
    "before": Before,
    "regex": Regex,
    "json_path": JsonPath,
    "strip": Tidy,
    "lower": Tidy,
}


@dataclass(frozen=True, slots=True)
class Extracted:
    """What the scorers see. found: False when a step found nothing and left the empty text."""

    text: str
    found: bool = True


@dataclass(frozen=True, slots=True)
class Extraction:
    """The steps of a benchmark's criteria, ready to apply; without steps the completion is scored as it is."""

    steps: tuple[After | Before | Regex | JsonPath | Tidy, ...] = ()

    def apply(self, text: str) -> Extracted:
        """The answer within a completion. Raises `ExtractionFailed`."""
        if self.steps and len(text) > MAX_CHARS:
            raise ExtractionFailed(f"the completion has {len(text)} characters, more than {MAX_CHARS}")
        for step in self.steps:
            found = step.find(text)
            if found is not None:
                text = found
            elif step.on_missing == "empty":
                return Extracted("", found=False)
            elif step.on_missing == "fail":
                raise ExtractionFailed(f"nothing to extract by {shown(step.model_dump(exclude_defaults=True))}")
        return Extracted(text)

    def item(self, case: TestCase, completion: Completion) -> Item:
        """The item that scorers take: answer extracted, or why there is none."""
        if completion.error is not None:
            return Item(case, "", model_error=f"{completion.error.kind}: {completion.error.message}")
        try:
            extracted = self.apply(completion.text)
        except ExtractionFailed as error:
            return Item(case, "", extraction_error=f"output extraction: {error}")
        return Item(case, extracted.text, extracted=extracted.found, log_likelihoods=completion.log_likelihoods)


def build_extraction(specification: Any, field: str = "output_extraction") -> Extraction:
    """The steps of the criteria: None, one step or a list of them. Raises `InvalidInput` naming step and field."""
    if specification is None:
        return Extraction()
    steps = [specification] if isinstance(specification, dict) else specification
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise InvalidInput(field, specification, "a step or a list of steps")
    return Extraction(tuple(_step(step, f"{field}[{i}]") for i, step in enumerate(steps)))


def _step(step: Any, field: str) -> After | Before | Regex | JsonPath | Tidy:
    kinds = {_KINDS[key] for key in step if key in _KINDS} if isinstance(step, dict) else set()
    if len(kinds) != 1:
        raise InvalidInput(field, step, f"an object with one of: {', '.join(_KINDS)}")
    [kind] = kinds
    try:
        return kind.model_validate(step)
    except ValidationError as error:
        raise invalid_parameters(field, kind, error) from None

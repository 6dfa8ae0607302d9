"""`json_schema`: the completion is JSON and fits a JSON Schema. Nothing is fetched, and one item has a time limit."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import jsonschema
from jsonschema.validators import validator_for
from pydantic import ConfigDict, Field, field_validator
from referencing import Registry

from evalservice.errors import shown
from evalservice.records import JSON, Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.patterns import compiled

_FENCE = re.compile(r"\A\s*```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)

Keyword = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


class JsonSchema(Scorer["JsonSchema.Parameters"]):
    """1 when the completion parses as strict JSON (no NaN) and fits `schema`, else 0 with the first problem."""

    class Parameters(ScorerParameters):
        """schema: by its own `$schema`, else draft 2020-12; none: any JSON will do. A `$ref` is resolved within it.

        allow_code_fence: the JSON may stand in one Markdown fence. timeout: seconds for one item.
        """

        model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

        json_schema: dict[str, Any] | bool = Field(default=True, alias="schema")
        allow_code_fence: bool = True
        timeout: float = Field(default=2.0, gt=0, le=60)

        @field_validator("json_schema")
        @classmethod
        def _is_schema(cls, schema: Any) -> Any:
            try:
                validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
            except (jsonschema.SchemaError, RecursionError) as error:
                raise ValueError(f"no JSON Schema: {getattr(error, 'message', 'nested too deep')}") from error
            patterns = list(_patterns(schema))
            if patterns and _uses(schema, "unevaluatedProperties"):
                raise ValueError("patterns beside unevaluatedProperties cannot be bounded in time: use one of the two")
            for pattern in patterns:
                compiled(pattern)
            return schema

    name = "json_schema"
    declared = (Metric("json_schema", "binary"),)

    def score_item(self, item: Item) -> Score:
        text = unfenced(item.text) if self.parameters.allow_code_fence else item.text
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return scored({"json_schema": 0.0}, error=f"no JSON: {brief(str(error))}")
        problem = self._problem(value)
        return scored({"json_schema": float(problem is None)}, **({} if problem is None else {"error": problem}))

    def _problem(self, value: JSON) -> str | None:
        schema = self.parameters.json_schema
        kind = bounded(validator_for(schema, jsonschema.Draft202012Validator))
        _clock.deadline = time.monotonic() + self.parameters.timeout
        try:
            error = next(kind(schema, registry=Registry()).iter_errors(value), None)
        except TimeoutError:
            raise ItemFailed(f"validation took longer than {self.parameters.timeout} s") from None
        if error is None:
            return None
        return brief(f"{error.json_path}: {error.message}")


def unfenced(text: str) -> str:
    """What stands in the Markdown fence that is the whole text; else the text."""
    fenced = _FENCE.match(text) if text.lstrip()[:3] == "```" else None
    return fenced[1] if fenced else text


_clock = threading.local()
"""`deadline`: when the validation in this thread has to end."""


@lru_cache(maxsize=16)
def bounded(kind: Any) -> Any:
    """A validator class whose every keyword raises TimeoutError past the deadline, patterns and uniqueness included."""
    searching: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }

    def timed(keyword: Keyword) -> Keyword:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            left = _clock.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if keyword in searching.values():
                yield from keyword(validator, (value, left), instance, schema) or ()
            else:
                yield from keyword(validator, value, instance, schema) or ()

        return check

    keywords = {name: timed(searching.get(name, keyword)) for name, keyword in kind.VALIDATORS.items()}
    return jsonschema.validators.extend(kind, keywords)  # type: ignore[no-untyped-call]


def _matches(pattern: str, text: str, left: float) -> bool:
    return compiled(pattern).search(text, timeout=max(left, 0.001)) is not None


def _pattern(validator: Any, given: tuple[str, float], instance: Any, schema: Any) -> Iterator[Any]:
    pattern, left = given
    if isinstance(instance, str) and not _matches(pattern, instance, left):
        yield jsonschema.ValidationError(f"{shown(instance)} does not match {shown(pattern)}")


def _pattern_properties(validator: Any, given: tuple[Any, float], instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, subschema in given[0].items():
            for name, value in instance.items():
                if _matches(pattern, name, given[1]):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, given: tuple[Any, float], instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    allowed, left = given
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in properties or any(_matches(pattern, name, left) for pattern in patterns):
            continue
        if allowed is False:
            yield jsonschema.ValidationError(f"{shown(name)} is not allowed")
        else:
            yield from validator.descend(value, allowed, path=name)


def _unique_items(validator: Any, given: tuple[bool, float], instance: Any, schema: Any) -> Iterator[Any]:
    """In linear time (jsonschema's own compares every pair of objects)."""
    if given[0] and isinstance(instance, list) and len({_hashable(each) for each in instance}) < len(instance):
        yield jsonschema.ValidationError("the items are not unique")


def _hashable(value: JSON) -> Any:
    if isinstance(value, dict):
        return "object", frozenset((name, _hashable(each)) for name, each in value.items())
    if isinstance(value, list):
        return "array", tuple(_hashable(each) for each in value)
    return isinstance(value, bool), value


def _patterns(schema: Any) -> Iterator[str]:
    """Every pattern in a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from _patterns(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        if isinstance(schema.get("patternProperties"), dict):
            yield from schema["patternProperties"]
        for each in schema.values():
            yield from _patterns(each)


def _uses(schema: Any, keyword: str) -> bool:
    if isinstance(schema, list):
        return any(_uses(each, keyword) for each in schema)
    return isinstance(schema, dict) and (keyword in schema or any(_uses(each, keyword) for each in schema.values()))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

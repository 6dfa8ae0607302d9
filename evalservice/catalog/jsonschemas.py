"""JSON Schema (Draft 2020-12) for inputs and expected outputs, safe to take from strangers.

    compiled_schema({"type": "string", "minLength": 3}, "input_schema").problem("hi") -> ("", "'hi' is too short")

No reference leaves the schema (nothing is fetched), a pattern has a second, and references are counted, because a
schema of thirty lines can otherwise ask for 2^30 steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON

MAX_SCHEMA_BYTES: Final = 1 << 20
PATTERN_SECONDS: Final = 1.0
MAX_REFERENCES: Final = 20_000
"""References followed while one value is validated."""


class _TooCostly(Exception):
    pass


class CompiledSchema:
    """A checked schema that tells what is wrong with a value."""

    def __init__(self, schema: dict[str, JSON] | bool, field: str) -> None:
        self._field = field
        self._references = 0
        keywords: dict[str, Any] = {"pattern": _pattern, "patternProperties": _pattern_properties}
        for keyword in ("$ref", "$dynamicRef"):
            keywords[keyword] = self._counted(Draft202012Validator.VALIDATORS[keyword])
        self._validator = extend(Draft202012Validator, keywords)(schema, registry=Registry())  # type: ignore[no-untyped-call]

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def followed(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self._references += 1
            if self._references > MAX_REFERENCES:
                raise _TooCostly(f"the schema follows more than {MAX_REFERENCES:,} references for one value")
            yield from original(validator, reference, instance, schema) or ()

        return followed

    def problem(self, value: JSON) -> tuple[str, str] | None:
        """Where (a dotted path, "" for the value itself) and what is wrong with a value; None when it fits."""
        self._references = 0
        try:
            if self._validator.is_valid(value):
                return None
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as unresolvable:
            accepted = "references within the schema itself; nothing is fetched"
            raise InvalidInput(self._field, str(getattr(unresolvable, "ref", unresolvable)), accepted) from None
        except RecursionError:
            return "", "nested too deeply for the schema, or the schema refers to itself without end"
        except _TooCostly as costly:
            return "", str(costly)
        path = ".".join(str(step) for step in error.absolute_path)
        return path, error.message if len(error.message) <= 200 else error.message[:199] + "…"


def compiled_schema(schema: object, field: str) -> CompiledSchema | None:
    """A schema ready for use; None for an empty one. `field` names it in errors."""
    if schema is None or schema == {} or schema is True:
        return None
    if not isinstance(schema, dict):
        raise InvalidInput(field, schema, "a JSON Schema (Draft 2020-12) is an object")
    try:
        if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
            raise InvalidInput(field, "…", f"at most {MAX_SCHEMA_BYTES >> 20} MiB of JSON Schema")
        Draft202012Validator.check_schema(schema)
        _check_patterns(schema, field)
    except SchemaError as error:
        where = ".".join(str(step) for step in error.absolute_path) or "schema"
        accepted = f"a JSON Schema (Draft 2020-12) is accepted; {where}: {error.message[:200]}"
        raise InvalidInput(field, error.instance, accepted) from None
    except (TypeError, RecursionError) as error:
        raise InvalidInput(field, type(schema).__name__, f"a JSON Schema made of JSON values ({error})") from None
    return CompiledSchema(schema, field)


def _check_patterns(schema: JSON, field: str) -> None:
    """Patterns compile. Those for property names also run where no timeout reaches: no repeated groups in them."""
    if isinstance(schema, list):
        for item in schema:
            _check_patterns(item, field)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        _check_patterns(value, field)
        names = list(value) if name == "patternProperties" and isinstance(value, dict) else []
        for pattern in [*names, value] if name == "pattern" else names:
            if not isinstance(pattern, str):
                continue
            try:
                re.compile(pattern), regex.compile(pattern)
            except (re.error, regex.error, RecursionError, OverflowError) as error:
                raise InvalidInput(field, pattern, f"a regular expression ({error})") from None
            if name == "patternProperties" and re.search(r"\)\s*[*+{]", pattern):
                raise InvalidInput(field, pattern, "patternProperties without repeated groups")


def _search(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None
    except TimeoutError:
        raise _TooCostly(f"the pattern {shown(pattern)} takes too long on this value") from None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _search(pattern, instance):
        yield ValidationError(f"{shown(instance)} does not match {shown(pattern)}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _search(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)

"""From a record with its own field names to the parts of a test case.

Normaliser(FieldMapping(input="question", expected="answer"))({"question": "Why?", "answer": 42, "level": "hard"})
-> CaseParts(input="Why?", expected_output=42, metadata={"level": "hard"})
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson

from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON

MAX_ID_CHARS: Final = 200
MAX_CHOICES: Final = 1000

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Which field of a record is what. A name may be a dotted path into it: `data.question`, `answers.text.0`.

    A field whose name has a dot in it wins over a path. What no name points at goes to the test case's metadata.
    """

    input: str = "input"
    expected: str = "expected_output"
    id: str = "id"
    choices: str = "choices"
    cluster: str = "cluster"
    metadata: str = "metadata"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"{field.name}_field", value, "the name of a field, or a dotted path to one")

    def asked_for(self) -> Iterator[tuple[str, str]]:
        """The parts whose field differs from the default, with that field."""
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True, slots=True)
class CaseParts:
    """A test case before it has an index."""

    input: str | dict[str, JSON]
    expected_output: JSON
    id: str
    choices: list[str] | None
    cluster: str | None
    metadata: dict[str, JSON] | None


class Unusable(Exception):
    """The record is no test case: which field, and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


class Normaliser:
    """Takes records apart by a mapping and remembers which of its fields were ever there."""

    def __init__(self, mapping: FieldMapping) -> None:
        self._mapping = mapping
        self._taken = {getattr(mapping, field.name) for field in fields(mapping)}
        self.seen: set[str] = set()
        self.available: list[str] = []

    def __call__(self, record: dict[str, JSON]) -> CaseParts:
        if not self.available:
            self.available = list(record)[:50]
        value = self._part(record, "input")
        if value is None:
            raise Unusable(self._mapping.input, "missing; it is the test case's input")
        choices, labels = _choices(self._mapping.choices, self._part(record, "choices"))
        expected = self._part(record, "expected")
        if labels and isinstance(expected, str) and expected in labels:
            expected = letter(labels.index(expected))
        return CaseParts(
            input=_input(self._mapping.input, value),
            expected_output=expected,
            id=_text(self._mapping.id, self._part(record, "id")) or "",
            choices=choices,
            cluster=_text(self._mapping.cluster, self._part(record, "cluster")),
            metadata=self._metadata(record) or None,
        )

    def _part(self, record: dict[str, JSON], part: str) -> JSON:
        found = _lookup(record, getattr(self._mapping, part))
        if found is _MISSING:
            return None
        self.seen.add(part)
        return found

    def _metadata(self, record: dict[str, JSON]) -> dict[str, JSON]:
        """The record's metadata object and every field that is nothing else; the object's keys win."""
        rest = {name: value for name, value in record.items() if name not in self._taken}
        own = _decoded(self._part(record, "metadata"))
        if own is None:
            return rest
        if not isinstance(own, dict):
            raise Unusable(self._mapping.metadata, f"an object is expected, this is {shown(own, 40)}")
        return {**rest, **own} if rest else own


def letter(position: int) -> str:
    """A, B, ... Z, AA, AB, ...: how a choice is called."""
    text = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        text = chr(65 + rest) + text
    return text


def _lookup(record: Any, path: str) -> Any:
    if path in record:
        return record[path]
    if "." not in path:
        return _MISSING
    value = record
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
    return value


def _decoded(value: JSON) -> JSON:
    """The JSON array or object that a text cell (CSV) holds; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _input(field: str, value: JSON) -> str | dict[str, JSON]:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        hint = '; wrap chat messages as {"messages": [...]}' if isinstance(value, list) else ""
        raise Unusable(field, f"a string or an object is expected, this is {shown(value, 40)}{hint}")
    if "messages" in value:
        messages = value["messages"]
        if not isinstance(messages, list) or not messages:
            raise Unusable(f"{field}.messages", "a list of at least one message is expected")
        for position, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise Unusable(f"{field}.messages.{position}", "an object with a role and a content is expected")
            if "content" in message and not isinstance(message["content"], str | list | None):
                raise Unusable(f"{field}.messages.{position}.content", "a string or a list of parts is expected")
    return value


def _text(field: str, value: JSON) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and len(value) <= MAX_ID_CHARS):
        return value
    raise Unusable(field, f"a string of at most {MAX_ID_CHARS} characters or an integer is expected")


def _choices(field: str, value: JSON) -> tuple[list[str] | None, list[str] | None]:
    """The choices as texts, and their labels when the data set gives some (`{"text": [...], "label": [...]}`)."""
    value = _decoded(value)
    labels = None
    if value is None:
        return None, None
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value, labels = value["text"], value.get("label")
        if labels is not None and not (isinstance(labels, list) and len(labels) == len(value)):
            raise Unusable(f"{field}.label", "one label for each text is expected")
    if not isinstance(value, list):
        raise Unusable(field, f"a list of texts is expected, this is {shown(value, 40)}")
    if not 0 < len(value) <= MAX_CHOICES:
        raise Unusable(field, f"1 to {MAX_CHOICES} choices are expected, there are {len(value)}")
    return [_choice(f"{field}.{n}", choice) for n, choice in enumerate(value)], labels and [str(x) for x in labels]


def _choice(field: str, value: JSON) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise Unusable(field, f"a text is expected, this is {shown(value, 40)}")

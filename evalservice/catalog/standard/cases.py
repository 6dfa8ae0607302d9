"""From a data set's records to test cases, as a layout says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from evalservice.catalog.formats import Record
from evalservice.catalog.mapping import Unusable, letter
from evalservice.catalog.standard.definition import CASE_PARTS, Layout
from evalservice.catalog.standard.expressions import compile_expression, value_at
from evalservice.errors import BadRecord, shown
from evalservice.records import JSON

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "text": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class CaseMaker:
    """Takes records of one layout apart."""

    def __init__(self, layout: Layout, choice_order: str = "given") -> None:
        self._fields = [(path, types, _accepted(types)) for path, types in layout.fields.items()]
        self._parts = [
            (part, compile_expression(layout.test_case[part], part)) for part in CASE_PARTS if part in layout.test_case
        ]
        self._metadata = [
            (name, compile_expression(written, f"metadata.{name}"))
            for name, written in layout.test_case.get("metadata", {}).items()
        ]
        self._example = None if layout.example is None else compile_expression(layout.example, "example")
        self._hashed = choice_order == "hashed"

    def check(self, record: dict[str, JSON]) -> None:
        """Raises `Unusable` for the first field that is missing or of another type."""
        for path, types, accepted in self._fields:
            value = value_at(record, path)
            if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
                raise Unusable(path, f"{types} is expected, this is {shown(value, 60)}")

    def case(self, record: dict[str, JSON]) -> dict[str, JSON]:
        """The test case in a dataset's own field names. Raises `Unusable`."""
        self.check(record)
        found: dict[str, Any] = {part: expression(record) for part, expression in self._parts}
        found["metadata"] = {name: expression(record) for name, expression in self._metadata} or None
        if found.get("choices") is not None:
            _check_choice(found["choices"], found.get("expected_output"))
            if self._hashed:
                _in_hashed_order(found)
        return found

    def answer(self, record: dict[str, JSON]) -> str:
        """What a worked example answers. Raises `Unusable`."""
        value = self._example(record) if self._example is not None else self.case(record)["expected_output"]
        if not isinstance(value, str):
            raise Unusable("example", f"a text is expected, this is {shown(value, 60)}")
        return value

    def cases(self, records: Iterable[Record]) -> Iterator[Record]:
        """Each record as a test case, or as what is wrong with it."""
        for number, record in records:
            if isinstance(record, BadRecord):
                yield number, record
                continue
            try:
                yield number, self.case(record)
            except Unusable as unusable:
                yield number, BadRecord(number, unusable.field, unusable.problem)


def _accepted(types: str) -> tuple[type, ...]:
    return tuple(kind for name in types.split(" or ") for kind in _TYPES[name])


def _check_choice(choices: Any, right: Any) -> None:
    """Raises `Unusable` when the expected letter is that of no choice."""
    if not isinstance(choices, list) or not choices:
        raise Unusable("choices", f"a list of choices is expected, this is {shown(choices, 40)}")
    letters = [letter(position) for position in range(len(choices))]
    if right not in letters:
        raise Unusable("expected_output", f"choice {right} is expected, but there are only {len(choices)} choices")


def _in_hashed_order(case: dict[str, Any]) -> None:
    """Choices in the order of a hash of question and choice: fixed for ever, and the answer's place tells nothing."""
    choices, right = case["choices"], case["expected_output"]
    [answer] = [choice for position, choice in enumerate(choices) if letter(position) == right]
    case["choices"] = sorted(choices, key=lambda choice: hashlib.sha256(f"{case['input']}\0{choice}".encode()).digest())
    case["expected_output"] = letter(case["choices"].index(answer))

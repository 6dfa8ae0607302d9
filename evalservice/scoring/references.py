"""What a completion is compared with: `expected_output` in all the forms that datasets use, as texts.

"Paris"                                  -> ("Paris",)
42, 42.0, 2.5, true                      -> ("42",), ("42",), ("2.5",), ("true", "True")
["Paris", "the city of Paris"]           -> both: alternatives, any of which is right
{"text": ["Paris"], "answer_start": [3]} -> ("Paris",): SQuAD's form; also "answer", "answers", "value", "aliases"
"""

from __future__ import annotations

from collections.abc import Mapping

from evalservice.errors import shown
from evalservice.records import JSON, TestCase
from evalservice.scoring.base import ItemFailed

ANSWER_KEYS = ("text", "answers", "answer", "value", "aliases", "label", "target")
"""Keys of an object that hold the answer, in this order; "aliases" is added to whichever is found."""


def references(case: TestCase) -> tuple[str, ...]:
    """The accepted answers as texts, at least one. Raises `ItemFailed` when there is none."""
    texts = _texts(case.expected_output)
    if not texts:
        raise ItemFailed("the test case has no expected_output")
    return texts


def alternatives(expected: JSON) -> tuple[JSON, ...]:
    """The accepted answers as they stand (numbers stay numbers), lists and objects opened."""
    if expected is None:
        return ()
    if isinstance(expected, Mapping):
        for key in ANSWER_KEYS:
            if key in expected:
                aliases = alternatives(expected["aliases"]) if "aliases" in expected and key != "aliases" else ()
                return (*alternatives(expected[key]), *aliases)
        raise ItemFailed(
            f"expected_output {shown(dict(expected))} is an object without an answer: one of {', '.join(ANSWER_KEYS)}"
        )
    if isinstance(expected, list | tuple):
        return tuple(a for each in expected for a in alternatives(each))
    return (expected,)


def _texts(expected: JSON) -> tuple[str, ...]:
    if isinstance(expected, str):
        return (expected,)
    return tuple(t for answer in alternatives(expected) for t in _as_text(answer))


def _as_text(answer: JSON) -> tuple[str, ...]:
    if isinstance(answer, bool):
        return ("true", "True") if answer else ("false", "False")
    if isinstance(answer, float) and answer.is_integer():
        return (str(int(answer)),)
    return (str(answer),)

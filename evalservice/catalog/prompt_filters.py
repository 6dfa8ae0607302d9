"""The budget of a rendering, and the filters of prompt templates that count against it.

    with budgeted():
        FILTERS["join"](["a", "b"], ", ") -> "a, b"

A filter costs an operation, and what it makes is measured: texts by their characters, lists and objects by all that
they hold, counted as often as it is met (a list that holds itself twice, forty levels deep, is 2^40 values).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import jinja2
import orjson
from jinja2.exceptions import SecurityError

from evalservice.catalog.mapping import letter

MAX_RENDERED_CHARS: Final = 4_000_000
MAX_ITEMS: Final = 100_000
MAX_OPERATIONS: Final = 200_000
MAX_SECONDS: Final = 2.0
MAX_RANGE: Final = 10_000
_MAX_INT: Final = 2**128
_MAX_NEEDLE: Final = 64


class TooMuch(Exception):
    """The template asks for more than its budget."""


class _Budget:
    __slots__ = ("chars", "deadline", "operations")

    def __init__(self) -> None:
        self.operations = MAX_OPERATIONS
        self.chars = MAX_RENDERED_CHARS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, chars: int = 0) -> None:
        self.operations -= 1
        self.chars -= chars
        if self.operations < 0:
            raise TooMuch(f"more than {MAX_OPERATIONS:,} operations")
        if self.chars < 0:
            raise TooMuch(f"more than {MAX_RENDERED_CHARS:,} characters")
        if time.monotonic() > self.deadline:
            raise TooMuch(f"longer than {MAX_SECONDS:g} s")


_budget: ContextVar[_Budget] = ContextVar("_budget")


@contextmanager
def budgeted() -> Iterator[None]:
    """One rendering's budget, for all that happens within."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(chars: int = 0) -> None:
    """One operation, and the characters that it prints."""
    _budget.get().spend(chars)


def weighed(value: Any) -> Any:
    """The value, if all it holds (counted as often as it is met) stays small."""
    if isinstance(value, str):
        fits(len(value))
    elif isinstance(value, int):
        _fits_number(value)
    elif isinstance(value, dict | list | tuple | set | frozenset):
        items, chars, waiting = 0, 0, [value]
        while waiting:
            current = waiting.pop()
            if isinstance(current, str):
                chars += len(current)
            elif isinstance(current, dict):
                waiting.extend(current)
                waiting.extend(current.values())
            elif isinstance(current, list | tuple | set | frozenset):
                waiting.extend(current)
            items += 1
            if items + len(waiting) > MAX_ITEMS:
                raise TooMuch(f"a list or object with more than {MAX_ITEMS:,} values")
            fits(chars)
    return value


def fits(chars: int) -> None:
    """Refuses a text of so many characters before it is made."""
    if chars > MAX_RENDERED_CHARS:
        raise TooMuch(f"a text of more than {MAX_RENDERED_CHARS:,} characters")


def _fits_number(value: int) -> None:
    if not -_MAX_INT < value < _MAX_INT:
        raise TooMuch("an integer of more than 128 bits")


def length(value: Any) -> int:
    """The length of what `+` and `*` make longer."""
    return len(value) if isinstance(value, str | list | tuple) else 0


def refuse_long(needles: Iterable[Any]) -> None:
    """For what takes time in the product of both lengths."""
    if any(isinstance(needle, str) and len(needle) > _MAX_NEEDLE for needle in needles):
        raise SecurityError(f"separators and characters to strip have at most {_MAX_NEEDLE} characters")


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that costs an operation and whose result is measured."""

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        spend()
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            result = _listed(result)
        return weighed(result)

    return filtered


def _listed(values: Iterator[Any]) -> list[Any]:
    found = []
    for value in values:
        spend()
        found.append(value)
    return found


def printable(value: Any) -> str:
    """How a value prints: lists and objects as JSON, null as nothing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises
    if isinstance(value, dict | list | tuple):
        return tojson(value)
    if isinstance(value, bool | int | float):
        return str(weighed(value))
    raise SecurityError(f"a value of type {type(value).__name__} cannot be printed; is a call's () missing?")


def tojson(value: Any, indent: bool | int | None = None) -> str:
    """`tojson`; any indent is two columns."""
    if isinstance(value, jinja2.Undefined):
        str(value)
    options = orjson.OPT_INDENT_2 if indent else 0
    try:
        return orjson.dumps(weighed(value), option=options).decode()
    except TypeError as error:
        raise SecurityError(f"tojson: {error}") from None


def joined(values: Any, separator: Any = "", attribute: str | None = None) -> str:
    """`join`, also `~` and the method of texts."""
    if isinstance(values, jinja2.Undefined):
        str(values)
    if attribute is not None:
        values = [value[attribute] for value in values]
    texts = [printable(value) for value in values]
    between = printable(separator)
    fits(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def replaced(value: Any, old: str, new: str, count: int = -1) -> str:
    """`replace`, also the method of texts."""
    text, old, new = printable(value), printable(old), printable(new)
    found = text.count(old)
    fits(len(text) + (found if count < 0 else min(count, found)) * len(new))
    return text.replace(old, new, count)


def trimmed(value: Any, chars: str | None = None) -> str:
    """`trim`."""
    refuse_long([chars])
    return printable(value).strip(chars)


def indented(value: Any, width: int = 4, first: bool = False) -> str:
    """`indent`, by at most 40 columns."""
    if not 0 <= width <= 40:
        raise SecurityError("indent: 0 to 40 columns")
    blanks = " " * width
    text = replaced(value, "\n", "\n" + blanks)
    return blanks + text if first else text


def rounded(value: float, digits: int = 0) -> float:
    """`round`."""
    return float(round(float(value), max(-20, min(20, int(digits)))))


def total(values: Any, attribute: str | None = None) -> float:
    """`sum`, of numbers only."""
    numbers = [value[attribute] for value in values] if attribute is not None else list(values)
    if not all(isinstance(number, int | float) for number in numbers):
        raise SecurityError("sum adds numbers only")
    return float(sum(numbers)) if any(isinstance(number, float) for number in numbers) else int(sum(numbers))


def stepped(values: Any, chars: int) -> Iterator[Any]:
    """What a loop runs over: each step is an operation and prints the loop's own text."""
    for value in values:
        spend(chars)
        yield value


@jinja2.pass_context
def printed(context: Any, value: Any) -> str:
    """What `{{ value }}` prints. Takes the context so that Jinja does not fold it at compile time."""
    text = printable(value)
    spend(len(text))
    return text


def unchanged(value: Any) -> Any:
    """Only measured."""
    return value


def bounded_range(*args: int) -> range:
    """`range` that refuses long ones."""
    found = range(*args)
    if len(found) > MAX_RANGE:
        raise TooMuch(f"range with more than {MAX_RANGE:,} steps")
    return found


OWN_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "indent": indented,
    "join": joined,
    "letter": letter,
    "replace": replaced,
    "round": rounded,
    "string": printable,
    "sum": total,
    "tojson": tojson,
    "trim": trimmed,
}
_FROM_JINJA: Final = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort",
    "title", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
_BUILT_IN: Final[dict[str, Callable[..., Any]]] = jinja2.Environment().filters
FILTERS: Final = {
    **{name: bounded(function) for name, function in {**{n: _BUILT_IN[n] for n in _FROM_JINJA}, **OWN_FILTERS}.items()},
    "_stepped": stepped,
    "_weighed": bounded(unchanged),
}
"""Every filter there is; those with an underscore are put in by the compiler."""

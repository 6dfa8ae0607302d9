"""How a definition says what of a data set's record goes where, in YAML.

    question                                 the field, which must be there; dots lead into objects: data.question
    "{{ ctx_a }} {{ ctx_b }}"                a template over the record's fields, in the prompts' sandbox; gives a text
    [option_a, option_b]                     a list
    {optional: subject}                      the field, or null
    {after: "####", of: answer}              what follows the last marker, which must be there
    {letter: label}                          A for 0, B for 1, …; with `from: 1` A for 1
    {position: answerKey, in: choices.label} A when the first of the list is equal, B when the second is, …
    {each: choices, take: label}             that field of each object of a list
    {each: endings, as: "{{ item.strip() }}"} each of a list through a template
    {keys: targets}, {values: targets}       of an object, in the order of the file
    {without: N/A, in: options}              the list but for one text
    {table: answer, of: {"true": "yes"}}     one value for another, by its JSON text
    {distinct: answers.text}                 a list without repetitions; with `else`, what stands for an empty one
    {hash: passage}                          16 hexadecimal digits, for texts that are too long to be names
    {constant: 1}                            itself

compile_expression({"letter": "label"}, "expected_output")({"label": 3}) -> "D"
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from evalservice.catalog.mapping import Unusable, letter
from evalservice.catalog.sandbox import PromptError, compile_template
from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON

Record = Mapping[str, JSON]
Expression = Callable[[Record], Any]

_MISSING: Final = object()


def compile_expression(written: object, field: str) -> Expression:
    """What a definition wrote, as a function of the record. Raises `InvalidInput`; the function, `Unusable`."""
    if isinstance(written, str):
        return _template(written, field) if "{{" in written or "{%" in written else _path(written)
    if isinstance(written, list):
        items = [compile_expression(item, f"{field}.{number}") for number, item in enumerate(written)]
        return lambda record: [item(record) for item in items]
    if isinstance(written, dict):
        for name, (others, build) in _OPERATIONS.items():
            if name in written and written.keys() <= {name, *others}:
                return build(written, field)
    accepted = f"a path, a template, a list, or one of {', '.join(_OPERATIONS)}"
    raise InvalidInput(field, written, accepted)


def value_at(record: Record, path: str) -> Any:
    """The value at a dotted path; raises `Unusable` that says what is there instead."""
    found = _find(record, path)
    if found is _MISSING:
        raise Unusable(path, f"missing; the record has {', '.join(list(record)[:20]) or 'no field'}")
    return found


def _find(record: Record, path: str) -> Any:
    value: Any = record
    if path in record:
        return record[path]
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return _MISSING
        value = value[step]
    return value


def _path(path: str) -> Expression:
    return lambda record: value_at(record, path)


def _template(source: str, field: str) -> Expression:
    template = compile_template(source, field)

    def rendered(record: Record) -> str:
        try:
            return template.render(record)
        except PromptError as error:
            raise Unusable(field, error.message) from None

    return rendered


def _optional(written: dict[str, Any], _field: str) -> Expression:
    path = str(written["optional"])

    def found(record: Record) -> Any:
        value = _find(record, path)
        return None if value is _MISSING else value

    return found


def _after(written: dict[str, Any], field: str) -> Expression:
    marker, of = str(written["after"]), compile_expression(written["of"], field)

    def rest(record: Record) -> str:
        text = _text(of(record), field)
        if marker not in text:
            raise Unusable(str(written["of"]), f"a text with {marker} is expected, this is {shown(text, 60)}")
        return text.rpartition(marker)[2].strip()

    return rest


def _letter(written: dict[str, Any], field: str) -> Expression:
    of, first = compile_expression(written["letter"], field), int(written.get("from", 0))

    def lettered(record: Record) -> str:
        value = of(record)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value < first + 26:
            problem = f"the number of a choice, from {first}, is expected, this is {shown(value, 40)}"
            raise Unusable(str(written["letter"]), problem)
        return letter(value - first)

    return lettered


def _position(written: dict[str, Any], field: str) -> Expression:
    of, among = compile_expression(written["position"], field), compile_expression(written["in"], field)

    def placed(record: Record) -> str:
        value, values = of(record), _list(among(record), str(written["in"]))
        if value not in values:
            raise Unusable(str(written["position"]), f"one of {shown(values, 60)} is expected, this is {shown(value)}")
        return letter(values.index(value))

    return placed


def _each(written: dict[str, Any], field: str) -> Expression:
    path, name = str(written["each"]), str(written.get("take"))
    of = compile_expression(path, field)
    if "as" in written:
        through = _template(str(written["as"]), field)
        return lambda record: [through({"item": item}) for item in _list(of(record), path)]

    def taken(record: Record) -> list[Any]:
        items = _list(of(record), path)
        for number, item in enumerate(items):
            if not isinstance(item, Mapping) or name not in item:
                raise Unusable(f"{path}.{number}", f"an object with {name} is expected, this is {shown(item, 60)}")
        return [item[name] for item in items]

    return taken


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unusable(field, f"an object is expected, this is {shown(value, 40)}")
    return value


def _keys(written: dict[str, Any], field: str) -> Expression:
    of = compile_expression(written["keys"], field)
    return lambda record: list(_object(of(record), str(written["keys"])))


def _values(written: dict[str, Any], field: str) -> Expression:
    of = compile_expression(written["values"], field)
    return lambda record: list(_object(of(record), str(written["values"])).values())


def _without(written: dict[str, Any], field: str) -> Expression:
    of = compile_expression(written["in"], field)
    return lambda record: [item for item in _list(of(record), str(written["in"])) if item != written["without"]]


def _table(written: dict[str, Any], field: str) -> Expression:
    of, table = compile_expression(written["table"], field), {str(k): v for k, v in written["of"].items()}

    def looked_up(record: Record) -> Any:
        value = of(record)
        name = value if isinstance(value, str) else orjson.dumps(value).decode()
        if name not in table:
            problem = f"one of {', '.join(table)} is expected, this is {shown(value, 40)}"
            raise Unusable(str(written["table"]), problem)
        return table[name]

    return looked_up


def _distinct(written: dict[str, Any], field: str) -> Expression:
    of, otherwise = compile_expression(written["distinct"], field), written.get("else")

    def once(record: Record) -> Any:
        values = _list(of(record), str(written["distinct"]))
        return [value for number, value in enumerate(values) if value not in values[:number]] or otherwise

    return once


def _hash(written: dict[str, Any], field: str) -> Expression:
    of = compile_expression(written["hash"], field)
    return lambda record: hashlib.sha256(_text(of(record), str(written["hash"])).encode()).hexdigest()[:16]


def _constant(written: dict[str, Any], _field: str) -> Expression:
    return lambda _record: written["constant"]


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Unusable(field, f"a text is expected, this is {shown(value, 40)}")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unusable(field, f"a list is expected, this is {shown(value, 40)}")
    return value


_OPERATIONS: Final[dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], str], Expression]]]] = {
    "optional": ((), _optional),
    "after": (("of",), _after),
    "letter": (("from",), _letter),
    "position": (("in",), _position),
    "each": (("take", "as"), _each),
    "keys": ((), _keys),
    "values": ((), _values),
    "without": (("in",), _without),
    "table": (("of",), _table),
    "distinct": (("else",), _distinct),
    "hash": ((), _hash),
    "constant": ((), _constant),
}
"""Name -> the other keys it takes, and what builds it."""

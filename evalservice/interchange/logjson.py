"""The JSON of logs: bounded, with the bare `NaN` that Python writes, and with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.errors import BadRecord, InvalidInput, InvalidRecords, shown

MAX_DOCUMENT_BYTES: Final = 64 << 20
"""A results file or a header; what grows with the number of test cases is read piece by piece."""
MAX_DEPTH: Final = 200
"""Arrays and objects within each other. orjson writes 254, and what is stored of a log gets a few around it."""
_WRITTEN_DEPTH: Final = 254


class LogShape(BaseModel):
    """Base of the shapes that readers expect: what they do not know is left alone, numbers are no strings."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, protected_namespaces=(), populate_by_name=True)


S = TypeVar("S", bound=LogShape)


def parsed(text: bytes | str, where: str) -> Any:
    """JSON, `NaN` included, that is nested as deeply as can be stored. Raises InvalidInput that names `where`."""
    value = _loaded(text, where)
    refuse_deep(value, where)
    return value


def _loaded(text: bytes | str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = f"{error.msg} at character {error.pos + 1}"
    try:
        return json.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError:
        raise InvalidInput("file", where, f"JSON ({problem})") from None


def refuse_deep(value: Any, where: str) -> None:
    """Raises InvalidInput for JSON of more than MAX_DEPTH levels."""
    around = value
    for _ in range(_WRITTEN_DEPTH - MAX_DEPTH):
        around = [around]
    try:
        orjson.dumps(around)  # takes a tenth of the time that a look at each value takes
    except orjson.JSONEncodeError:
        if _is_deep(value):  # and not just a number or a text that only Python reads
            raise _too_deep(where) from None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return True


def _too_deep(where: str) -> InvalidInput:
    return InvalidInput("file", where, f"JSON of at most {MAX_DEPTH} arrays and objects within each other")


def shaped(kind: type[S], value: Any, where: str) -> S:
    """A document in its shape. Raises InvalidInput that names the field in `where`, its value and what is accepted."""
    if not isinstance(value, dict):
        raise InvalidInput("file", where, f"a JSON object; this is {shown(value, 40)}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(step) for step in first["loc"] if not _names_a_type(step))
        missing = first["type"] == "missing"
        accepted = "it must be given" if missing else first["msg"]
        raise InvalidInput(f"{where}: {path}", None if missing else first["input"], accepted) from None


def _names_a_type(step: int | str) -> bool:
    """Members of a union are steps of pydantic's, which no file has."""
    return isinstance(step, str) and (step in ("str", "int", "float") or "[" in step)


def opened(path: Path, name: str) -> BufferedReader:
    """A file of a log. Raises InvalidInput."""
    try:
        if not path.is_file():
            raise InvalidInput("file", name, "a regular file" if path.exists() else "a file that exists")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise InvalidInput("file", name, f"a readable file ({getattr(error, 'strerror', None) or error})") from None


def document(path: Path, name: str, kind: type[S]) -> S:
    """A small JSON file in its shape."""
    with opened(path, name) as file:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InvalidInput("file", name, f"at most {MAX_DOCUMENT_BYTES >> 20} MiB without its samples")
    return shaped(kind, parsed(text, name), name)


def lines(file: IO[bytes], name: str) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a JSONL file: number, first byte, text. Raises InvalidInput for one that is too long."""
    number = start = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise InvalidInput("file", f"{name}, line {number}", f"a line of at most {MAX_RECORD_BYTES >> 20} MiB")
        if line.strip():
            yield number, start, line
        start += len(line)


def bad_line(name: str, line: int, field: str, problem: str) -> InvalidRecords:
    """What is wrong with one line of a file."""
    return InvalidRecords(name, [BadRecord(line, field, problem)], 1)


def finite(value: Any) -> float | None:
    """A number as a float; None for a boolean, NaN, infinity and what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value) if abs(value) < 1e308 else float("nan")
    return number if number == number and abs(number) != float("inf") else None

"""JSON text as a stream: one record parsed with a reason when it fails, and a large array cut into its elements.

    JsonArrayReader(file, "cases.json", limit).elements()   with  {"version": 1, "data": [{"a": 1}, {"a": 2}]}
    -> b'{"a": 1}', b'{"a": 2}'

The array is cut by brackets outside strings and each element is parsed on its own, so that a bad one (NaN, half a
surrogate pair) is that record's problem and not the file's; event parsers replace lone surrogates without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import IO, Final, NoReturn

import orjson

from evalservice.errors import BadRecord, InvalidInput, shown
from evalservice.records import JSON

ARRAY_KEYS: Final = ("test_cases", "data")
_CHUNK: Final = 1 << 20

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,\]}]++")
_TO_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+([{}\[\]])',
    re.DOTALL,
)
_LONG_DIGITS: Final = re.compile(rb"[0-9]{19}")
_INT64: Final = range(-(2**63), 2**64)


class _Refused(Exception):
    pass


def parse_record(line: int, text: bytes) -> dict[str, JSON] | BadRecord:
    """One JSON object, or what is wrong with it."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return BadRecord(line, "record", _reason(text, error))
    if _LONG_DIGITS.search(text):
        try:
            json.loads(text, parse_int=_checked_int)
        except _Refused as refused:
            return BadRecord(line, "record", str(refused))
        except (ValueError, RecursionError):
            pass
    if not isinstance(value, dict):
        return BadRecord(line, "record", f"a JSON object is expected, this is {shown(value, 40)}")
    return value


def _checked_int(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INT64:
        raise _Refused(f"the integer {digits[:24]} does not fit 64 bits: write it as a string")
    return 0


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON: write null, or a string")


def _reason(text: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text.decode()
    except UnicodeDecodeError as undecodable:
        return f"byte 0x{text[undecodable.start]:02x} at column {undecodable.start + 1} is not UTF-8"
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except _Refused as refused:
        return str(refused)
    except (ValueError, RecursionError):
        pass
    problem = error.msg
    if "surrogate" in problem:
        return "a \\ud800 to \\udfff escape without its other half is not text"
    if "depth" in problem:
        return "nested too deeply"
    return f"not JSON: {problem} at column {error.pos + 1}"


class _Broken(Exception):
    """The text stops being an array here; what follows cannot be read."""


class JsonArrayReader:
    """The elements of the array that a JSON file is, or that it holds under "test_cases" or "data"."""

    def __init__(self, file: IO[bytes], path: str, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._buffer = file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf")
        self._at = 0

    def elements(self) -> Iterator[bytes | BadRecord]:
        """Each element's text; last of all a `BadRecord` when the text breaks off or is no JSON between elements."""
        count = 0
        try:
            for element in self._document():
                yield element
                count += 1
        except _Broken as broken:
            yield BadRecord(count + 1, "record", str(broken))

    def _document(self) -> Iterator[bytes]:
        opening = self._peek()
        if opening == b"":
            return
        if opening == b"[":
            yield from self._array()
        elif opening == b"{":
            yield from self._object()
        else:
            raise self._wrong_shape()
        if self._peek():
            raise self._wrong_shape() if opening == b"{" else _Broken("text after the end of the array")

    def _wrong_shape(self) -> InvalidInput:
        keys = " or ".join(f'"{key}"' for key in ARRAY_KEYS)
        return InvalidInput(
            "file", self._path, f"a JSON array, or an object with one under {keys}; one object a line is jsonl"
        )

    def _array(self) -> Iterator[bytes]:
        self._at += 1
        if self._peek() == b"]":
            self._at += 1
            return
        while True:
            yield self._value()
            if self._separator(b"]"):
                return

    def _object(self) -> Iterator[bytes]:
        self._at += 1
        found = False
        if self._peek() != b"}":
            while True:
                if self._peek() != b'"':
                    raise _Broken("not JSON: a key is expected")
                key = self._value()
                if self._peek() != b":":
                    raise _Broken("not JSON: a colon is expected")
                self._at += 1
                if key.strip(b'"').decode(errors="replace") in ARRAY_KEYS and self._peek() == b"[":
                    if found:
                        raise InvalidInput("file", self._path, f"only one of the keys {', '.join(ARRAY_KEYS)}")
                    found = True
                    yield from self._array()
                else:
                    self._value()
                if self._separator(b"}"):
                    break
        else:
            self._at += 1
        if not found:
            raise self._wrong_shape()

    def _separator(self, closing: bytes) -> bool:
        """Steps over a comma (False) or the closing bracket (True)."""
        found = self._peek()
        if found not in (b",", closing):
            raise _Broken("the file ends too early" if not found else f"not JSON: a comma is missing before {found!r}")
        self._at += 1
        return found == closing

    def _peek(self) -> bytes:
        """The next byte that is no white space; empty at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._buffer) or not self._fill():
                return self._buffer[self._at : self._at + 1]

    def _value(self) -> bytes:
        """The text of the value that starts here, and a step over it."""
        opening = self._peek()
        if opening == b'"':
            length = self._matched(_STRING)
        elif opening in (b"{", b"["):
            length = self._bracketed()
        else:
            length = self._matched(_SCALAR)
        text = self._buffer[self._at : self._at + length]
        self._at += length
        return text

    def _matched(self, pattern: re.Pattern[bytes]) -> int:
        while True:
            match = pattern.match(self._buffer, self._at)
            if match and (pattern is _STRING or match.end() < len(self._buffer)):
                return match.end() - self._at
            if match is None and pattern is _SCALAR and self._at < len(self._buffer):
                raise _Broken("not JSON: a value is missing")
            if not self._fill():
                if match:
                    return match.end() - self._at
                raise _Broken("the file ends within a value")

    def _bracketed(self) -> int:
        depth = scanned = 0
        while True:
            match = _TO_BRACKET.match(self._buffer, self._at + scanned)
            if match is None:
                if not self._fill():
                    raise _Broken("the file ends within a record")
                continue
            depth += 1 if match[1] in b"{[" else -1
            scanned = match.end() - self._at
            if depth == 0:
                return scanned

    def _fill(self) -> bool:
        """Reads on, twice as much as is waiting, so that a long value costs linear time."""
        kept = self._buffer[self._at :]
        if len(kept) > self._limit:
            raise _Broken(f"longer than {self._limit >> 20} MiB")
        chunk = self._file.read(max(_CHUNK, len(kept)))
        self._buffer, self._at = kept + chunk, 0
        return bool(chunk)


@dataclass(frozen=True, slots=True)
class Member:
    """A value of a JSON object, or an element of an array in it: its text, and at which byte of the file it begins."""

    key: str
    text: bytes
    start: int


class JsonObjectReader(JsonArrayReader):
    """The members of the object that a JSON file is, one after the other: memory for one, not for the file.

        JsonObjectReader(file, "log.json", limit).members({"samples"})   with  {"version": 2, "samples": [{"id": 1}]}
        -> Member("version", b"2", 12), Member("samples", b'{"id": 1}', 27)

    The arrays of the keys that are asked for come element by element.
    """

    def __init__(self, file: IO[bytes], path: str, limit: int) -> None:
        super().__init__(file, path, limit)
        self._base = file.tell() - len(self._buffer)

    def members(self, cut: Container[str] = ()) -> Iterator[Member]:
        """Raises InvalidInput where the file is no JSON object, or breaks off."""
        try:
            if self._peek() != b"{":
                raise _Broken("it does not begin with {")
            yield from self._members(cut)
            if self._peek():
                raise _Broken("text after the end of the object")
        except _Broken as broken:
            raise InvalidInput("file", self._path, f"a JSON object: {broken}") from None

    def _members(self, cut: Container[str]) -> Iterator[Member]:
        self._at += 1
        if self._peek() == b"}":
            self._at += 1
            return
        while True:
            if self._peek() != b'"':
                raise _Broken("a key is expected")
            key = _key(self._value())
            if self._peek() != b":":
                raise _Broken("a colon is expected")
            self._at += 1
            opening = self._peek()
            if key in cut and opening == b"[":
                for text in self._array():
                    yield Member(key, text, self._base + self._at - len(text))
            else:
                start = self._base + self._at
                yield Member(key, self._value(), start)
            if self._separator(b"}"):
                return

    def _fill(self) -> bool:
        self._base += self._at
        return super()._fill()


def _key(text: bytes) -> str:
    try:
        return str(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise _Broken(f"a key is no JSON string ({error.msg})") from None

"""Files of records, read as a stream in bounded memory: JSON, JSONL, CSV, Parquet, and lists given inline.

Every reader yields `(line, record)`: `line` is the 1-based line on which the record starts (JSONL, CSV) or the
record's number (JSON, Parquet, inline); `record` is an object of JSON values, or a `BadRecord` that says why there is
none, after which the stream goes on with the next record wherever the format allows it.

    read_records("questions.csv")        with  id,question\\n1,"What is\\n17 + 25?"\\n2,Why?\\n
    -> (2, {"id": "1", "question": "What is\\n17 + 25?"}), (4, {"id": "2", "question": "Why?"})

CSV cells are strings, and an empty one is null. Of repeated keys in a JSON object the last one counts, as in every
parser that streams. Integers beyond 64 bits, NaN and infinities have no faithful JSON form here and are refused.
"""

from __future__ import annotations

import csv
import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import orjson

from evalservice.catalog.jsontext import JsonArrayReader, parse_record
from evalservice.errors import BadRecord, InvalidInput
from evalservice.records import JSON

Record = tuple[int, dict[str, JSON] | BadRecord]

FORMATS: Final = ("json", "jsonl", "csv", "parquet")
MAX_RECORD_BYTES: Final = 64 << 20
MAX_DOCUMENT_BYTES: Final = 256 << 20

_SUFFIXES: Final = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_FOREIGN: Final = {
    b"PAR1": "a Parquet file (format parquet)",
    b"\x1f\x8b": "gzip-compressed (name it .jsonl.gz, .json.gz or .csv.gz)",
    b"PK\x03\x04": "a ZIP archive (unpack it first)",
    b"\x28\xb5\x2f\xfd": "zstd-compressed (unpack it first)",
    b"\xff\xfe": "UTF-16 text (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 text (save it as UTF-8)",
}


def guess_format(path: str | Path) -> str:
    """The format that a file's name stands for; `.gz` may follow the suffix of a text format."""
    name = Path(path).name.lower().removesuffix(".gz")
    found = _SUFFIXES.get(Path(name).suffix)
    if found is None:
        raise InvalidInput("format", str(path), f"name the file {', '.join(_SUFFIXES)} or give --format {_either()}")
    return found


def read_records(path: str | Path, file_format: str | None = None) -> Iterator[Record]:
    """The records of a file, one after the other. Raises `InvalidInput` where there is nothing to read."""
    file_format = file_format or guess_format(path)
    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"one of {_either()}")
    count = 0
    with closing(_open(path, file_format)) as file, _readable(path):
        for record in _READERS[file_format](file, str(path)):
            yield record
            count += 1
    if not count:
        raise InvalidInput("file", str(path), "a file with at least one record; this one has no records")


def read_table(path: str | Path, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a CSV file without a header, whose columns have these names."""
    with closing(_open(path, "csv")) as file, _readable(path):
        yield from _read_csv(file, str(path), [*columns])


def read_lines(path: str | Path) -> Iterator[tuple[int, str | BadRecord]]:
    """The lines of a text file in UTF-8, without their ends; a last empty one is none."""
    with closing(_open(path, "text")) as file, _readable(path):
        for number, line in _lines(file):
            try:
                yield number, _too_long(number) if line is None else line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, BadRecord(number, "line", f"byte 0x{error.object[error.start]:02x} is not UTF-8")


def read_document(path: str | Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> JSON:
    """A whole file as one JSON value, for data sets that are one object. Raises `InvalidInput`."""
    with closing(_open(path, "json")) as file, _readable(path):
        text = file.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise InvalidInput("file", str(path), f"at most {max_bytes >> 20} MiB of JSON in one object")
    try:
        value: JSON = orjson.loads(text.removeprefix(_UTF8_BOM))
    except orjson.JSONDecodeError as error:
        raise InvalidInput("file", str(path), f"JSON (line {error.lineno}: {error.msg})") from None
    return value


def inline_records(records: object) -> Iterator[Record]:
    """The records of a list that was given in a request or in code."""
    if not isinstance(records, list | tuple):
        raise InvalidInput("test_cases", records, "a list of objects")
    if not records:
        raise InvalidInput("test_cases", records, "at least one test case; there are no records")
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, BadRecord(number, "record", f"an object is expected, this is {type(record).__name__}")


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput("file", str(path), f"a whole gzip file ({error})") from error
    except OSError as error:
        raise InvalidInput("file", str(path), f"a readable file ({error.strerror or error})") from error


def _either() -> str:
    return "|".join(FORMATS)


def _open(path: str | Path, file_format: str) -> IO[bytes]:
    """Opens a regular file and nothing else (a FIFO would hang, a device never ends) and looks at its first bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput("file", str(path), f"a readable file ({reason})") from error
    file = os.fdopen(descriptor, "rb", buffering=1 << 20) if _is_regular(descriptor) else None
    if file is None:
        os.close(descriptor)
        raise InvalidInput("file", str(path), "a regular file (no folder, pipe or device)")
    try:
        opened = _decompressed(file, str(path), file_format)
        _check_head(opened, str(path), file_format)
    except BaseException:
        file.close()
        raise
    return opened


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _decompressed(file: IO[bytes], path: str, file_format: str) -> IO[bytes]:
    head = file.read(2)
    file.seek(0)
    if head != b"\x1f\x8b" or not path.lower().endswith(".gz"):
        return file
    if file_format == "parquet":
        raise InvalidInput("file", path, "Parquet as it is (it compresses itself), not within gzip")
    return cast("IO[bytes]", _GzipFile(file))


class _GzipFile(gzip.GzipFile):
    """A gzip file that closes the file it reads from."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._inner = file

    def close(self) -> None:
        super().close()
        self._inner.close()


def _check_head(file: IO[bytes], path: str, file_format: str) -> None:
    try:
        head = file.read(4)
        file.seek(0)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput("file", path, f"a readable {file_format} file ({error})") from error
    for magic, what in _FOREIGN.items():
        if head.startswith(magic) and not (file_format == "parquet" and magic == b"PAR1"):
            raise InvalidInput("file", path, f"a {file_format} file in UTF-8; this is {what}")
    if file_format == "parquet" and head and head != b"PAR1":
        raise InvalidInput("file", path, "a Parquet file; this one does not begin like one")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None for one that is longer than a record may be."""
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_UTF8_BOM)
        if len(line) <= MAX_RECORD_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        yield number, None


def _too_long(line: int, hint: str = "") -> BadRecord:
    return BadRecord(line, "record", f"longer than {MAX_RECORD_BYTES >> 20} MiB{hint}")


def _read_jsonl(file: IO[bytes], path: str) -> Iterator[Record]:
    for number, line in _lines(file):
        if line is None:
            yield number, _too_long(number)
        elif text := line.strip():
            if text.startswith(b"[") and number == 1:
                raise InvalidInput("file", path, "one object a line; a file that is one JSON array has the format json")
            yield number, parse_record(number, text)


def _read_json(file: IO[bytes], path: str) -> Iterator[Record]:
    reader = JsonArrayReader(file, path, MAX_RECORD_BYTES)
    for number, raw in enumerate(reader.elements(), 1):
        yield number, raw if isinstance(raw, BadRecord) else parse_record(number, raw)


class _CsvLines:
    """Lines of text for `csv.reader`, which knows when a record grows too long or is not UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = _lines(file)
        self.number = 0
        self.next_record()

    def next_record(self) -> None:
        self._bytes = 0
        self.undecodable: str | None = None

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        self._bytes += len(line or b"")
        if line is None or self._bytes > MAX_RECORD_BYTES:
            raise _CsvRecordTooLong
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.undecodable = f"byte 0x{line[error.start]:02x} (line {self.number}) is not UTF-8"
            return line.decode(errors="replace")


class _CsvRecordTooLong(Exception):
    pass


def _read_csv(file: IO[bytes], path: str, header: list[str] | None = None) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
    lines = _CsvLines(file)
    rows = csv.reader(lines, strict=True)
    while True:
        start = lines.number + 1
        lines.next_record()
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield start, BadRecord(start, "record", f"not CSV as in RFC 4180: {_csv_problem(error)}")
            if header is None:
                return
            continue
        except _CsvRecordTooLong:
            yield start, _too_long(start, ": is a quote left open?")
            return
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = _header(row, path, lines.undecodable)
        elif lines.undecodable:
            yield start, BadRecord(start, "record", lines.undecodable)
        elif len(row) != len(header):
            yield start, BadRecord(start, "record", f"{len(row)} cells, but there are {len(header)} columns")
        else:
            yield start, {name: cell or None for name, cell in zip(header, row, strict=True)}


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "new-line" in text:
        return "a carriage return outside quotes (end lines with \\n or \\r\\n)"
    return "a quote is left open" if "unexpected end of data" in text else text


def _header(row: list[str], path: str, undecodable: str | None) -> list[str]:
    if undecodable:
        raise InvalidInput("file", path, f"UTF-8 text: in the header, {undecodable}")
    names = [name.strip() or f"column_{position}" for position, name in enumerate(row, 1)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput("file", path, f"a header that names each column once; repeated: {', '.join(repeated)}")
    return names


def _read_parquet(file: IO[bytes], path: str) -> Iterator[Record]:
    from evalservice.catalog.parquet import parquet_records

    return parquet_records(file, path)


_READERS: Final[dict[str, Any]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}

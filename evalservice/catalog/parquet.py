"""Parquet files as records of JSON values: nested types stay nested, times become ISO 8601 text, decimals too.

a row {"q": "Why?", "at": datetime(2026, 1, 2), "tags": ["a"]} -> {"q": "Why?", "at": "2026-01-02T00:00:00", ...}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from evalservice.errors import BadRecord, InvalidInput
from evalservice.records import JSON

_BATCH_ROWS = 256


def parquet_records(file: IO[bytes], path: str) -> Iterator[tuple[int, dict[str, JSON] | BadRecord]]:
    """The rows of a Parquet file, numbered from 1."""
    try:
        source = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        names = source.schema_arrow.names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput("file", path, f"columns with distinct names; repeated: {', '.join(repeated)}")
        number = 0
        for batch in source.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for row in _rows(batch):
                number += 1
                yield number, _record(number, row)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput("file", path, f"a readable Parquet file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _rows(batch: Any) -> list[dict[str, Any]]:
    for position, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            rounded = batch.column(position).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(position, column.name, rounded)
    rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    return rows


def _record(number: int, row: Mapping[str, Any]) -> dict[str, JSON] | BadRecord:
    record = {}
    for name, value in row.items():
        try:
            record[name] = value if value is None or type(value) in (str, int, bool) else _json(value)
        except (ValueError, TypeError) as error:
            return BadRecord(number, name, str(error))
    return record


def _json(value: Any) -> JSON:
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not JSON: store null instead")
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(_json(key)): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{len(value)} bytes that are not UTF-8 text") from None
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")

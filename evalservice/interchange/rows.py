"""A run's rows as JSONL, CSV and Parquet: the columns of `evaluation_results`, nested values as JSON.

{"test_case_index": 17, "test_case_id": "q-17", "input_data": {"messages": […]}, "expected_output": "42",
 "actual_output": "17 + 25 = 42", "metrics": {"numeric_match": 1.0}, "success": true, "cost": "0.0000525", …}
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1000
NESTED = ("input_data", "expected_output", "actual_output", "metrics", "score_details", "completion_info")
SCHEMA = pa.schema(
    [
        ("test_case_index", pa.int64()),
        ("test_case_id", pa.string()),
        ("cluster", pa.string()),
        *((name, pa.string()) for name in NESTED),
        ("success", pa.bool_()),
        ("error_kind", pa.string()),
        ("error_message", pa.string()),
        ("latency_ms", pa.float64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost", pa.decimal128(20, 10)),
        ("executed_at", pa.timestamp("us", tz="UTC")),
    ]
)


def _values(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SCHEMA.names}


def write_jsonl(rows: Iterable[Any], file: IO[bytes]) -> int:
    """One JSON object a line; money as decimal strings."""
    count = 0
    for row in rows:
        file.write(orjson.dumps(_values(row), default=_text) + b"\n")
        count += 1
    file.flush()
    return count


def write_csv(rows: Iterable[Any], file: IO[bytes]) -> int:
    """RFC 4180 with a header; nested values are JSON texts, what is absent is empty."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, SCHEMA.names)
    writer.writeheader()
    count = 0
    for row in rows:
        values = _flat(row)
        cost, moment = values["cost"], values["executed_at"]
        writer.writerow(
            {**values, "cost": None if cost is None else format(cost, "f"), "executed_at": moment.isoformat()}
        )
        count += 1
    text.flush()
    text.detach()
    return count


def write_parquet(rows: Iterable[Any], file: IO[bytes]) -> int:
    """One table, zstd, row groups of `BATCH_ROWS`; nested values are JSON texts."""
    count = 0
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in batch], schema=SCHEMA))
            count += len(batch)
    return count


def _flat(row: Any) -> dict[str, Any]:
    values = _values(row)
    for name in NESTED:
        if values[name] is not None:
            values[name] = orjson.dumps(values[name]).decode()
    return values


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, BATCH_ROWS)):
        yield batch


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(type(value).__name__)

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
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from evalservice.interchange.chunks import Chunk, Drain
from evalservice.interchange.exporting import ExportedRun

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
ABOUT = b"evalservice"
"""The key of a Parquet file's metadata under which its run describes itself."""


def _values(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SCHEMA.names}


def jsonl_chunks(_run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    """One JSON object a line; money as decimal strings."""
    for batch in _batches(rows):
        yield b"".join(orjson.dumps(_values(row), default=_text) + b"\n" for row in batch), len(batch)


def csv_chunks(_run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    """RFC 4180 with a header; nested values are JSON texts, what is absent is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, SCHEMA.names)
    writer.writeheader()
    yield text.getvalue().encode(), 0
    for batch in _batches(rows):
        text.seek(0)
        text.truncate()
        for row in batch:
            values = _flat(row)
            cost, moment = values["cost"], values["executed_at"]
            writer.writerow(
                {**values, "cost": None if cost is None else format(cost, "f"), "executed_at": moment.isoformat()}
            )
        yield text.getvalue().encode(), len(batch)


def parquet_chunks(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    """One table, zstd, row groups of `BATCH_ROWS`; nested values are JSON texts. Its metadata describes the run."""
    drain = Drain()
    schema = SCHEMA.with_metadata({ABOUT: orjson.dumps(_about(run))})
    with pq.ParquetWriter(pa.PythonFile(drain, mode="w"), schema, compression="zstd") as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist([_flat(row) for row in batch], schema=schema))
            yield drain.taken(), len(batch)
    yield drain.taken(), 0


def _about(run: ExportedRun) -> dict[str, Any]:
    """What an import needs besides the rows. Files of older versions do not say when the run was."""
    return {
        "run_id": str(run.id),
        "version": run.version,
        "model": run.model,
        "benchmark": run.benchmark,
        "dataset": dict(run.dataset),
        "criteria": run.criteria,
        "config": run.config,
        "evaluation_config": run.evaluation_config,
        "aggregated_results": run.results,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
    }


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

"""A log's items as rows of `evaluation_results`, in tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
from uuid_utils import uuid7

from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.mapping import MAX_ID_CHARS
from evalservice.catalog.snapshots import GROUP_ROWS, Snapshot
from evalservice.interchange.criteria import Scoring
from evalservice.interchange.limits import check_epochs
from evalservice.interchange.records import LogItem
from evalservice.records import Completion, ItemError, TestCase
from evalservice.scoring import Item, ItemScore, build_extraction, item_metrics, over_samples, score_details
from evalservice.storable import dump, storable_text

ROWS: Final = 256
BYTES: Final = 16 << 20
MAX_COST: Final = Decimal(10) ** 10
MAX_ERROR_CHARS: Final = 4000
"""An error of Inspect AI holds the whole request."""
SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("test_case_index", pa.int64()),
        ("test_case_id", pa.string()),
        ("cluster", pa.string()),
        ("input_data", pa.string()),
        ("expected_output", pa.string()),
        ("actual_output", pa.string()),
        ("metrics", pa.string()),
        ("score_details", pa.string()),
        ("completion_info", pa.string()),
        ("latency_ms", pa.float64()),
        ("tokens_used", pa.int64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost", pa.string()),
        ("success", pa.bool_()),
        ("error_message", pa.string()),
        ("error_kind", pa.string()),
        ("is_retryable", pa.bool_()),
        ("executed_at", pa.timestamp("us", tz="UTC")),
    ]
)


def row_tables(
    placed: Iterator[tuple[int, LogItem]], snapshot: Snapshot, scoring: Scoring, executed_at: datetime | None
) -> Iterator[pa.Table]:
    """Tables of at most `ROWS` rows, which end with the row that makes them `BYTES` long.

    executed_at: of an item that does not say when it was asked. Raises InvalidInput.
    """
    kept = {scorer.key for scorer in scoring.scorers}
    cases = _Cases(snapshot)
    for batch in _batches(placed):
        scores: list[Mapping[str, ItemScore]] = [item.scores for _, item in batch]
        if scoring.own:
            scores = _scored(batch, cases, scoring)
        rows = [
            _row(place, item, {key: score for key, score in own.items() if key in kept}, executed_at)
            for (place, item), own in zip(batch, scores, strict=True)
        ]
        yield pa.Table.from_pylist(rows, schema=SCHEMA)


def _batches(placed: Iterator[tuple[int, LogItem]]) -> Iterator[list[tuple[int, LogItem]]]:
    batch, size = [], 0
    for place, item in placed:
        if isinstance(item.output, list):
            check_epochs(len(item.output), f"test case {item.id}")
        batch.append((place, item))
        size += _size(item)
        if len(batch) == ROWS or size >= BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(item: LogItem) -> int:
    """About how many bytes its row has."""
    parts = (item.input, item.prompt, item.expected_output, item.output, dict(item.info), score_details(item.scores))
    return sum(len(dump(part)) for part in parts)


class _Cases:
    """The dataset's test cases by index, a few row groups in memory."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._group = lru_cache(maxsize=16)(self._read)

    def _read(self, group: int) -> list[TestCase]:
        start = group * GROUP_ROWS
        return read_block(self._snapshot, Block(start, min(start + GROUP_ROWS, self._snapshot.total)))

    def at(self, index: int) -> TestCase:
        return self._group(index // GROUP_ROWS)[index % GROUP_ROWS]


def _scored(batch: Sequence[tuple[int, LogItem]], cases: _Cases, scoring: Scoring) -> list[Mapping[str, ItemScore]]:
    """The items' scores with those of the benchmark's own scorers, from the completions that the log has."""
    extraction = build_extraction(scoring.criteria.output_extraction)
    counts: list[int] = []
    flat: list[Item] = []
    for place, item in batch:
        error = None if item.error is None else ItemError(item.error_kind, item.error, retryable=False)
        texts = item.output if isinstance(item.output, list) and item.output else [item.output]
        counts.append(len(texts))
        completions = [Completion(text=text if isinstance(text, str) else dump(text), error=error) for text in texts]
        flat += [extraction.item(cases.at(place), completion) for completion in completions]
    by_scorer = {scorer.key: scorer.score(flat) for scorer in scoring.own}
    scores: list[Mapping[str, ItemScore]] = []
    position = 0
    for (_, item), count in zip(batch, counts, strict=True):
        own = {key: over_samples(each[position : position + count]) for key, each in by_scorer.items()}
        scores.append({**item.scores, **own})
        position += count
    return scores


def _row(place: int, item: LogItem, scores: Mapping[str, ItemScore], executed_at: datetime | None) -> dict[str, Any]:
    tokens = item.total_tokens
    cost = item.cost if item.cost is not None and item.cost < MAX_COST else None
    if tokens is None and (item.input_tokens is not None or item.output_tokens is not None):
        tokens = (item.input_tokens or 0) + (item.output_tokens or 0)
    return {
        "id": str(uuid7()),
        "test_case_index": place,
        "test_case_id": storable_text(item.id)[:MAX_ID_CHARS],
        "cluster": None if item.cluster is None else storable_text(item.cluster)[:MAX_ID_CHARS],
        "input_data": dump(item.input if item.prompt is None else item.prompt),
        "expected_output": None if item.expected_output is None else dump(item.expected_output),
        "actual_output": dump(item.output),
        "metrics": dump(item_metrics(scores)),
        "score_details": dump(score_details(scores)),
        "completion_info": dump(dict(item.info)),
        "latency_ms": item.latency_ms,
        "tokens_used": _count(tokens),
        "input_tokens": _count(item.input_tokens),
        "output_tokens": _count(item.output_tokens),
        "cost": None if cost is None else format(cost, "f"),
        "success": item.error is None,
        "error_message": "" if item.error is None else storable_text(item.error[:MAX_ERROR_CHARS]),
        "error_kind": "" if item.error is None else item.error_kind,
        "is_retryable": False,
        "executed_at": item.executed_at or executed_at,
    }


def _count(tokens: int | None) -> int | None:
    """A number of tokens that the column holds; what is more than two billion for one test case is no count."""
    return tokens if tokens is not None and tokens < 2**31 else None

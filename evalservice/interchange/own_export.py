"""Our own exports (`evalservice runs export`), read back: rows as JSONL or Parquet.

A Parquet file knows its run (see `rows._about`): what it measured and when, how it was scored, what came out. JSONL has
the rows alone, so the model must be named, a corpus metric, which is no mean over test cases, cannot be taken from it,
and the run's time is that of its first and last test case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from evalservice.catalog.formats import read_records
from evalservice.catalog.snapshots import first_line
from evalservice.errors import BadRecord, InvalidInput, InvalidRecords, shown
from evalservice.interchange.inspect_samples import moment_of
from evalservice.interchange.limits import check_metrics
from evalservice.interchange.logjson import LogShape, finite, opened, parsed, refuse_deep, shaped
from evalservice.interchange.records import LogFiles, LogItem, LogRun
from evalservice.interchange.rows import ABOUT, NESTED
from evalservice.interchange.tally import Tally
from evalservice.records import Score
from evalservice.scoring import ItemScore, from_details
from evalservice.scoring.imported import NAME as SCORER

TOOL: Final = "evalservice"


class _Row(LogShape):
    test_case_index: int = Field(ge=0, lt=2**31)
    test_case_id: str = ""
    cluster: str | None = None
    input_data: Any
    expected_output: Any = None
    actual_output: Any = None
    metrics: dict[str, float | int | None]
    score_details: dict[str, Any] = Field(default_factory=dict)
    completion_info: dict[str, Any] = Field(default_factory=dict)
    success: bool
    error_kind: str = ""
    error_message: str = ""
    latency_ms: float | int | None = None
    input_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    output_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    cost: Any = None
    executed_at: Any = None


class _About(LogShape):
    model: str
    benchmark: str
    dataset: dict[str, str]
    criteria: dict[str, Any]
    aggregated_results: dict[str, dict[str, Any]]
    config: dict[str, Any] = Field(default_factory=dict)
    evaluation_config: dict[str, Any] = Field(default_factory=dict)
    version: str = ""
    started_at: str | None = None
    completed_at: str | None = None


@dataclass(slots=True)
class _Scan:
    tally: Tally = field(default_factory=Tally)
    corpus: set[str] = field(default_factory=set)
    epochs: int = 1
    first: datetime | None = None
    last: datetime | None = None

    def time(self, moment: datetime | None) -> None:
        """Adds when a test case was asked."""
        if moment is not None:
            self.first = min(self.first or moment, moment)
            self.last = max(self.last or moment, moment)


def read_jsonl(log: LogFiles) -> list[LogRun]:
    """The rows as a run without a model: whoever imports it names one. Raises InvalidInput."""
    return [_run(log, "jsonl", None)]


def read_parquet(log: LogFiles) -> list[LogRun]:
    """The run that the file knows, or as `read_jsonl`. Raises InvalidInput."""
    with opened(log.path, log.main) as file:
        try:
            metadata: Mapping[bytes, bytes] = pq.ParquetFile(file).schema_arrow.metadata or {}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput("file", log.main, f"a whole Parquet file ({first_line(error)})") from None
    text = metadata.get(ABOUT)
    about = shaped(_About, parsed(text, f"{log.main}: metadata"), f"{log.main}: metadata") if text else None
    return [_run(log, "parquet", about)]


def _run(log: LogFiles, file_format: str, about: _About | None) -> LogRun:
    scan = _Scan()
    for row in _rows(log, file_format):
        scan.time(moment_of(row.executed_at))
        for name, value in row.metrics.items():
            scan.tally.add(name, finite(value))
        if about is None:
            check_metrics(len(scan.tally.seen), log.main)
        for score in _scores(row).values():
            scan.corpus |= score.statistics.keys()
            scan.epochs = max(scan.epochs, len(score.samples))
    if about is None and scan.corpus:
        names = ", ".join(sorted(scan.corpus))
        accepted = (
            f"a Parquet export: {names} is no mean over test cases, and only that format says how it was computed"
        )
        raise InvalidInput("file", log.main, accepted)
    if not scan.tally.seen:
        raise InvalidInput("file", log.main, "rows with at least one metric")
    run = LogRun(
        task=log.main.removesuffix(f".{file_format}"),
        model="",
        tool=TOOL,
        tool_version="",
        measure=f"{TOOL} export",
        metrics=scan.tally.metrics(),
        items=lambda: (_item(row, plain=about is None) for row in _rows(log, file_format)),
        epochs=scan.epochs,
        started_at=scan.first,
        completed_at=scan.last,
    )
    if about is None:
        return run
    values = {name: finite(result.get("value")) for name, result in about.aggregated_results.items()}
    return replace(
        run,
        task=about.benchmark,
        model=about.model,
        tool_version=about.version,
        dataset=about.dataset.get("name", ""),
        content_hash=about.dataset.get("content_hash", ""),
        order_seed=_seed(about.evaluation_config.get("order_seed")),
        criteria=about.criteria,
        config=about.config,
        stated={name: value for name, value in values.items() if value is not None},
        started_at=moment_of(about.started_at) or scan.first,
        completed_at=moment_of(about.completed_at) or scan.last,
    )


def _seed(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**32 else None


def _rows(log: LogFiles, file_format: str) -> Iterator[_Row]:
    with opened(log.path, log.main):  # says what is wrong with it, under the name that its user knows
        pass
    for line, record in read_records(log.path, file_format):
        if isinstance(record, BadRecord):
            raise InvalidRecords(log.main, [record], 1)
        if file_format == "parquet":
            record = _nested(record, f"{log.main}, row {line}")
        else:
            refuse_deep(record, f"{log.main}, line {line}")
        yield shaped(_Row, record, f"{log.main}, line {line}")


def _nested(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Nested values are JSON texts in Parquet."""
    given = {name: record.get(name) for name in NESTED}
    texts = {name: text for name, text in given.items() if isinstance(text, str)}
    return {**record, **{name: parsed(text.encode(), f"{where}: {name}") for name, text in texts.items()}}


def _scores(row: _Row) -> dict[str, ItemScore]:
    try:
        scores = from_details(row.score_details)
        own = scores.values()
        sound = all(map(_is_sound, own)) and all(_is_sound(sample) for score in own for sample in score.samples)
    except (KeyError, TypeError, AttributeError, ValueError):
        sound = False
    if not sound:
        raise InvalidInput("score_details", row.score_details, "as `runs export` writes it")
    return scores


def _is_sound(score: ItemScore | Score) -> bool:
    """Whether the numbers are numbers; what reads them later takes that for granted."""
    values = [value for value in score.values.values() if value is not None]
    parts = [part for each in score.statistics.values() for part in each]
    return (
        score.status in ("scored", "scorer_failed", "model_failed")
        and all(finite(number) is not None for number in (*values, *parts))
        and isinstance(score.details, dict)
        and isinstance(score.error, str | None)
    )


def _item(row: _Row, *, plain: bool) -> LogItem:
    """plain: the metrics as they are, in the place of the scorers that nobody knows."""
    scores = _scores(row)
    if plain:
        values = {name: finite(value) for name, value in row.metrics.items()}
        scores = {SCORER: ItemScore("scored" if row.success else "model_failed", values)}
    question = row.input_data if isinstance(row.input_data, str | dict) else {"input": row.input_data}
    return LogItem(
        id=row.test_case_id,
        index=row.test_case_index,
        input=question,
        expected_output=row.expected_output,
        cluster=row.cluster,
        prompt=row.input_data,
        output=row.actual_output,
        scores=scores,
        error=None if row.success else row.error_message or "the export has no completion and no reason",
        latency_ms=finite(row.latency_ms),
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost=_cost(row.cost),
        executed_at=moment_of(row.executed_at),
        info=row.completion_info,
    )


def _cost(value: Any) -> Decimal | None:
    if value is None:
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        cost = Decimal("NaN")
    if not cost.is_finite() or not 0 <= cost < Decimal(10) ** 10:
        raise InvalidInput("cost", shown(value, 40), "US dollars")
    return cost.quantize(Decimal("1e-10"))

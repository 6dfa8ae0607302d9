"""Rows of an Every Eval Ever file, and how an item's rows become one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from evalservice.interchange.logjson import LogShape, finite, parsed, shaped
from evalservice.interchange.records import LogItem
from evalservice.records import JSON, Score
from evalservice.scoring import ItemScore
from evalservice.scoring.details import over_samples
from evalservice.scoring.imported import NAME as SCORER


class _Input(LogShape):
    raw: str
    formatted: str | None = None
    reference: list[str]
    choices: list[str] | None = None


class _Output(LogShape):
    raw: list[str]


class _Evaluation(LogShape):
    score: float | int
    is_correct: bool


class _Usage(LogShape):
    input_tokens: int = Field(ge=0, lt=2**31)
    output_tokens: int = Field(ge=0, lt=2**31)
    total_tokens: int = Field(ge=0, lt=2**31)


class _Performance(LogShape):
    latency_ms: float | int | None = None
    generation_time_ms: float | int | None = None


class Row(LogShape):
    """One item under one metric."""

    sample_id: str = Field(min_length=1)
    evaluation_name: str
    evaluation_result_id: str | None = None
    input: _Input
    output: _Output | None = None
    messages: list[dict[str, Any]] | None = None
    answer_attribution: list[dict[str, Any]] = Field(default_factory=list)
    evaluation: _Evaluation
    token_usage: _Usage | None = None
    performance: _Performance | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """The result that it belongs to."""
        return self.evaluation_result_id or self.evaluation_name

    @property
    def epoch(self) -> int | None:
        """Which repeat it is, where the row says so."""
        text = str((self.metadata or {}).get("epoch", ""))
        return int(text) if text.isdecimal() and 0 < len(text) < 7 else None


def row_of(line: bytes, where: str) -> Row:
    """Raises InvalidInput that names the field."""
    return shaped(Row, parsed(line, where), where)


def item_of(epochs: Sequence[Mapping[str, Row]], metrics: Sequence[str], model: str) -> LogItem:
    """One item of the rows of all its epochs, each by metric."""
    firsts = [next(iter(rows.values())) for rows in epochs]
    first = firsts[0]
    references = first.input.reference
    errors = [error for rows in epochs if (error := _error(rows)) is not None]
    failed = len(errors) == len(epochs)
    texts: list[str] = [text for row in firsts for text in _texts(row)]
    usages = [row.token_usage for row in firsts if row.token_usage is not None]
    latencies = [latency for row in firsts if (latency := _latency(row)) is not None]
    return LogItem(
        id=first.sample_id,
        input=first.input.raw,
        expected_output=references[0] if len(references) == 1 else references or None,
        choices=tuple(first.input.choices) if first.input.choices else None,
        prompt={"messages": _prompt(first)},
        output=texts[0] if len(texts) == 1 else texts,
        scores={SCORER: _score(epochs, metrics)},
        error=errors[0] if failed else None,
        latency_ms=sum(latencies) / len(latencies) if latencies else None,
        input_tokens=sum(u.input_tokens for u in usages) if usages else None,
        output_tokens=sum(u.output_tokens for u in usages) if usages else None,
        total_tokens=sum(u.total_tokens for u in usages) if usages else None,
        info={"model": model},
    )


def _score(epochs: Sequence[Mapping[str, Row]], metrics: Sequence[str]) -> ItemScore:
    scores = []
    for rows in epochs:
        error = _error(rows)
        if error is None:
            values = {name: finite(rows[name].evaluation.score) if name in rows else None for name in metrics}
            scores.append(Score("scored", values, details=_extracted(rows)))
        else:
            scores.append(Score("model_failed", dict.fromkeys(metrics), error=error))
    return over_samples(scores)


def _error(rows: Mapping[str, Row]) -> str | None:
    """Why an epoch failed: an error is the sample's, whichever of its rows tells of it."""
    return next((row.error for row in rows.values() if row.error), None)


def _extracted(rows: Mapping[str, Row]) -> dict[str, JSON]:
    found = {
        name: row.answer_attribution[-1].get("extracted_value") for name, row in rows.items() if row.answer_attribution
    }
    return {"extracted": found} if found else {}


def _texts(row: Row) -> list[str]:
    if row.output is not None:
        return row.output.raw
    answers = [m.get("content") for m in row.messages or () if m.get("role") == "assistant"]
    return [str(answers[-1])] if answers and answers[-1] is not None else [""]


def _prompt(row: Row) -> list[JSON]:
    messages = [{"role": str(m.get("role", "")), "content": m.get("content")} for m in row.messages or ()]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    return messages or [{"role": "user", "content": row.input.formatted or row.input.raw}]


def _latency(row: Row) -> float | None:
    if row.performance is None or row.error:
        return None
    for given in (row.performance.latency_ms, row.performance.generation_time_ms):
        found = finite(given)
        if found is not None and found >= 0:
            return found
    return None

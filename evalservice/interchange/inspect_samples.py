"""Samples of an Inspect AI log, and how an item's epochs become one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from pydantic import Field

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.errors import InvalidInput
from evalservice.interchange.logjson import LogShape, finite, parsed, shaped
from evalservice.interchange.records import LogItem
from evalservice.interchange.reducers import number_of, reduced
from evalservice.records import JSON, Score
from evalservice.scoring import ItemScore
from evalservice.scoring.imported import NAME as SCORER
from evalservice.storable import dump

ATTACHMENT: Final = "attachment://"


class _Value(LogShape):
    value: Any = None
    answer: Any = None
    explanation: Any = None


class _Error(LogShape):
    message: str = ""


class _Output(LogShape):
    model: str | None = None
    completion: str | None = None
    choices: list[dict[str, Any]] = Field(default_factory=list)
    time: float | int | None = None
    error: str | None = None


class Sample(LogShape):
    """One item in one epoch."""

    id: int | str
    epoch: int = Field(ge=1, le=1_000_000)
    input: str | list[dict[str, Any]]
    target: str | list[str]
    choices: list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    messages: list[dict[str, Any]] = Field(default_factory=list)
    output: _Output = _Output()
    scores: dict[str, _Value] | None = None
    error: _Error | None = None
    model_usage: dict[str, dict[str, Any]] = Field(default_factory=dict)
    total_time: float | int | None = None
    working_time: float | int | None = None
    started_at: str | None = None
    completed_at: str | None = None
    attachments: dict[str, str] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The completion."""
        if self.output.completion is not None:
            return str(self.resolved(self.output.completion))
        message = self.output.choices[0].get("message") if self.output.choices else None
        content = message.get("content") if isinstance(message, dict) else None
        return str(self.resolved(content)) if isinstance(content, str) else ""

    def resolved(self, value: Any) -> Any:
        """A text that was moved to the attachments, in its place again; within messages, too. Raises InvalidInput when
        one that is referred to again and again becomes more than a record may be."""
        left = MAX_RECORD_BYTES

        def at(value: Any) -> Any:
            nonlocal left
            if isinstance(value, str) and value.startswith(ATTACHMENT):
                text = self.attachments.get(value.removeprefix(ATTACHMENT), value)
                left -= len(text)
                if left < 0:
                    accepted = f"attachments of at most {MAX_RECORD_BYTES >> 20} MiB in all places that refer to them"
                    raise InvalidInput("sample", self.id, accepted)
                return text
            if isinstance(value, list):
                return [at(each) for each in value]
            if isinstance(value, dict):
                return {key: at(each) for key, each in value.items()}
            return value

        return at(value)


def sample_of(text: bytes, where: str) -> Sample:
    """Raises InvalidInput that names the field."""
    return shaped(Sample, parsed(text, where), where)


def size_of(sample: Sample) -> int:
    """About how many bytes are kept of it; events and store, most of an agent's log, are not."""
    return len(dump(sample.model_dump()))


def values_of(epochs: Sequence[Sample], scorer: str, key: str | None) -> list[float]:
    """A metric's numbers over the epochs without an error that have one."""
    return [number for sample in epochs if (number := _number(sample, scorer, key)) is not None]


def _number(sample: Sample, scorer: str, key: str | None) -> float | None:
    score = (sample.scores or {}).get(scorer)
    if score is None or sample.error is not None:
        return None
    if key is None:
        return number_of(score.value)
    return number_of(score.value.get(key)) if isinstance(score.value, dict) else None


def item_of(epochs: Sequence[Sample], metrics: Mapping[str, tuple[str, str | None, str]], model: str) -> LogItem:
    """One item of all its epochs."""
    first = epochs[0]
    good = [sample for sample in epochs if sample.error is None]
    values = {
        name: reduced(reducer, values_of(epochs, scorer, key)) for name, (scorer, key, reducer) in metrics.items()
    }
    samples = [_score(sample, metrics) for sample in epochs]
    score = samples[0]
    if len(samples) == 1:
        item_score = ItemScore(score.status, score.values, details=score.details, error=score.error)
    else:
        item_score = ItemScore("scored" if good else "model_failed", values, samples=tuple(samples))
    errors = [sample.error.message for sample in epochs if sample.error is not None]
    texts = [sample.text for sample in epochs]
    infos = [_info(sample, model) for sample in epochs]
    latencies = [latency for sample in good if (latency := _latency(sample)) is not None]
    return LogItem(
        id=str(first.id),
        input=_input(first),
        expected_output=first.target,
        choices=tuple(first.choices) if first.choices else None,
        metadata=first.metadata,
        prompt={"messages": _messages(first.resolved(_sent(first)))} if first.messages else None,
        output=texts[0] if len(texts) == 1 else texts,
        scores={SCORER: item_score},
        error=None if good else errors[0] or "the log has an error without a message",
        latency_ms=sum(latencies) / len(latencies) if latencies else None,
        input_tokens=_used(epochs, "input_tokens"),
        output_tokens=_used(epochs, "output_tokens"),
        total_tokens=_used(epochs, "total_tokens"),
        cost=_cost(epochs),
        executed_at=max((at for sample in epochs if (at := moment_of(sample.completed_at))), default=None),
        info=infos[0] if len(infos) == 1 else {"samples": infos},
    )


def _score(sample: Sample, metrics: Mapping[str, tuple[str, str | None, str]]) -> Score:
    values = {name: _number(sample, scorer, key) for name, (scorer, key, _) in metrics.items()}
    if sample.error is not None:
        return Score("model_failed", values, error=sample.error.message)
    details = {
        scorer: {name: value for name, value in (("answer", own.answer), ("explanation", own.explanation)) if value}
        for scorer, own in (sample.scores or {}).items()
    }
    return Score(
        "scored" if sample.scores else "scorer_failed", values, details={k: v for k, v in details.items() if v}
    )


def _input(sample: Sample) -> str | dict[str, JSON]:
    """The question as the dataset has it: messages without the ids that each run gives them anew."""
    found = sample.resolved(sample.input)
    return found if isinstance(found, str) else {"messages": _messages(found)}


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, JSON]]:
    return [{"role": str(each.get("role", "")), "content": each.get("content")} for each in messages]


def _sent(sample: Sample) -> list[dict[str, Any]]:
    """The conversation up to the answer."""
    messages = list(sample.messages)
    while messages and messages[-1].get("role") == "assistant":
        messages.pop()
    return messages or list(sample.messages)


def _info(sample: Sample, model: str) -> dict[str, JSON]:
    stopped = sample.output.choices[0].get("stop_reason") if sample.output.choices else None
    info: dict[str, JSON] = {"finish_reason": stopped, "model": sample.output.model or model, "epoch": sample.epoch}
    return {**info, "error": {"message": sample.error.message}} if sample.error is not None else info


def _latency(sample: Sample) -> float | None:
    """Milliseconds without waiting, where the log tells them apart."""
    seconds = finite(sample.working_time if sample.working_time is not None else sample.total_time)
    return None if seconds is None or seconds < 0 else seconds * 1000


def _used(epochs: Sequence[Sample], name: str) -> int | None:
    """Tokens of all calls of all models in all epochs, those that failed included: they were spent."""
    counts = [usage.get(name) for sample in epochs for usage in sample.model_usage.values()]
    known = [count for count in counts if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**31]
    total = sum(known)
    return total if known and total < 2**31 else None


def _cost(epochs: Sequence[Sample]) -> Decimal | None:
    costs = [finite(usage.get("total_cost")) for sample in epochs for usage in sample.model_usage.values()]
    known = [Decimal(str(cost)) for cost in costs if cost is not None and 0 <= cost < 1e9]
    return sum(known, Decimal(0)).quantize(Decimal("1e-10")) if known else None


def moment_of(text: Any) -> datetime | None:
    """ISO 8601 with a zone; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

"""What is stored of an item's scores: the JSON of `evaluation_results.score_details`, and back.

    {"scores": {"numeric_match": {"status": "scored", "values": {"numeric_match": 1.0},
                                  "details": {"extracted": "42", "expected": "42"}},
                "bleu": {"status": "scored", "values": {"bleu": 53.7}, "statistics": {"bleu": [9, 9, 8, 6, 4, 2, …]}},
                "rouge": {"status": "scorer_failed", "values": {"rouge1": null}, "error": "…"}}}

Empty `statistics`, `details` and absent `error` are left out. With several samples a test case (epochs) a scorer's
entry also has `samples`, the same form once a completion; its own values are means over the scored samples and its
statistics their sums. `evaluation_results.metrics` is the flat view:

    {"numeric_match": 1.0, "bleu": 53.7, "rouge1": null}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evalservice.records import JSON, Score, ScoreStatus


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What one scorer says of one test case: its single completion's score, or that of all samples with each in
    `samples`. Fields as in `Score`."""

    status: ScoreStatus
    values: Mapping[str, float | None]
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    details: Mapping[str, JSON] = field(default_factory=dict)
    error: str | None = None
    samples: tuple[Score, ...] = ()


def over_samples(scores: Sequence[Score]) -> ItemScore:
    """The score of a test case from those of its samples (at least one), in order.

    One sample: as it is. Several: each value is the mean over the samples that have one, statistics are summed, and the
    status is "scored" if any sample was scored, else "model_failed" if no sample had a completion.
    """
    first = scores[0]
    if len(scores) == 1:
        return ItemScore(first.status, first.values, first.statistics, first.details, first.error)
    given = [score for score in scores if score.status == "scored"]
    values: dict[str, float | None] = {}
    for name in dict.fromkeys(name for score in scores for name in score.values):
        known = [value for score in given if (value := score.values.get(name)) is not None]
        values[name] = sum(known) / len(known) if known else None
    statistics: dict[str, tuple[float, ...]] = {}
    for score in given:
        for name, parts in score.statistics.items():
            before = statistics.get(name, (0,) * len(parts))
            statistics[name] = tuple(a + b for a, b in zip(before, parts, strict=True))
    status: ScoreStatus = "scored"
    if not given:
        status = "model_failed" if all(score.status == "model_failed" for score in scores) else "scorer_failed"
    error = next((score.error for score in scores if score.error), None)
    return ItemScore(status, values, statistics, error=error, samples=tuple(scores))


def score_details(scores: Mapping[str, Score | ItemScore]) -> dict[str, Any]:
    """The form of an item's scores that is stored as JSON, by scorer key."""
    return {"scores": {key: _stored(score) for key, score in scores.items()}}


def from_details(details: Mapping[str, Any] | None) -> dict[str, ItemScore]:
    """The scores of an item from their stored form; none for an item that was stored without."""
    return {
        key: replace(_read(entry), samples=tuple(_sample(sample) for sample in entry.get("samples", ())))
        for key, entry in (details or {}).get("scores", {}).items()
    }


def item_metrics(scores: Mapping[str, Score | ItemScore]) -> dict[str, float | None]:
    """Metric name -> the item's value, None where it has none."""
    return {name: value for score in scores.values() for name, value in score.values.items()}


def _stored(score: Score | ItemScore) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": score.status, "values": dict(score.values)}
    if score.statistics:
        entry["statistics"] = {name: list(parts) for name, parts in score.statistics.items()}
    if score.details:
        entry["details"] = dict(score.details)
    if score.error is not None:
        entry["error"] = score.error
    if isinstance(score, ItemScore) and score.samples:
        entry["samples"] = [_stored(sample) for sample in score.samples]
    return entry


def _read(entry: Mapping[str, Any]) -> ItemScore:
    statistics = {name: tuple(parts) for name, parts in entry.get("statistics", {}).items()}
    return ItemScore(entry["status"], entry["values"], statistics, entry.get("details", {}), entry.get("error"))


def _sample(entry: Mapping[str, Any]) -> Score:
    read = _read(entry)
    return Score(read.status, read.values, read.statistics, read.details, read.error)

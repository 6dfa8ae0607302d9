"""What a scorer is: items in, one `Score` an item out, in order, and never an exception for one item's sake.

    [scorer] = build_scorers([{"name": "numeric_match", "params": {"rel_tol": 0.01}, "as": "loose"}])
    scorer.score([Item(TestCase(0, "What is 17 + 25?", expected_output=42), "That makes 42.")])
    -> [Score("scored", {"loose_numeric_match": 1.0}, details={"extracted": "42", "expected": "42"})]

To write one: subclass `Scorer`, give it `name`, `Parameters`, `declared` and `score_item` (or `score_items`, where a
batch is cheaper than its items), and register the class in the entry-point group `evalservice.scorers`.
"""

from __future__ import annotations

import json
import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from evalservice.records import JSON, Score, TestCase

MetricKind = Literal["binary", "continuous", "corpus"]

SHOWN_CHARS = 200
"""How much of an extracted text goes into a score's details."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a scorer gives an item, and how a run's value comes of it.

    kind: "binary" (0 or 1) and "continuous": the run's value is the mean over items; "corpus": the run's value is
    `aggregate(sum of the items' statistics)`, and the per-item value is for looking at.
    scale: least and greatest value; None where there is no bound.
    aggregate: pure and picklable; takes the summed statistics, returns None where the value is undefined.
    """

    name: str
    kind: MetricKind
    scale: tuple[float | None, float | None] = (0.0, 1.0)
    higher_is_better: bool = True
    aggregate: Callable[[Sequence[float]], float | None] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A test case and what the model answered, after output extraction.

    extracted: False when an extraction step found nothing and left "" in `text`.
    model_error: why there is no completion; the score is then `model_failed`.
    extraction_error: why the answer could not be taken out of the completion; the score is then `scorer_failed`.
    log_likelihoods: where the choices were asked for by likelihood, each one's.
    """

    case: TestCase
    text: str
    extracted: bool = True
    model_error: str | None = None
    extraction_error: str | None = None
    log_likelihoods: tuple[float, ...] | None = None


class ItemFailed(Exception):
    """This item cannot be scored; the message is for the user and becomes the score's error."""


class ScorerParameters(BaseModel):
    """Base of every scorer's parameters.

    max_chars: completions longer than this are not scored (`scorer_failed`): one runaway completion of 10 MB must not
    hold up a run. Scorers whose cost grows faster than the length have a lower default, measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_chars: int = Field(default=1_000_000, ge=1)


P = TypeVar("P", bound=ScorerParameters)


class Scorer(ABC, Generic[P]):
    """Base of every scorer. `key` names it within a run: the specification's "as", else its name."""

    name: ClassVar[str]
    Parameters: ClassVar[type[ScorerParameters]]
    declared: ClassVar[tuple[Metric, ...]] = ()
    revision: ClassVar[str] = "1"
    """Raised when the same completion would get another value than before."""

    def __init__(self, parameters: P, alias: str | None = None) -> None:
        self.parameters = parameters
        self.alias = alias
        self.key = alias or self.name
        self._names = {m.name: f"{alias}_{m.name}" if alias else m.name for m in self.own_metrics()}
        self.metrics = tuple(replace(m, name=self._names[m.name]) for m in self.own_metrics())
        self._nothing: dict[str, float | None] = dict.fromkeys(self._names.values())

    def own_metrics(self) -> tuple[Metric, ...]:
        """The metrics by their plain names; override when they depend on the parameters."""
        return self.declared

    def idle_parameters(self) -> set[str]:
        """Parameters that change nothing as the others are set: no part of the version."""
        return set()

    def foreign_version(self) -> str:
        """Versions of foreign code that the values depend on, e.g. sacrebleu's signature."""
        return ""

    @property
    def version(self) -> str:
        """All that changes values: values under different versions are never compared."""
        given = self.parameters.model_dump(mode="json", by_alias=True, exclude=self.idle_parameters())
        parameters = json.dumps(given, sort_keys=True)
        return "|".join(part for part in (f"{self.name}:{self.revision}", self.foreign_version(), parameters) if part)

    def score(self, items: Sequence[Item]) -> list[Score]:
        """One score an item, in order. What goes wrong with one item is that item's error."""
        scores: list[Score | None] = [self._unscorable(item) for item in items]
        todo = [position for position, score in enumerate(scores) if score is None]
        for position, score in zip(todo, self._guarded([items[p] for p in todo]), strict=True):
            scores[position] = score
        return [score for score in scores if score is not None]

    def score_items(self, items: Sequence[Item]) -> list[Score]:
        """Scores of items that have a completion, by the plain metric names. An exception here is harmless: the batch
        is then scored one by one, so that only the items at fault fail."""
        return [self.score_item(item) for item in items]

    def score_item(self, item: Item) -> Score:
        """The score of one item, by the plain metric names. Raise `ItemFailed` to say why it has none."""
        raise NotImplementedError(f"{type(self).__name__} defines neither score_item nor score_items")

    def failed(self, error: str) -> Score:
        """The score of an item that this scorer could not score."""
        return Score("scorer_failed", self._nothing, error=error)

    def _unscorable(self, item: Item) -> Score | None:
        if item.model_error is not None:
            return Score("model_failed", self._nothing, error=item.model_error)
        if item.extraction_error is not None:
            return self.failed(item.extraction_error)
        if len(item.text) > self.parameters.max_chars:
            return self.failed(
                f"the completion has {len(item.text)} characters, max_chars is {self.parameters.max_chars}"
            )
        return None

    def _guarded(self, items: Sequence[Item]) -> list[Score]:
        if not items:
            return []
        try:
            scores = self.score_items(items)
            if len(scores) != len(items):
                raise RuntimeError(f"{len(scores)} scores for {len(items)} items")
            return [self._checked(score, item) for score, item in zip(scores, items, strict=True)]
        except Exception as error:
            if len(items) > 1:
                return [score for item in items for score in self._guarded([item])]
            known = isinstance(error, ItemFailed)
            return [self.failed(str(error) if known else f"{self.name}: {type(error).__name__}: {error}"[:500])]

    def _checked(self, score: Score, item: Item) -> Score:
        if score.values.keys() != self._names.keys():
            raise RuntimeError(f"metrics {sorted(score.values)} where {sorted(self._names)} are declared")
        for name, value in score.values.items():
            if value is not None and not math.isfinite(value):
                raise RuntimeError(f"{name} is {value}")
        details = score.details if item.extracted else {**score.details, "extracted": None}
        if self.alias is None and details is score.details:
            return score
        return replace(
            score,
            values={self._names[name]: value for name, value in score.values.items()},
            statistics={self._names[name]: value for name, value in score.statistics.items()},
            details=details,
        )


def scored(values: Mapping[str, float | None], **details: JSON) -> Score:
    """A score with values; details as keywords."""
    return Score("scored", values, details=details)


def brief(text: str) -> str:
    """As much of a text as details show."""
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


AnyScorer = Scorer[Any]

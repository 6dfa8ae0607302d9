"""The stage that scores: blocks of completions in, rows of `evaluation_results` out. Pure CPU work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from actors.blocks import TO_SCORE, case_of, scored_table
from actors.garbage import collect_rarely
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.records import Completion, ItemError
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import Item, build_extraction
from evalservice.scoring.details import item_metrics, over_samples, score_details
from evalservice.storable import dump


class Score:
    """A callable for Ray Data: a benchmark's extraction and scorers, applied to whole blocks."""

    def __init__(self, criteria: Mapping[str, Any]) -> None:
        parsed = EvaluationCriteria.model_validate(criteria)
        self._epochs = parsed.epochs
        self._scorers = scorers_of(parsed)
        self._extraction = build_extraction(parsed.output_extraction)
        self._columns = [*TO_SCORE, "completion_info"] if parsed.likelihood else list(TO_SCORE)
        collect_rarely()

    def __call__(self, generated: pa.Table) -> pa.Table:
        """Score a block (schema `GENERATED`) into result rows (schema `SCORED`), in order."""
        rows: list[dict[str, Any]] = generated.select(self._columns).to_pylist()
        samples = [self._items(row) for row in rows]
        flat = [item for items in samples for item in items]
        by_scorer = {scorer.key: scorer.score(flat) for scorer in self._scorers}
        actual, metrics, details = [], [], []
        position = 0
        for row, items in zip(rows, samples, strict=True):
            own = {key: over_samples(scores[position : position + len(items)]) for key, scores in by_scorer.items()}
            position += len(items)
            texts = row["texts"]
            actual.append(orjson.dumps(texts[0] if len(texts) == 1 and self._epochs == 1 else texts).decode())
            metrics.append(dump(item_metrics(own)))
            details.append(dump(score_details(own)))
        return scored_table(generated, actual, metrics, details)

    def _items(self, row: dict[str, Any]) -> Sequence[Item]:
        case = case_of(row)
        error = None if row["success"] else ItemError(row["error_kind"], row["error_message"], row["is_retryable"])
        found = _likelihoods(row["completion_info"]) if "completion_info" in row else None
        return [
            self._extraction.item(case, Completion(text, error=error, log_likelihoods=found)) for text in row["texts"]
        ]


def _likelihoods(info: str) -> tuple[float, ...] | None:
    """The log-likelihoods of the choices; an impossible one is null in JSON."""
    values = orjson.loads(info).get("log_likelihoods")
    return None if values is None else tuple(-math.inf if value is None else value for value in values)

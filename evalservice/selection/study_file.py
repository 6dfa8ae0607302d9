"""The examples of a study from a JSONL file, checked line by line.

    {"prompt": "What is 2 + 2?", "quality": {"small": 0.4, "large": 1}, "cost_usd": {"small": 3e-5, "large": 0.0006}}

"quality" names the same two or more models on every line; true and false count as 1 and 0. "cost_usd" is on every line,
for every model, or on none. Other fields are left alone, but for the one that holds the category.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from evalservice.catalog.formats import read_records
from evalservice.errors import BadRecord, InvalidRecords, shown
from evalservice.records import JSON
from evalservice.selection.study import Examples

MAX_MODELS: Final = 100
MAX_QUALITY: Final = 1e9
MAX_COST: Final = 1e6


@dataclass(frozen=True, slots=True)
class _Example:
    prompt: str
    quality: dict[str, float]
    cost: dict[str, float] | None
    category: str | None


class _Refused(Exception):
    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem


def read_examples(path: Path, category_field: str | None = None) -> Examples:
    """The examples of a file. Raises InvalidInput for a file that cannot be read, InvalidRecords for bad lines."""
    examples: list[_Example] = []
    bad: list[BadRecord] = []
    total = 0
    for line, record in read_records(path, "jsonl"):
        try:
            if isinstance(record, BadRecord):
                raise _Refused(record.field, record.problem)
            example = _example(record, category_field)
            if examples:
                _check_like(example, examples[0])
            examples.append(example)
        except _Refused as refused:
            total += 1
            if len(bad) < InvalidRecords.SHOWN:
                bad.append(BadRecord(line, refused.field, refused.problem))
    if bad:
        raise InvalidRecords(str(path), bad, total)
    models = tuple(examples[0].quality)
    costs = [example.cost for example in examples if example.cost is not None]
    return Examples(
        models,
        [example.prompt for example in examples],
        np.array([[example.quality[model] for model in models] for example in examples], np.float64),
        np.array([[cost[model] for model in models] for cost in costs], np.float64) if costs else None,
        None if category_field is None else [str(example.category) for example in examples],
    )


def _example(record: dict[str, JSON], category_field: str | None) -> _Example:
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _Refused("prompt", f"{_given(record, 'prompt')}: the request's text is expected")
    quality = _numbers(record, "quality", -MAX_QUALITY, MAX_QUALITY)
    if not 2 <= len(quality) <= MAX_MODELS:
        raise _Refused("quality", f"scores of 2 to {MAX_MODELS} models are expected, these are {len(quality)}")
    cost = None
    if record.get("cost_usd") is not None:
        cost = _numbers(record, "cost_usd", 0.0, MAX_COST)
        if missing := quality.keys() - cost.keys():
            raise _Refused("cost_usd", f"the cost of {shown(min(missing), 40)} is missing, which has a quality")
    category = None if category_field is None else _category(record, category_field)
    return _Example(prompt, quality, cost, category)


def _numbers(record: dict[str, JSON], field: str, low: float, high: float) -> dict[str, float]:
    given = record.get(field)
    if not isinstance(given, dict):
        raise _Refused(field, f'{_given(record, field)}: an object such as {{"model": 0.5}} is expected')
    found = {}
    for model, value in given.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            where = f"{field}.{shown(model, 40)[1:-1]}"
            raise _Refused(where, f"{shown(value, 40)}: a number from {low:g} to {high:g} is expected")
        found[model] = float(value)
    return found


def _category(record: dict[str, JSON], field: str) -> str:
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Refused(field, f"{_given(record, field)}: the category is expected, a string or a whole number")
    return str(value)


def _given(record: dict[str, JSON], field: str) -> str:
    return shown(record[field], 40) if field in record else "missing"


def _check_like(example: _Example, first: _Example) -> None:
    if missing := first.quality.keys() - example.quality.keys():
        raise _Refused("quality", f"no score for {shown(min(missing), 40)}, which the first line has")
    if more := example.quality.keys() - first.quality.keys():
        raise _Refused("quality", f"a score for {shown(min(more), 40)}, which the first line does not have")
    if (example.cost is None) != (first.cost is None):
        raise _Refused("cost_usd", "costs are expected on every line or on none, the first line decides")

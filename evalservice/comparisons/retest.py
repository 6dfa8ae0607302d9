"""Test-retest noise: how far a run's value moves when the same configuration is measured once more.

Completed runs with the same configuration hash asked the same test cases with the same prompt, sampling and seed, and
scored them alike: what differs between them is what the provider does differently each time. A difference between two
models that is no larger than that is not worth much, however small its p value (Blackwell et al., "Towards
Reproducible LLM Evaluation: Quantifying Uncertainty in LLM Benchmark Scores", 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from evalservice.comparisons.designs import System
from evalservice.comparisons.pairing import Comparable, Loaded, Taken, load
from evalservice.runs.completion_cache import CACHED
from evalservice.scoring import Metric
from evalservice.tables import EvaluationRun

MOST_REPEATS = 4
"""Of a run, the newest: each is read as the run itself is."""


@dataclass(frozen=True, slots=True)
class Retest:
    """A run and its repeats on one metric, over the test cases that all of them have scored.

    repeats: other runs. stderr: the standard deviation of the value over all of them, in the metric's units. changed:
    the share of test cases whose score is another than in the run, on average over the repeats.
    """

    repeats: int
    stderr: float
    changed: float


Retests = Mapping[str, Mapping[str, Retest]]
"""By metric, and by run id: those that were measured more than once."""


def retests(
    session: Session, runs: Sequence[EvaluationRun], wanted: Sequence[Comparable], taken: Taken, loaded: Loaded
) -> Retests:
    """What the repeats of these runs say of their noise, over the test cases that are taken of each."""
    found: dict[str, dict[str, Retest]] = {each.metric.name: {} for each in wanted}
    for run in runs:
        repeats = _repeats(session, run)
        if not repeats:
            continue
        again = load(session, repeats, wanted, {repeat.id: taken[run.id] for repeat in repeats})
        positions = np.searchsorted(loaded.items.indices, again.items.indices)
        for each in wanted:
            name = each.metric.name
            own = next(system for system in loaded.systems[name] if system.name == str(run.id))
            retest = _retest(_numbers(own)[positions], [_numbers(s) for s in again.systems[name]], each.metric)
            if retest is not None:
                found[name][str(run.id)] = retest
    return found


def noise_of(difference: Sequence[Retest | None]) -> float | None:
    """The standard error that repeating alone gives the difference of two runs; None unless both were repeated."""
    known = [retest.stderr for retest in difference if retest is not None]
    return math.hypot(*known) if len(known) == len(difference) else None


def _repeats(session: Session, run: EvaluationRun) -> Sequence[EvaluationRun]:
    return session.scalars(
        select(EvaluationRun)
        .where(
            EvaluationRun.configuration_hash == run.configuration_hash,
            EvaluationRun.status == "completed",
            EvaluationRun.id != run.id,
            ~EvaluationRun.metadata_.has_key(CACHED),  # a stored completion repeats nothing
        )
        .order_by(EvaluationRun.created_at.desc())
        .limit(MOST_REPEATS)
    ).all()


def _numbers(system: System) -> npt.NDArray[np.float64]:
    """Shape (n, k): the values, or a corpus metric's statistics."""
    return system.values[:, None] if system.statistics is None else system.statistics


def _retest(own: npt.NDArray[Any], repeats: Sequence[npt.NDArray[Any]], metric: Metric) -> Retest | None:
    every = [own, *(each for each in repeats if each.shape == own.shape)]
    scored = np.logical_and.reduce([np.isfinite(numbers).all(axis=1) for numbers in every])
    if len(every) < 2 or not scored.any():
        return None
    values = [_value(numbers[scored], metric) for numbers in every]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    changed = [float((numbers[scored] != own[scored]).any(axis=1).mean()) for numbers in every[1:]]
    return Retest(len(every) - 1, float(np.std(known, ddof=1)), float(np.mean(changed)))


def _value(numbers: npt.NDArray[Any], metric: Metric) -> float | None:
    if metric.kind != "corpus":
        return float(numbers.mean())
    assert metric.aggregate is not None
    return metric.aggregate(numbers.sum(axis=0).tolist())

"""Streams of requests that the selection tests share: four real models' answers, and ways to serve them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from evalservice.selection.learning import Beliefs, Outcomes, fold, posterior
from evalservice.selection.pacing import Pacer, affordable, charge, price
from evalservice.selection.thompson import win_shares

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# what was reached, shown by `pytest --log-cli-level=INFO`
figures = logging.getLogger("figures")

DATA = os.environ.get("EVALSERVICE_TEST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="EVALSERVICE_TEST_DATA is not set: four models' answers to 1,766 prompts"
)


@dataclass(frozen=True)
class Stream:
    """Every model's reward for every prompt. quality, cost: [N, M]. source: [N], the benchmark of each prompt."""

    models: list[str]
    quality: Floats
    cost: Floats
    source: npt.NDArray[np.str_]

    def shuffled(self, seed: int) -> Stream:
        """In another order."""
        order = np.random.default_rng(seed).permutation(len(self.quality))
        return Stream(self.models, self.quality[order], self.cost[order], self.source[order])

    def of(self, *names: str) -> Stream:
        """With these models only."""
        columns = [self.models.index(name) for name in names]
        return Stream(list(names), self.quality[:, columns], self.cost[:, columns], self.source)


@cache
def four_models() -> Stream:
    """The four models of `four_models/prompts.jsonl`."""
    assert DATA is not None
    with Path(DATA, "four_models", "prompts.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    models = list(rows[0]["quality"])
    return Stream(
        models,
        np.array([[row["quality"][model] for model in models] for row in rows]),
        np.array([[row["cost_usd"][model] for model in models] for row in rows]),
        np.array([row["source"] for row in rows]),
    )


def model_means(stream: Stream) -> tuple[Floats, Floats]:
    """Estimates of quality and cost that know only the models' means. [N, M] each."""
    n = len(stream.quality)
    return np.tile(stream.quality.mean(axis=0), (n, 1)), np.tile(stream.cost.mean(axis=0), (n, 1))


def source_means(stream: Stream) -> tuple[Floats, Floats]:
    """Estimates for each prompt: the means of its benchmark's other prompts, shrunk to the models'. [N, M] each."""
    return _leave_one_out(stream.quality, stream.source), _leave_one_out(stream.cost, stream.source)


def _leave_one_out(values: Floats, groups: npt.NDArray[np.str_], weight: float = 10.0) -> Floats:
    found = np.empty_like(values)
    for group in np.unique(groups):
        own = groups == group
        found[own] = (values[own].sum(axis=0) - values[own] + weight * values.mean(axis=0)) / (own.sum() - 1 + weight)
    return found


def best_mixing(stream: Stream, budget: float) -> float:
    """The greatest mean quality of a random mixture of models that costs at most `budget` on average."""
    quality, cost = stream.quality.mean(axis=0), stream.cost.mean(axis=0)
    best = max(quality[cost <= budget], default=0.0)
    for low in np.flatnonzero(cost <= budget):
        for high in np.flatnonzero(cost > budget):
            share = (budget - cost[low]) / (cost[high] - cost[low])
            best = max(best, (1 - share) * quality[low] + share * quality[high])
    return float(best)


@dataclass(frozen=True)
class Paced:
    """How a paced stream went: the budget's used share, the mean quality, the pacer at the end."""

    used: float
    quality: float
    pacer: Pacer


def serve_paced(stream: Stream, quality: Floats, cost: Floats, pacer: Pacer, requests: int) -> Paced:
    """The first requests of a stream, each by the model of greatest estimated utility among those it can afford."""
    total = 0.0
    for k in range(requests):
        within = affordable(pacer, cost[k], 0.0).models
        utility = np.where(within, quality[k] - price(pacer, 0.0) * cost[k], -np.inf)
        chosen = int(utility.argmax())
        total += stream.quality[k, chosen]
        pacer = charge(pacer, float(stream.cost[k, chosen]), 0.0)
    return Paced(pacer.spent / requests / pacer.budget, total / requests, pacer)


def serve_learning(
    rewards: Callable[[int, int], float], beliefs: Beliefs, requests: int, rng: np.random.Generator, batch: int = 1
) -> tuple[Ints, Floats, Beliefs]:
    """Thompson sampling from beliefs that learn of each batch before the next.

    rewards: (request, model) -> quality. Gives each request's model and quality, and the beliefs at the end.
    """
    chosen, quality = np.empty(requests, dtype=np.int64), np.empty(requests)
    for start in range(0, requests, batch):
        now = posterior(beliefs)
        shares = win_shares(now.quality_mean, now.quality_sd, np.zeros(len(now.quality_mean)), price=0.0, rng=rng)
        stop = min(start + batch, requests)
        chosen[start:stop] = rng.choice(len(shares), size=stop - start, p=shares)
        quality[start:stop] = [rewards(k, int(chosen[k])) for k in range(start, stop)]
        beliefs = fold(beliefs, Outcomes.of(chosen[start:stop], quality=quality[start:stop]))
    return chosen, quality, beliefs

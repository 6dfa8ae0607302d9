"""What outcomes have taught, joined with what evaluations say: rows, errors, latencies and breakers of a snapshot.

Whoever applies outcomes (`applying`) has folded them into `selection_beliefs`; here they only meet the newest prior.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from evalservice.selection.breaker import Breaker, state_at
from evalservice.selection.learning import Beliefs, grown, posterior, with_prior
from evalservice.selection.snapshot import OVERALL, Array
from evalservice.tables import SelectionBelief, SelectionBreaker

MOST_PRIOR = 1000.0
"""Evaluations count as no more outcomes than this: they are of other requests."""
ENOUGH_LATENCIES = 30
"""Below this percentiles are the runs'."""
RATE_WEIGHT, COST_WEIGHT = 200.0, 20.0
"""So many outcomes weigh as much as the runs' error rate, and as their cost."""
USUAL_ERROR_RATE, USUAL_WEIGHT = 0.02, 20.0
"""Where no run tells: so that one failure does not shut a model out."""
MOST_READ = 1000


@dataclass(frozen=True, slots=True)
class Learned:
    """beliefs: use case → over the snapshot's M models; '' is over all use cases. latencies [3, M]: p50, p95, p99 of
    the newest outcomes; newest [M]: when the last outcome was, seconds of the epoch; breakers [M]."""

    beliefs: Mapping[str, Beliefs]
    outcomes: Array
    latencies: Array
    newest: Array
    breakers: tuple[str, ...]

    def joined(
        self, targets: dict[str, int], rows: tuple[Array, Array, Array]
    ) -> tuple[dict[str, int], tuple[Array, Array, Array]]:
        """The rows of quality, its deviation and n, with one for each use case, and overall as outcomes have it.

        A use case's prior is the benchmark or category of its name, where there is one, else overall.
        """
        targets = dict(targets)
        mean, deviation, n = ([*each] for each in rows)
        whole = targets[OVERALL]
        prior_n = np.minimum(rows[2][whole], MOST_PRIOR)
        for use_case, beliefs in self.beliefs.items():
            base = targets.get(f"benchmark:{use_case}", targets.get(f"category:{use_case}", whole))
            found = posterior(with_prior(beliefs, rows[0][base], prior_n))
            own = (found.quality_mean, found.quality_sd, found.quality_n)
            if use_case:
                targets[f"use_case:{use_case}"] = len(mean)
                for each, row in zip((mean, deviation, n), own, strict=True):
                    each.append(row)
            else:
                place = targets[OVERALL]
                for each, row in zip((mean, deviation, n), own, strict=True):
                    each[place] = np.where(np.isnan(row), each[place], row)
        return targets, (np.array(mean), np.array(deviation), np.array(n))

    def error_rate(self, measured: Array) -> Array:
        """The share of failed requests: that of outcomes, with the runs' as the weaker part the more there are."""
        if OVERALL not in self.beliefs:
            return measured
        known = self.beliefs[OVERALL]
        unmeasured = np.isnan(measured)
        base = np.where(unmeasured, USUAL_ERROR_RATE, measured)
        weight = np.where(unmeasured, USUAL_WEIGHT, RATE_WEIGHT)
        both = (known.error_sum + weight * base) / (known.success_n + weight)
        return np.where(known.success_n > 0, both, measured)

    def cost(self, measured: Array) -> Array:
        """US dollars per request, of outcomes; that of runs or declared prices weighs as much as a few of them."""
        if OVERALL not in self.beliefs:
            return measured
        known = self.beliefs[OVERALL]
        weight = np.where(np.isnan(measured), 0.0, COST_WEIGHT)
        total = known.cost_n + weight
        both = (known.cost_sum + weight * np.nan_to_num(measured)) / np.where(total > 0, total, 1.0)
        return np.where(known.cost_n > 0, both, measured)

    def latency(self, measured: Array) -> Array:
        """Percentiles [3, M], of outcomes where there are enough."""
        return np.where(np.isnan(self.latencies), measured, self.latencies)


def learned_of(session: Session, position: Mapping[uuid.UUID, int], now: float) -> Learned:
    """What is stored for the transaction's organization, over the models at their positions."""
    count = len(position)
    known = {}
    outcomes = np.zeros(count)
    for row in session.scalars(select(SelectionBelief).order_by(SelectionBelief.use_case).limit(MOST_READ)):
        beliefs = placed(Beliefs.restored(row.beliefs), row.model_ids, position)
        known[row.use_case] = beliefs
        if not row.use_case:
            outcomes = beliefs.success_n
    latencies, newest = np.full((3, count), np.nan), np.full(count, np.nan)
    breakers = ["closed"] * count
    for breaker in session.scalars(select(SelectionBreaker)):
        model = position.get(breaker.model_id)
        if model is None:
            continue
        if breaker.state:
            breakers[model] = state_at(Breaker.restored(breaker.state), now)
        if breaker.outcome_at is not None:
            newest[model] = breaker.outcome_at.timestamp()
        if len(breaker.latencies) >= ENOUGH_LATENCIES:
            latencies[:, model] = np.quantile(np.array(breaker.latencies, float), (0.5, 0.95, 0.99))
    return Learned(known, outcomes, latencies, newest, tuple(breakers))


def placed(beliefs: Beliefs, model_ids: Sequence[Any], position: Mapping[uuid.UUID, int]) -> Beliefs:
    """The beliefs in the order of `position`; nothing is known of models that they do not cover."""
    place = {str(own): index for index, own in enumerate(model_ids)}
    order = [place.get(str(own), len(beliefs)) for own in position]  # the last one is a model of which nothing is known
    wider = grown(beliefs, len(beliefs) + 1).stored()
    taken = {name: [kept[i] for i in order] if isinstance(kept, list) else kept for name, kept in wider.items()}
    return Beliefs.restored(taken)

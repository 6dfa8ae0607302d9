"""One decision: a pure function of request, snapshot, policy, seed and time.

    decision = decide(snapshot, request, policy, seed=7, now=time.time())

Eligible candidates first, then their estimates, then the policy's probabilities, then one draw with the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalservice.selection.eligibility import Eligibility, Limit, judge
from evalservice.selection.pacing import fitting
from evalservice.selection.policies import Ask, Candidates, NoneFits, Scored, explored, policy_named
from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import Array, Snapshot

FALLBACKS = 5
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A stored policy's version, or an algorithm asked for by name (id None, version None)."""

    name: str
    algorithm: str
    parameters: Mapping[str, Any]
    id: str | None = None
    version: int | None = None
    exploration: float = 0.0
    budget: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class QueryEstimates:
    """What is estimated of each model for this very request [M], instead of the snapshot's rows; NaN: nothing.

    neighbours: the evaluated test cases behind it, as they are logged. note: why there is none, where there is none.
    """

    quality: Array | None = None
    quality_sd: Array | None = None
    cost: Array | None = None
    neighbours: tuple[Mapping[str, Any], ...] = ()
    note: str = ""


NO_QUERY = QueryEstimates()


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was decided and everything that explains, logs and replays it.

    candidates, scored: over the k eligible models. chosen: an index into `eligible`, None when nothing was. order: the
    positions in `eligible` by score, the best first.
    """

    snapshot: Snapshot
    request: SelectionRequest
    policy: PolicyVersion
    seed: int
    now: float
    price: float
    allowance: float
    target: str
    eligibility: Eligibility
    candidates: Candidates
    scored: Scored | None
    chosen: int | None
    order: list[int]
    query: QueryEstimates
    misfit: NoneFits | None = None

    @property
    def eligible(self) -> NDArray[np.intp]:
        """The indices of the eligible models in the snapshot."""
        return self.eligibility.eligible

    @property
    def model(self) -> int | None:
        """The chosen model's index in the snapshot."""
        return None if self.chosen is None else int(self.eligible[self.chosen])

    @property
    def propensity(self) -> float | None:
        """The probability with which the policy chose what it chose."""
        if self.chosen is None or self.scored is None:
            return None
        return float(self.scored.probability[self.chosen])

    @property
    def score(self) -> float | None:
        """The chosen candidate's score; None where the policy gave it none."""
        if self.chosen is None or self.scored is None:
            return None
        score = float(self.scored.score[self.chosen])
        return score if score == score else None


def decide(
    snapshot: Snapshot,
    request: SelectionRequest,
    policy: PolicyVersion,
    *,
    seed: int,
    now: float,
    price: float = 0.0,
    allowance: float = math.inf,
    query: QueryEstimates = NO_QUERY,
) -> Decision:
    """Choose. seed: 63 bits, of the draw. now: seconds of the epoch.

    price, allowance: of a budget's pacing, quality per US dollar and the US dollars that this request may cost; where
    nothing costs so little the cheapest is left. Raises InvalidInput when the policy's algorithm is not known.
    """
    eligibility = judge(snapshot, request, now)
    target = snapshot.target_of(request.use_case)
    candidates = estimates(snapshot, target, eligibility.eligible, query)
    if allowance < math.inf and len(candidates):
        eligibility, candidates = _within(allowance, snapshot, eligibility, candidates)
    scored, chosen, order, misfit = None, None, [], None
    if len(eligibility.eligible):
        try:
            scored = weigh(candidates, policy, Ask(price, seed))
        except NoneFits as nothing:
            misfit = nothing
        else:
            chosen = drawn(scored.probability, seed)
            order = ranked(scored)
    return Decision(
        snapshot=snapshot,
        request=request,
        policy=policy,
        seed=seed,
        now=now,
        price=price,
        allowance=allowance,
        target=target,
        eligibility=eligibility,
        candidates=candidates,
        scored=scored,
        chosen=chosen,
        order=order,
        query=query,
        misfit=misfit,
    )


def _within(
    allowance: float, snapshot: Snapshot, eligibility: Eligibility, candidates: Candidates
) -> tuple[Eligibility, Candidates]:
    """Without the candidates that a budget has no money for now; an unknown cost is taken for the dearest."""
    kept = fitting(candidates.cost, allowance)
    if kept.all():
        return eligibility, candidates
    eligible = eligibility.eligible
    broken = eligibility.broken.copy()
    broken[eligible[~kept]] = len(eligibility.limits) + 1
    of_all = np.full(len(snapshot), np.nan)
    of_all[eligible] = candidates.cost
    limit = Limit("budget", allowance, of_all, allowance)
    left = Candidates(
        tuple(name for name, has in zip(candidates.names, kept, strict=True) if has),
        tuple(own for own, has in zip(candidates.ids, kept, strict=True) if has),
        candidates.values[:, kept],
        candidates.complete,
    )
    return Eligibility.of((*eligibility.limits, limit), broken), left


def weigh(candidates: Candidates, policy: PolicyVersion, ask: Ask) -> Scored:
    """The policy's scores and probabilities, exploration included. Raises NoneFits, InvalidInput."""
    scored = policy_named(policy.algorithm)(candidates, policy.parameters, ask)
    return explored(scored, policy.exploration) if policy.exploration else scored


def estimates(snapshot: Snapshot, target: str, eligible: NDArray[np.intp], query: QueryEstimates) -> Candidates:
    """What is known of the eligible models for this request."""
    values, complete = estimated(snapshot, target)
    if query.quality is not None:
        values = values.copy()
        complete = False
        for row, own in enumerate((query.quality, query.quality_sd, query.cost)):
            if own is not None:
                values[row] = np.where(np.isnan(own), values[row], own)
    if len(eligible) == len(snapshot):
        names, ids = snapshot.names, snapshot.ids
    else:
        values = values.take(eligible, axis=1)
        names, ids = _chosen(snapshot.names, eligible), _chosen(snapshot.ids, eligible)
    return Candidates(names, ids, values, complete or not np.isnan(values).any())


def estimated(snapshot: Snapshot, target: str) -> tuple[Array, bool]:
    """The values of all models by the snapshot alone, and whether none is missing."""
    key = ("estimates", target)
    known: tuple[Array, bool] | None = snapshot.found(key)
    return known or snapshot.remembered(key, _estimates(snapshot, target))


def _estimates(snapshot: Snapshot, target: str) -> tuple[Array, bool]:
    row = snapshot.targets[target]
    values = np.array(
        [
            snapshot.quality[row],
            snapshot.quality_sd[row],
            snapshot.cost,
            snapshot.latency[1],
            snapshot.error_rate,
            snapshot.outcomes,
        ]
    )
    return values, not np.isnan(values).any()


def _chosen(values: tuple[str, ...], indices: NDArray[np.intp]) -> tuple[str, ...]:
    if len(indices) < 2:
        return tuple(values[index] for index in indices)
    return itemgetter(*indices.tolist())(values)  # type: ignore[no-any-return]


def uniform(seed: int) -> float:
    """A number in [0, 1) from a seed: 53 bits of SplitMix64's first output (Steele, Lea and Flood 2014)."""
    z = (seed + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def drawn(probability: Array, seed: int) -> int:
    """One index with these probabilities; never one whose probability is 0."""
    certain = int(probability.argmax())
    if probability[certain] >= 1.0:
        return certain
    reached = probability.cumsum()
    index = int(np.searchsorted(reached, uniform(seed) * reached[-1], side="right"))
    return min(index, int(np.flatnonzero(probability)[-1]))


def ranked(scored: Scored) -> list[int]:
    """Positions by score, the best first; those without a score at the end, in their order."""
    order: list[int] = np.argsort(-scored.score, kind="stable").tolist()  # NaN sorts last
    return order

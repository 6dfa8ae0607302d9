"""From estimates to an explicit probability for every eligible candidate: pure functions, registered by name.

    @policy("cheapest")
    def cheapest(candidates, parameters, ask):
        return Scored.best(-candidates.cost)

Another package registers a class with `Parameters` and a static `weigh`, which is such a function, in the entry-point
group `evalservice.policies`. A policy sees only eligible candidates, so it cannot bring back one that breaks a
constraint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from evalservice.selection.policy_parameters import plugin
from evalservice.selection.snapshot import Array
from evalservice.selection.thompson import win_shares

ESTIMATES = ("quality", "quality_sd", "cost", "latency_ms", "error_rate", "outcomes")


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Estimates of k eligible candidates, in the snapshot's order; NaN: not known.

    values [6, k]: a row for each of `ESTIMATES`: quality in [0, 1] and its standard deviation, expected US dollars, p95
    in milliseconds, error rate in [0, 1], the number of outcomes behind it. complete: nothing in it is NaN.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...]
    values: Array
    complete: bool

    @property
    def quality(self) -> Array:
        """values[0]"""
        return self.values[0]  # type: ignore[no-any-return]

    @property
    def quality_sd(self) -> Array:
        """values[1]"""
        return self.values[1]  # type: ignore[no-any-return]

    @property
    def cost(self) -> Array:
        """values[2]"""
        return self.values[2]  # type: ignore[no-any-return]

    @property
    def latency(self) -> Array:
        """values[3]"""
        return self.values[3]  # type: ignore[no-any-return]

    @property
    def error_rate(self) -> Array:
        """values[4]"""
        return self.values[4]  # type: ignore[no-any-return]

    @property
    def outcomes(self) -> Array:
        """values[5]"""
        return self.values[5]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.names)

    def named(self, reference: str) -> int | None:
        """Where the candidate of that id or name@version is, or the newest of that name."""
        found = None
        for index, (name, own) in enumerate(zip(self.names, self.ids, strict=True)):
            if reference in (own, name):
                return index
            if reference == name.partition("@")[0]:
                found = index
        return found


@dataclass(frozen=True, slots=True)
class Ask:
    """What else a policy may go by: `price`, what a dollar costs in quality now (a budget's pacing, 0 without one);
    `seed`, for a policy that draws on its own."""

    price: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """score [k]: the higher the better, NaN for a candidate that is out of the policy's question; probability [k]: with
    which each is chosen. note: what a reader of the decision should know beside them, e.g. a guard rail that acts."""

    score: Array
    probability: Array
    note: str = ""

    @classmethod
    def best(cls, score: Array, note: str = "") -> Scored:
        """The highest score for certain, the first of equals."""
        probability = np.zeros(len(score))
        best = score.argmax()  # the first NaN, where there is one
        if score[best] != score[best]:
            best = np.where(np.isnan(score), -np.inf, score).argmax()
        probability[best] = 1.0
        return cls(score, probability, note)


class NoneFits(Exception):
    """The policy's own condition leaves none of the eligible candidates. constraint, limit, what the best one has."""

    def __init__(self, constraint: str, limit: float, best: float | None) -> None:
        super().__init__(constraint)
        self.constraint, self.limit, self.best = constraint, limit, best


Policy = Callable[[Candidates, Mapping[str, Any], Ask], Scored]
_OURS: dict[str, Policy] = {}


def policy(name: str) -> Callable[[Policy], Policy]:
    """Register a policy."""

    def register(function: Policy) -> Policy:
        _OURS[name] = function
        return function

    return register


@cache
def policy_named(name: str) -> Policy:
    """Raises InvalidInput (algorithm)."""
    found: Policy = _OURS.get(name) or plugin(name).weigh
    return found


def explored(scored: Scored, share: float) -> Scored:
    """The same with `share` of the probability spread evenly over all candidates."""
    if not share:
        return scored
    spread = scored.probability * (1.0 - share) + share / len(scored.probability)
    return Scored(scored.score, spread, scored.note)


@policy("weighted")
def weighted(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """The weighted mean of quality, relative cheapness and speed (the best candidate's figure over its own), and
    reliability (1 − error rate).

    What is known of no candidate weighs nothing. Where it is known of some only, the others count as the worst of
    them: an unknown is never an advantage.
    """
    weights = parameters.get("weights") or DEFAULT_WEIGHTS
    values, note = candidates.values, ""
    weight = [weights.get(name, 0.0) for name in CRITERIA]
    if not candidates.complete:
        weight, values, note = _known(weight, values)
    whole = sum(weight)
    if not whole:
        return Scored.best(_by_price(candidates), note)
    quality, cost, latency, reliability = (each / whole for each in weight)
    score = quality * values[0]
    if cost or latency:
        relative = values[2:4] + TINY
        relative = relative.min(axis=1, keepdims=True) / relative
        score += cost * relative[0]
        score += latency * relative[1]
    if reliability:
        score += reliability * (1.0 - values[4])
    if ask.price:
        score -= ask.price * values[2]
    return Scored.best(score, note)


CRITERIA = ("quality", "cost", "latency", "reliability")
DEFAULT_WEIGHTS = {"quality": 1.0, "cost": 1.0, "latency": 1.0}
TINY = 1e-12
"""Added to costs and latencies before they are divided, so that what is free is not divided by."""


def _known(weight: list[float], values: Array) -> tuple[list[float], Array, str]:
    """The weights of what is known of any candidate, the values with the worst known one where one is not known."""
    unknown = np.isnan(values)
    nowhere = np.asarray(unknown.all(axis=1)).tolist()
    known = [not nowhere[row] for row in (0, 2, 3, 4)]
    missing = [name for name, has, own in zip(CRITERIA, known, weight, strict=True) if own and not has]
    note = f"no evidence of {', '.join(missing)}" if missing else ""
    kept = [own if has else 0.0 for own, has in zip(weight, known, strict=True)]
    if not any(kept):
        return kept, values, note
    worst = np.fmax.reduce(values, axis=1)
    worst[0] = np.fmin.reduce(values[0])
    worst[np.isnan(worst)] = 0.0
    return kept, np.where(unknown, worst[:, None], values), note


def _by_price(candidates: Candidates) -> Array:
    """A score where nothing was measured: the cheapest by declared prices, those without one last."""
    return -_or_worst(candidates.cost)


def _or_worst(cost: Array) -> Array:
    """Unknown costs count as the highest known one; all as 0 where none is known."""
    highest = np.fmax.reduce(cost)
    return np.where(cost == cost, cost, highest if highest == highest else 0.0)


@policy("cheapest_above_quality")
def cheapest_above_quality(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """The cheapest of those whose lower confidence bound of quality reaches the floor; the better of equally cheap.

    Raises NoneFits. Where no candidate has any evidence of quality, that is its reason too.
    """
    bound = candidates.quality - normal_quantile(parameters["confidence"]) * candidates.quality_sd
    fits = bound >= parameters["min_quality"]
    if not fits.any():
        best = np.fmax.reduce(bound)
        raise NoneFits("min_quality", parameters["min_quality"], float(best) if best == best else None)
    cost = np.where(candidates.cost == candidates.cost, candidates.cost, np.inf)
    order = np.lexsort((-candidates.quality, np.where(fits, cost, np.inf), ~fits))
    probability = np.zeros(len(candidates))
    probability[order[0]] = 1.0
    return Scored(np.where(fits, -_or_worst(candidates.cost), np.nan), probability)


@cache
def normal_quantile(confidence: float) -> float:
    """The standard normal's quantile."""
    from scipy.stats import norm

    return float(norm.ppf(confidence))


@policy("pareto")
def pareto(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """Of the candidates that no other one beats in everything (quality, cost, latency), the one nearest to the best of
    each, the distances weighed and measured in the front's own range (compromise programming, Zeleny 1973)."""
    weights = parameters.get("weights") or DEFAULT_WEIGHTS
    axes = [
        (weights.get(name, 0.0), merit)
        for name, merit in (
            ("quality", candidates.quality),
            ("cost", -candidates.cost),
            ("latency", -candidates.latency),
            ("reliability", -candidates.error_rate),
        )
        if weights.get(name, 0.0) and not np.isnan(merit).all()
    ]
    if not axes:
        return Scored.best(_by_price(candidates), "no evidence")
    merits = np.array([np.where(merit == merit, merit, np.fmin.reduce(merit)) for _, merit in axes])
    if ask.price:
        merits[0] = merits[0] - ask.price * _or_worst(candidates.cost)
    front = pareto_front(merits)
    best = merits[:, front].max(axis=1, keepdims=True)
    span = best - merits[:, front].min(axis=1, keepdims=True)
    weight = np.array([weight for weight, _ in axes])[:, None]
    distance = (weight * np.divide(best - merits, span, out=np.zeros_like(merits), where=span > 0)).sum(axis=0)
    return Scored.best(np.where(front, -distance, np.nan), f"{int(front.sum())} of {len(candidates)} on the front")


def pareto_front(merits: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which columns of merits [axes, k] no other beats: as good everywhere and better somewhere. O(k · front)."""
    count = merits.shape[1]
    front = np.ones(count, bool)
    for index in np.lexsort(merits)[::-1]:
        if front[index]:
            own = merits[:, index : index + 1]
            beaten = (merits <= own).all(axis=0) & (merits < own).any(axis=0)
            front &= ~beaten
    return front


@policy("pinned")
def pinned(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """The named model, as long as it is eligible. Raises NoneFits."""
    index = candidates.named(parameters["model"])
    if index is None:
        raise NoneFits(f"the pinned model {parameters['model']}", 1.0, None)
    score = np.full(len(candidates), np.nan)
    score[index] = 1.0
    return Scored.best(score)


@policy("canary")
def canary(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """A share of the requests to a candidate model, the rest to the stable one; nothing to the candidate while its
    error rate over enough outcomes is above the guard rail. Where one of them is not eligible the other serves.

    Raises NoneFits when neither is eligible.
    """
    stable, tried = candidates.named(parameters["model"]), candidates.named(parameters["candidate"])
    if stable is None and tried is None:
        raise NoneFits(f"the models {parameters['model']} and {parameters['candidate']}", 1.0, None)
    share, note = parameters["share"], ""
    if tried is None:
        share, note = 0.0, "the candidate is not eligible"
    elif (
        candidates.outcomes[tried] >= parameters["min_outcomes"]
        and candidates.error_rate[tried] > parameters["max_error_rate"]
    ):
        if stable is not None:
            share = 0.0
        note = (
            f"guard rail: {candidates.error_rate[tried]:.1%} of the candidate's requests fail, "
            f"more than {parameters['max_error_rate']:.1%}"
        )
    if stable is None:
        share, note = 1.0, note or "the stable model is not eligible"
    score, probability = np.full(len(candidates), np.nan), np.zeros(len(candidates))
    for index, part in ((stable, 1.0 - share), (tried, share)):
        if index is not None:
            score[index] = part
            probability[index] += part
    return Scored(score, probability, note)


@policy("thompson")
def thompson(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """Each as often as it is the best in draws from what is known of it: the shares of wins are the probabilities. The
    score is the share. What nothing is known of is explored.

    A failed request is worth nothing, so that quality counts for the share that succeeds; where only that is known, it
    is the quality.
    """
    worth, deviation = _worth(candidates)
    shares = win_shares(
        worth,
        deviation,
        candidates.cost,
        price=parameters["cost_weight"] + ask.price,
        draws=parameters["draws"],
        rng=np.random.Generator(np.random.PCG64(ask.seed)),
    )
    return Scored(shares, shares)


def _worth(candidates: Candidates) -> tuple[Array, Array]:
    success = 1.0 - candidates.error_rate
    if np.isnan(success).all():
        return candidates.quality, candidates.quality_sd
    n = candidates.outcomes
    alone = np.isnan(candidates.quality) & (n > 0)
    doubt = np.sqrt(np.maximum(success * (1 - success), 0.0) / (n + 3.0))
    known = np.where(np.isnan(success), 1.0, success)
    worth = np.where(alone, success, candidates.quality * known)
    return worth, np.where(alone, doubt, candidates.quality_sd * known)


@policy("nearest")
def nearest(candidates: Candidates, parameters: Mapping[str, Any], ask: Ask) -> Scored:
    """The highest quality less what it costs, both as estimated for this very request where its text was given."""
    quality = candidates.quality
    if np.isnan(quality).all():
        return Scored.best(_by_price(candidates), "no evidence of quality")
    price = parameters["cost_weight"] + ask.price
    return Scored.best(quality - price * _or_worst(candidates.cost) if price else quality)

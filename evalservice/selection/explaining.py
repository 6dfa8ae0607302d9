"""Why this model, in one sentence: what won, what nearly won, what would have flipped the choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evalservice.selection.policies import DEFAULT_WEIGHTS, normal_quantile

if TYPE_CHECKING:
    from evalservice.selection.deciding import Decision


def explanation(decision: Decision) -> str:
    """The decision in plain words."""
    if decision.chosen is None or decision.scored is None:
        return _nothing(decision)
    chosen, candidates = decision.chosen, decision.candidates
    parts = [f"{candidates.names[chosen]} by {decision.policy.name}: {_why(decision, chosen)}"]
    probability = decision.scored.probability.item(chosen)
    if probability < 1.0:
        parts.append(f"drawn with probability {probability:.3g}")
    rival = next((index for index in decision.order if index != chosen), None)
    if rival is not None:
        parts.append(_rival(decision, chosen, rival))
    if len(decision.eligible) < len(decision.snapshot):
        parts.append(_rejections(decision))
    for note in (decision.scored.note, decision.query.note):
        if note:
            parts.append(note)
    return "; ".join(parts)


def facts(decision: Decision, index: int) -> str:
    """What is known of a candidate, e.g. `quality 0.912 ± 0.013, $0.0004, p95 320 ms`."""
    quality, deviation, cost, latency, _, _ = decision.candidates.values[:, index].tolist()
    known = f"quality {quality:.3f} ± {deviation:.3f}" if quality == quality else "no evidence"
    if cost == cost:
        known += f", ${cost:.3g}"
    if latency == latency:
        known += f", p95 {latency:.0f} ms"
    return known


def _why(decision: Decision, chosen: int) -> str:
    assert decision.scored is not None
    said = facts(decision, chosen)
    algorithm = decision.policy.algorithm
    if algorithm == "cheapest_above_quality":
        return f"the cheapest with quality of at least {decision.policy.parameters['min_quality']:g} ({said})"
    if algorithm in ("pinned", "canary"):
        return f"{algorithm} ({said})"
    if not decision.candidates.complete and np.isnan(decision.candidates.quality).all():
        return f"no evidence of quality, so by price and declared capabilities ({said})"
    score = decision.scored.score.item(chosen)
    best = chosen == decision.order[0]
    return f"{'the best score' if best else 'score'} {score:.3f} ({said})" if score == score else said


def _rival(decision: Decision, chosen: int, rival: int) -> str:
    assert decision.scored is not None
    name = decision.candidates.names[rival]
    score = decision.scored.score
    gap = score.item(chosen) - score.item(rival)
    algorithm, parameters = decision.policy.algorithm, decision.policy.parameters
    if algorithm == "cheapest_above_quality":
        if gap == gap:
            return f"next is {name}, ${gap:.3g} dearer"
        short = parameters["min_quality"] - _bound(decision, rival)
        return f"next is {name}, {short:.3f} of quality below the floor" if short == short else f"next is {name}"
    if math.isnan(gap) or algorithm in ("pinned", "canary"):
        return f"else {name}"
    if algorithm == "weighted":
        weights = parameters.get("weights") or DEFAULT_WEIGHTS
        share = weights.get("quality", 0.0) / (sum(weights.values()) or 1.0)
        if share and gap >= 0:
            return f"next is {name} ({gap:.3f} lower), which would win with {gap / share:.3f} more quality"
    return f"next is {name}, {gap:.3f} lower" if gap >= 0 else f"{name} scores {-gap:.3f} higher"


def _bound(decision: Decision, index: int) -> float:
    candidates = decision.candidates
    z = normal_quantile(decision.policy.parameters["confidence"])
    return float(candidates.quality[index] - z * candidates.quality_sd[index])


def _rejections(decision: Decision) -> str:
    counts = np.bincount(decision.eligibility.broken, minlength=len(decision.eligibility.limits) + 1).tolist()
    each = ", ".join(
        f"{count} by {limit.constraint}"
        for limit, count in zip(decision.eligibility.limits, counts[1:], strict=False)
        if count
    )
    return f"{len(decision.snapshot) - counts[0]} of {len(decision.snapshot)} rejected: {each}"


def _nothing(decision: Decision) -> str:
    if not len(decision.snapshot):
        return "nothing is eligible: there are no models"
    if decision.misfit is not None:
        misfit = decision.misfit
        best = "none has evidence" if misfit.best is None else f"the best has {misfit.best:.3f}"
        return f"nothing fits {decision.policy.name}: {misfit.constraint} {misfit.limit:g}, {best}"
    return f"nothing is eligible: {_rejections(decision)}"

"""A decision made again from its log: the same estimates, parameters and seed give the same choice bit for bit.

The log has what the policy saw of each eligible model; rejected ones are held against the limit that they broke.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evalservice.errors import Conflict
from evalservice.selection.deciding import PolicyVersion, drawn, weigh
from evalservice.selection.policies import ESTIMATES, Ask, Candidates, NoneFits, Scored
from evalservice.selection.schemas import Replay
from evalservice.tables import ModelSelectionLog


def replayed(row: ModelSelectionLog) -> Replay:
    """Raises Conflict for a row without what a replay needs."""
    decided_by = row.request.get("decided_by")
    if not decided_by or row.seed is None:
        raise Conflict(f"selection: {row.id} was logged without its policy's parameters or its seed")
    eligible = in_order([each for each in row.candidate_models if "rejected" not in each])
    rejected = [each for each in row.candidate_models if "rejected" in each]
    differences = [difference for each in rejected for difference in _still_rejected(each)]
    policy = PolicyVersion(
        row.policy_name,
        decided_by["algorithm"],
        decided_by["parameters"],
        exploration=float(decided_by["parameters"].get("exploration", 0.0)),
    )
    scored = _weighed(eligible, policy, Ask(float(row.metadata_.get("price") or 0.0), row.seed))
    chosen = None if scored is None else drawn(scored.probability, row.seed)
    model_id = None if chosen is None else eligible[chosen]["model_id"]
    propensity = None if chosen is None or scored is None else float(scored.probability[chosen])
    score = None if chosen is None or scored is None else _or_none(float(scored.score[chosen]))
    logged = None if row.selected_model_id is None else str(row.selected_model_id)
    for name, own, was in (
        ("selected_model_id", model_id, logged),
        ("propensity", propensity, row.propensity),
        ("score", score, row.selection_score),
    ):
        if own != was:
            differences.append(f"{name}: {own!r} now, {was!r} in the log")
    if scored is not None:
        differences += _probabilities(eligible, scored)
    return Replay(
        id=row.id,
        same=not differences,
        selected_model_id=model_id,
        propensity=propensity,
        score=score,
        differences=differences[:20],
    )


def probabilities(
    algorithm: str, parameters: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], *, price: float = 0.0
) -> list[float]:
    """What a policy would give each of these eligible candidates, as they are logged; zeros where none fits it."""
    policy = PolicyVersion(algorithm, algorithm, parameters, exploration=float(parameters.get("exploration", 0.0)))
    ordered = in_order(candidates)
    scored = _weighed(ordered, policy, Ask(price, 0))
    shares = [0.0] * len(ordered) if scored is None else scored.probability.tolist()
    own = {each["model_id"]: share for each, share in zip(ordered, shares, strict=True)}
    return [own[each["model_id"]] for each in candidates]


def in_order(candidates: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As a snapshot has them, by id: of equals a policy takes the first."""
    return sorted(candidates, key=lambda each: str(each["model_id"]))


def _weighed(eligible: Sequence[Mapping[str, Any]], policy: PolicyVersion, ask: Ask) -> Scored | None:
    if not eligible:
        return None
    values = np.array([[_number(each.get(name)) for each in eligible] for name in ESTIMATES], dtype=np.float64)
    names, ids = (tuple(str(each[key]) for each in eligible) for key in ("name", "model_id"))
    try:
        return weigh(Candidates(names, ids, values, not np.isnan(values).any()), policy, ask)
    except NoneFits:
        return None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _or_none(value: float) -> float | None:
    return value if value == value else None


def _still_rejected(each: Mapping[str, Any]) -> list[str]:
    rejected = each["rejected"]
    value, limit = rejected["value"], rejected["limit"]
    if isinstance(limit, dict):
        value, limit = (-value if isinstance(value, float) else value), -limit["value"]
    if isinstance(value, int | float) and isinstance(limit, int | float) and value <= limit:
        return [f"{each['name']}: {rejected['constraint']} {value!r} is within {limit!r}"]
    return []


def _probabilities(eligible: Sequence[Mapping[str, Any]], scored: Scored) -> list[str]:
    return [
        f"probability of {each['name']}: {own!r} now, {each['probability']!r} in the log"
        for each, own in zip(eligible, scored.probability.tolist(), strict=True)
        if own != each["probability"]
    ]

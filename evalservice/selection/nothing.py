"""When nothing is eligible: which constraint emptied the set, and what relaxing it would give."""

from __future__ import annotations

from typing import Any

import numpy as np

from evalservice.errors import NothingEligible
from evalservice.selection.deciding import Decision
from evalservice.selection.eligibility import Limit, kept_by

SHOWN = 5


def why_nothing(decision: Decision, selection_id: str, words: str) -> NothingEligible:
    """The error, with a relaxation for each constraint that alone keeps models out, the one that lets in most first."""
    kept = kept_by(decision.snapshot, decision.eligibility)  # [limits, M]
    found = []
    for index, limit in enumerate(decision.eligibility.limits):
        others = np.delete(kept, index, axis=0).all(axis=0) if len(kept) > 1 else np.ones(kept.shape[1], bool)
        models = np.flatnonzero(others & ~kept[index])
        entry: dict[str, Any] = {
            "constraint": limit.constraint,
            "limit": limit.limit,
            "rejected": int((~kept[index]).sum()),
            "eligible_without": len(models),
            "models": [decision.snapshot.names[model] for model in models[:SHOWN]],
        }
        nearest = _nearest(limit, models)
        if nearest is not None:
            entry["eligible_at"] = nearest
        if entry["rejected"]:
            found.append(entry)
    if decision.misfit is not None:
        misfit = decision.misfit
        found.insert(0, {"constraint": misfit.constraint, "limit": misfit.limit, "eligible_at": misfit.best})
    found.sort(key=lambda entry: -entry.get("eligible_without", len(decision.snapshot)))
    return NothingEligible(words, selection_id, found)


def _nearest(limit: Limit, models: np.ndarray[Any, Any]) -> float | None:
    """The limit at which the first of them would be let in; None where that is no number."""
    if limit.values is None or limit.given or not len(models):
        return None
    values = limit.values[models]
    nearest = np.fmin.reduce(values)
    if nearest != nearest:
        return None
    return float(-nearest if limit.constraint == "min_quality" else nearest)

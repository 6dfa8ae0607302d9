"""A decision as JSON: the answer to the caller and what the log keeps, from the same list of candidates.

{"model_id": "0197…", "name": "gpt@1.0.0", "score": 0.83, "probability": 1.0, "quality": 0.91, "quality_sd": 0.01,
 "cost": 0.0004, "latency_ms": 320.0, "error_rate": 0.0, "outcomes": 12.0}
{"model_id": "0197…", "name": "tiny@1.0.0", "rejected": {"constraint": "max_cost", "value": 0.02, "limit": 0.01}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from evalservice.selection.deciding import FALLBACKS, Decision


def candidates_json(decision: Decision) -> bytes:
    """Every candidate, the eligible ones by score, then the rejected ones in the snapshot's order."""
    return orjson.dumps([*_eligible(decision), *_rejected(decision)])


def _eligible(decision: Decision) -> list[dict[str, Any]]:
    candidates, scored = decision.candidates, decision.scored
    if not len(candidates):
        return []
    order = decision.order or list(range(len(candidates)))
    ids, names = candidates.ids, candidates.names
    numbers = candidates.values.take(order, axis=1).tolist()  # NaN becomes null in orjson
    scores = [None] * len(order) if scored is None else scored.score.take(order).tolist()
    probabilities = [0.0] * len(order) if scored is None else scored.probability.take(order).tolist()
    return [
        {
            "model_id": ids[index],
            "name": names[index],
            "score": score,
            "probability": probability,
            "quality": quality,
            "quality_sd": deviation,
            "cost": cost,
            "latency_ms": latency,
            "error_rate": errors,
            "outcomes": outcomes,
        }
        for index, score, probability, quality, deviation, cost, latency, errors, outcomes in zip(
            order, scores, probabilities, *numbers, strict=True
        )
    ]


def _rejected(decision: Decision) -> Iterator[dict[str, Any]]:
    snapshot, limits = decision.snapshot, decision.eligibility.limits
    broken = decision.eligibility.broken.tolist()
    for index, number in enumerate(broken):
        if number:
            limit = limits[number - 1]
            yield {
                "model_id": snapshot.ids[index],
                "name": snapshot.names[index],
                "rejected": {
                    "constraint": limit.constraint,
                    "value": limit.value_of(index),
                    "limit": limit.limit,
                },
            }


def answer_json(
    decision: Decision, selection_id: str, explanation: str, candidates: bytes, warnings: tuple[str, ...]
) -> bytes:
    """The answer's body. `warnings`: what the caller should know of the service's state, e.g. a stale snapshot."""
    snapshot, model = decision.snapshot, decision.model
    fallbacks = [] if decision.scored is None else [index for index in decision.order if index != decision.chosen]
    age = max(0.0, decision.now - snapshot.read_at)
    return orjson.dumps(
        {
            "id": selection_id,
            "selected": None if model is None else orjson.Fragment(snapshot.models[model].call),
            "fallbacks": [
                orjson.Fragment(snapshot.models[int(decision.eligible[index])].call) for index in fallbacks[:FALLBACKS]
            ],
            "score": decision.score,
            "propensity": decision.propensity,
            "explanation": explanation,
            "policy": {
                "name": decision.policy.name,
                "version": decision.policy.version,
                "algorithm": decision.policy.algorithm,
            },
            "evidence": decision.target or "overall",
            "seed": decision.seed,
            "snapshot": {"version": snapshot.version, "age_seconds": round(age, 3)},
            "warnings": warnings,
            "decided_at": datetime.fromtimestamp(decision.now, UTC).isoformat(),
            "candidates": orjson.Fragment(candidates),
        }
    )


def text_hash(decision: Decision) -> str:
    """SHA-256 of the request's text; "" where there is none."""
    given = decision.request.text
    return "" if given is None else hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()


def request_json(decision: Decision) -> bytes:
    """The request without its text, and the parameters that decided, so that the decision can be made again."""
    policy = decision.policy
    asked = decision.request.model_dump(mode="json", exclude={"text"}, exclude_defaults=True)
    return orjson.dumps({**asked, "decided_by": {"algorithm": policy.algorithm, "parameters": policy.parameters}})

"""A decision as JSON: the answer to the caller and what the log keeps, from the same list of candidates.

{"model_id": "0197…", "name": "gpt@1.0.0", "score": 0.83, "probability": 1.0, "quality": 0.91, "quality_sd": 0.01,
 "cost": 0.0004, "latency_ms": 320.0, "error_rate": 0.0, "outcomes": 12.0}
{"model_id": "0197…", "name": "tiny@1.0.0", "rejected": {"constraint": "max_cost", "value": 0.02, "limit": 0.01}}
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from evalservice.selection.deciding import FALLBACKS, Decision, estimated
from evalservice.selection.eligibility import NO_EVIDENCE, Limit
from evalservice.selection.policies import ESTIMATES
from evalservice.selection.snapshot import Array, Snapshot


def candidates_json(decision: Decision) -> bytes:
    """Every candidate, the eligible ones by score, then the rejected ones in the snapshot's order.

    What does not hang on the request is written once for a snapshot: to write it again takes as long as to decide.
    """
    return b"[" + b"".join([*_eligible(decision), *_rejected(decision)])[1:] + b"]"


def _eligible(decision: Decision) -> list[bytes]:
    candidates, scored, snapshot = decision.candidates, decision.scored, decision.snapshot
    if not len(candidates):
        return []
    order = decision.order or list(range(len(candidates)))
    models = decision.eligible.take(order).tolist()
    heads = _heads(snapshot)
    if decision.query.quality is None:
        key = ("estimates as JSON", decision.target)
        every = snapshot.found(key) or snapshot.remembered(key, _tails(estimated(snapshot, decision.target)[0]))
        tails = [every[model] for model in models]
    else:
        tails = _tails(candidates.values.take(order, axis=1))
    none = itertools.repeat(b"null", len(order)), itertools.repeat(b"0.0", len(order))
    scores, probabilities = (
        none if scored is None else (_numbers(scored.score, order), _numbers(scored.probability, order))
    )
    parts: list[bytes] = []
    for model, score, probability, tail in zip(models, scores, probabilities, tails, strict=True):
        parts += (heads[model], b'"score":', score, b',"probability":', probability, tail)
    return parts


def _heads(snapshot: Snapshot) -> list[bytes]:
    """Of each model what its candidate begins with."""
    found: list[bytes] | None = snapshot.found("heads")
    if found is None:
        both = zip(snapshot.ids, snapshot.names, strict=True)
        own = [b"," + orjson.dumps({"model_id": own, "name": name})[:-1] + b"," for own, name in both]
        found = snapshot.remembered("heads", own)
    return found


def _tails(values: Array) -> list[bytes]:
    """Of each column of estimates what its candidate ends with; NaN becomes null."""
    return [b"," + orjson.dumps(dict(zip(ESTIMATES, column, strict=True)))[1:] for column in values.T.tolist()]


def _numbers(values: Array, order: list[int]) -> list[bytes]:
    """As JSON, in this order; NaN becomes null."""
    return orjson.dumps(values.take(order), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _rejected(decision: Decision) -> Iterator[bytes]:
    if len(decision.eligible) == len(decision.snapshot):
        return
    heads, limits = _heads(decision.snapshot), decision.eligibility.limits
    said: dict[int, tuple[bytes, Sequence[Any], bytes]] = {}
    for model, number in enumerate(decision.eligibility.broken.tolist()):
        if number:
            if number not in said:
                said[number] = _limit(limits[number - 1])
            begin, values, end = said[number]
            value = values[model]
            yield heads[model] + begin + orjson.dumps(value if value == value else NO_EVIDENCE) + end


def _limit(limit: Limit) -> tuple[bytes, Sequence[Any], bytes]:
    """What a rejection says before the model's own value, every model's value, and what it says after it."""
    begin = b'"rejected":' + orjson.dumps({"constraint": limit.constraint})[:-1] + b',"value":'
    return begin, limit.given or limit.numbers(), b',"limit":' + orjson.dumps(limit.limit) + b"}}"


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

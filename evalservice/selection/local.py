"""A decision on a snapshot that was fetched: as the service would have made it, with its answer and its row in the log.

    decided = decide_locally(evidence, b'{"use_case": "qa"}', own=str(uuid7()), seed=7, now=time.time(), age=3.2)

No database. Shadows do not decide along, and what needs the service says so in the warnings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from evalservice.errors import NothingEligible
from evalservice.selection.answers import answer_json, candidates_json, request_json, text_hash
from evalservice.selection.budgets import Budgets
from evalservice.selection.deciding import NO_QUERY, Decision, PolicyVersion, QueryEstimates, decide
from evalservice.selection.explaining import explanation
from evalservice.selection.nothing import why_nothing
from evalservice.selection.policies_in_use import Policies, served
from evalservice.selection.request import SelectionRequest, parsed
from evalservice.selection.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What decisions are made from; budgets: what this process has spent of them."""

    snapshot: Snapshot
    policies: Policies
    budgets: Budgets = field(default_factory=Budgets)


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """answer: as `POST /v1/selections` gives it, empty where nothing was eligible. logged: the row of the log as
    `POST /v1/selections/log` takes it. nothing: the error to raise, where no model was eligible."""

    answer: bytes
    logged: bytes
    nothing: NothingEligible | None


def decide_locally(
    evidence: Evidence, body: bytes, *, own: str, seed: int, now: float, age: float, reason: str = ""
) -> Decided:
    """Decide a request, the body of `POST /v1/selections`.

    own: the selection's id. now: seconds of the epoch. age: of the evidence, in seconds. reason: why the service did
    not decide, "" where it was not asked. Raises InvalidInput, Conflict.
    """
    request = parsed(SelectionRequest, body, "selection")
    policy = served(evidence.policies, request, seed).policy
    pace = evidence.budgets.pace(policy, now)
    decision = decide(
        evidence.snapshot,
        request,
        policy,
        seed=seed,
        now=now,
        price=pace.price,
        allowance=pace.allowance,
        query=_query(policy),
    )
    evidence.budgets.charge(decision, own)
    words, candidates = explanation(decision), candidates_json(decision)
    logged = _logged(decision, own, words, candidates)
    if decision.chosen is None:
        return Decided(b"", logged, why_nothing(decision, own, words))
    return Decided(answer_json(decision, own, words, candidates, _warnings(policy, age, reason)), logged, None)


def _query(policy: PolicyVersion) -> QueryEstimates:
    if policy.algorithm != "nearest":
        return NO_QUERY
    return QueryEstimates(note="decided locally, where there are no evaluated test cases, so by the evaluations alone")


def _warnings(policy: PolicyVersion, age: float, reason: str) -> tuple[str, ...]:
    warnings = [f"decided locally on evidence {max(age, 0.0):.0f} s old" + (f": {reason}" if reason else "")]
    if policy.algorithm == "nearest":
        warnings.append("the text was not read: only the service has the evaluated test cases")
    if "usd_per_day" in policy.budget:
        warnings.append(f"the daily budget of {policy.name} is paced by this process alone")
    return tuple(warnings)


def _logged(decision: Decision, own: str, words: str, candidates: bytes) -> bytes:
    request, policy, snapshot, model = decision.request, decision.policy, decision.snapshot, decision.model
    text = request.text
    return orjson.dumps(
        {
            "id": own,
            "selected_model_id": None if model is None else snapshot.ids[model],
            "selection_score": decision.score,
            "selection_explanation": words,
            "propensity": decision.propensity,
            "policy_id": policy.id,
            "policy_name": policy.name,
            "policy_version": policy.version,
            "seed": decision.seed,
            "snapshot_version": snapshot.version,
            "snapshot_at": _time(snapshot.read_at),
            "candidate_models": orjson.Fragment(candidates),
            "request": orjson.Fragment(request_json(decision)),
            "request_hash": text_hash(decision),
            "request_text": text if request.store_text else None,
            "price": decision.price,
            "allowance": decision.allowance,
            "evidence": decision.target,
            "decided_at": _time(decision.now),
        }
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()

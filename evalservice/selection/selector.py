"""The router of one process: snapshots, policies, budgets and the log, behind `select`.

selector = Selector(engine)
answer = selector.select(state, who, request)        # no await, no database: some 0.1 ms
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import orjson
from pydantic import BaseModel
from sqlalchemy import Engine
from uuid_utils.compat import uuid7

from evalservice.errors import NothingEligible, Unavailable
from evalservice.selection.answers import answer_json, candidates_json
from evalservice.selection.budgets import UNBOUNDED, Budgets
from evalservice.selection.deciding import NO_QUERY, Decision, PolicyVersion, QueryEstimates, decide
from evalservice.selection.decisions import DecisionLog, Record
from evalservice.selection.explaining import explanation
from evalservice.selection.keeper import STALE_SECONDS, Keeper, State
from evalservice.selection.nothing import why_nothing
from evalservice.selection.request import SelectionRequest
from evalservice.selection.stored_policies import served

Nearby = Callable[[uuid.UUID, str, str, State], QueryEstimates]
"""(organization, text, embedder, state) → what evaluated test cases like the text say of each model."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whose decision it is."""

    organization_id: uuid.UUID
    user_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Answer:
    """body: the JSON that the caller gets. stored: resolved once the decision is in Postgres, where that was asked for.
    nothing: the error to answer with, where no model was eligible; the decision is logged all the same."""

    id: uuid.UUID
    body: bytes
    decision: Decision
    stored: Future[None] | None = None
    nothing: NothingEligible | None = None


class Selector:
    """What a process decides with. `start` keeps its evidence fresh; `close` drains its log."""

    def __init__(
        self,
        engine: Engine,
        *,
        nearby: Nearby | None = None,
        clock: Callable[[], float] = time.time,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.keeper = Keeper(engine, clock)
        self.log = DecisionLog(engine, on_lost=on_lost)
        self.budgets = Budgets()
        self._clock, self._nearby = clock, nearby
        self._own = uuid.uuid4().hex[:12]
        self._count = 0
        self._random = random.Random()  # draws need no secret, and the system's randomness takes as long as a decision

    def start(self) -> None:
        """Refresh evidence in the background."""
        self.keeper.start()

    def close(self, timeout: float = 10.0) -> int:
        """Stop refreshing, store what was decided; gives how many decisions could not be stored."""
        self.keeper.stop()
        return self.log.close(timeout)

    def select(self, state: State, who: Who, request: SelectionRequest) -> Answer:
        """Decide and log. Raises InvalidInput, Conflict, and Unavailable when a durable decision cannot be kept."""
        seed = self._random.getrandbits(63) if request.seed is None else request.seed
        now = self._clock()
        chosen = served(state.policies, request, seed)
        for shadow in chosen.shadows:
            self._shadowed(state, who, request, shadow, seed, now)
        decision = self._decided(state, who, request, chosen.policy, seed, now)
        if decision.model is not None and state.snapshot.breakers[decision.model] == "half-open":
            self.keeper.probed(who.organization_id, state.snapshot.ids[decision.model])
        words = explanation(decision)
        candidates = candidates_json(decision)
        own = uuid7()
        stored: Future[None] | None = Future() if request.durable else None
        kept = self.log.add(self._record(own, who, decision, words, candidates, shadow=False), stored)
        if request.durable and not kept:
            raise Unavailable("the log of decisions is full because Postgres does not answer: try again in a moment")
        nothing = None
        body = b""
        if decision.chosen is None:
            nothing = why_nothing(decision, str(own), words)
        else:
            body = answer_json(decision, str(own), words, candidates, self._warnings(state, now, kept))
        return Answer(own, body, decision, stored, nothing)

    def _decided(
        self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion, seed: int, now: float
    ) -> Decision:
        query = NO_QUERY
        if policy.algorithm == "nearest":
            query = self._neighbours(state, who, request, policy)
        pace = self.budgets.pace(policy, now) if policy.budget else UNBOUNDED
        decision = decide(
            state.snapshot, request, policy, seed=seed, now=now, price=pace.price, allowance=pace.allowance, query=query
        )
        if policy.budget and decision.chosen is not None:
            self.budgets.charge(policy, float(decision.candidates.cost[decision.chosen]), now)
        return decision

    def _neighbours(self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion) -> QueryEstimates:
        if request.text is None:
            return QueryEstimates(note="no text was given, so by the evaluations alone")
        if self._nearby is None:
            return QueryEstimates(note="no evaluated test cases are at hand, so by the evaluations alone")
        return self._nearby(who.organization_id, request.text, policy.parameters["embedder"], state)

    def _shadowed(
        self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion, seed: int, now: float
    ) -> None:
        """What a shadow would have decided, logged and not served; its budget is its own."""
        decision = self._decided(state, who, request, policy, seed, now)
        record = self._record(uuid7(), who, decision, explanation(decision), candidates_json(decision), shadow=True)
        self.log.add(record)

    def _warnings(self, state: State, now: float, kept: bool) -> tuple[str, ...]:
        warnings = []
        age = now - state.snapshot.read_at
        if state.problem or age > STALE_SECONDS:
            warnings.append(f"the evidence is {max(age, 0.0):.0f} s old: {state.problem or 'it was not refreshed'}")
        if not kept:
            warnings.append("this decision is not logged: the log is full because Postgres does not answer")
        return tuple(warnings)

    def _record(
        self, own: uuid.UUID, who: Who, decision: Decision, words: str, candidates: bytes, *, shadow: bool
    ) -> Record:
        request, policy, model = decision.request, decision.policy, decision.model
        text = request.text
        self._count += 1
        return Record(
            id=own,
            organization_id=who.organization_id,
            created_by_id=who.user_id,
            use_case=request.use_case,
            capabilities=orjson.dumps(request.required_capabilities),
            constraints=_given(request.constraints),
            selected_model_id=None if model is None else decision.snapshot.ids[model],
            candidates=candidates,
            algorithm=policy.algorithm,
            score=decision.score,
            explanation=words,
            propensity=decision.propensity,
            policy_id=policy.id,
            policy_name=policy.name,
            policy_version=policy.version,
            is_shadow=shadow,
            seed=decision.seed,
            snapshot_version=decision.snapshot.version,
            snapshot_at=decision.snapshot.read_at,
            request=_asked(request, policy),
            request_hash="" if text is None else hashlib.sha256(text.encode()).hexdigest(),
            request_text=text if request.store_text else None,
            neighbours=orjson.dumps(decision.query.neighbours),
            metadata=orjson.dumps(
                {
                    "price": decision.price,
                    "allowance": decision.allowance,
                    "evidence": decision.target,
                    "replica": self._own,
                    "number": self._count,
                }
            ),
            decided_at=decision.now,
        )


def _given(asked: BaseModel) -> bytes:
    """What was given of it, as JSON."""
    return asked.model_dump_json(exclude_defaults=True).encode() if asked.model_fields_set else b"{}"


def _asked(request: SelectionRequest, policy: PolicyVersion) -> bytes:
    """The request without its text, and the parameters that decided, so that the decision can be made again."""
    asked = request.model_dump_json(exclude={"text"}, exclude_defaults=True).encode()
    decided_by = orjson.dumps({"algorithm": policy.algorithm, "parameters": policy.parameters})
    return b"".join((asked[:-1], b"," if len(asked) > 2 else b"", b'"decided_by":', decided_by, b"}"))

"""The router of one process: snapshots, policies, budgets and the log, behind `select`.

selector = Selector(engine)
answer = selector.select(state, who, request)        # no await, no database: some 0.1 ms
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Engine
from uuid_utils.compat import uuid7

from evalservice.errors import NothingEligible, Unavailable
from evalservice.selection.answers import answer_json, candidates_json
from evalservice.selection.budgets import UNBOUNDED, Budgets
from evalservice.selection.deciding import NO_QUERY, Decision, PolicyVersion, QueryEstimates, decide
from evalservice.selection.decisions import DecisionLog, Record, Who
from evalservice.selection.explaining import explanation
from evalservice.selection.keeper import STALE_SECONDS, Keeper, State
from evalservice.selection.nearby import Nearby
from evalservice.selection.nothing import why_nothing
from evalservice.selection.policies_in_use import served
from evalservice.selection.request import SelectionRequest


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
        clock: Callable[[], float] = time.time,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.keeper = Keeper(engine, clock)
        self.log = DecisionLog(engine, on_lost=on_lost)
        self.budgets = Budgets()
        self.nearby = Nearby(engine)
        self._clock = clock
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
        record = self._record(who, decision, words, candidates)
        stored: Future[None] | None = Future() if request.durable else None
        kept = self.log.add(record, stored)
        if request.durable and not kept:
            raise Unavailable("the log of decisions is full because Postgres does not answer: try again in a moment")
        nothing = None
        body = b""
        own = str(record.id)
        if decision.chosen is None:
            nothing = why_nothing(decision, own, words)
        else:
            body = answer_json(decision, own, words, candidates, self._warnings(state, now, kept))
        return Answer(record.id, body, decision, stored, nothing)

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
        embedder = policy.parameters["embedder"]
        if not self.keeper.refreshes:
            self.nearby.build(who.organization_id, embedder)  # nobody waits for this process but the one who asks
        return self.nearby.estimates(who.organization_id, request.text, request.use_case, embedder, state.snapshot)

    def _shadowed(
        self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion, seed: int, now: float
    ) -> None:
        """What a shadow would have decided, logged and not served; its budget is its own."""
        decision = self._decided(state, who, request, policy, seed, now)
        self.log.add(self._record(who, decision, explanation(decision), None, shadow=True))

    def _warnings(self, state: State, now: float, kept: bool) -> tuple[str, ...]:
        warnings = []
        age = now - state.snapshot.read_at
        if state.problem or age > STALE_SECONDS:
            warnings.append(f"the evidence is {max(age, 0.0):.0f} s old: {state.problem or 'it was not refreshed'}")
        if not kept:
            warnings.append("this decision is not logged: the log is full because Postgres does not answer")
        return tuple(warnings)

    def _record(
        self, who: Who, decision: Decision, words: str, candidates: bytes | None, *, shadow: bool = False
    ) -> Record:
        self._count += 1
        return Record(uuid7(), who, decision, words, shadow, self._own, self._count, candidates)

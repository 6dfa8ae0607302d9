"""The router of one process: snapshots, policies, budgets and the log, behind `select`.

selector = Selector(engine)
answer = selector.select(state, who, request)        # no await, no database: some 0.1 ms
"""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from evalservice.errors import NothingEligible, Unavailable
from evalservice.selection.answers import answer_json, candidates_json
from evalservice.selection.budgets import Budgets
from evalservice.selection.deciding import NO_QUERY, Decision, PolicyVersion, QueryEstimates, decide
from evalservice.selection.decisions import DecisionLog, Record, Who, store_rows
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
        self._numbers = itertools.count(1)
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
        record, shadows = self._made(state, who, request)
        stored: Future[None] | None = Future() if request.durable else None
        kept = self.log.add(record, stored)
        if request.durable and not kept:
            raise Unavailable("the log of decisions is full because Postgres does not answer: try again in a moment")
        for shadow in shadows:
            self.log.add(shadow)
        return self._answer(state, record, stored, kept)

    def select_in(self, session: Session, state: State, who: Who, request: SelectionRequest) -> Answer:
        """Decide, and store the decision in this transaction of the organization's. Raises as `select`.

        Where nothing is eligible the transaction is about to be rolled back: that decision goes to the log.
        """
        record, shadows = self._made(state, who, request)
        if record.decision.chosen is None:
            return self._answer(state, record, None, self.log.add(record))
        store_rows(session, who.organization_id, [each.row() for each in (record, *shadows)])
        return self._answer(state, record, None, True)

    def _made(self, state: State, who: Who, request: SelectionRequest) -> tuple[Record, list[Record]]:
        """What is decided, and what shadows would have decided; the budgets of these are their own."""
        seed = self._random.getrandbits(63) if request.seed is None else request.seed
        now = self._clock()
        chosen = served(state.policies, request, seed)
        decision = self._decided(state, who, request, chosen.policy, seed, now)
        record = self._record(who, decision, candidates_json(decision))
        shadows = []
        for policy in chosen.shadows:
            along = self._decided(state, who, request, policy, seed, now)
            shadows.append(self._record(who, along, None, shadow=True))
            self.budgets.charge(along, str(shadows[-1].id))
        return record, shadows

    def _answer(self, state: State, record: Record, stored: Future[None] | None, kept: bool) -> Answer:
        """From here on the decision counts: its budget is charged, its probe is used."""
        decision, own = record.decision, str(record.id)
        self.budgets.charge(decision, own)
        if decision.model is not None and state.snapshot.breakers[decision.model] == "half-open":
            self.keeper.probed(record.who.organization_id, state.snapshot.ids[decision.model])
        if decision.chosen is None:
            return Answer(record.id, b"", decision, stored, why_nothing(decision, own, record.explanation))
        assert record.candidates is not None
        warnings = self._warnings(state, decision, kept)
        body = answer_json(decision, own, record.explanation, record.candidates, warnings)
        return Answer(record.id, body, decision, stored)

    def _decided(
        self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion, seed: int, now: float
    ) -> Decision:
        query = NO_QUERY
        if policy.algorithm == "nearest":
            query = self._neighbours(state, who, request, policy)
        pace = self.budgets.pace(policy, now)
        return decide(
            state.snapshot, request, policy, seed=seed, now=now, price=pace.price, allowance=pace.allowance, query=query
        )

    def _neighbours(self, state: State, who: Who, request: SelectionRequest, policy: PolicyVersion) -> QueryEstimates:
        if request.text is None:
            return QueryEstimates(note="no text was given, so by the evaluations alone")
        embedder = policy.parameters["embedder"]
        if not self.keeper.refreshes:
            self.nearby.build(who.organization_id, embedder)  # nobody waits for this process but the one who asks
        return self.nearby.estimates(who.organization_id, request.text, request.use_case, embedder, state.snapshot)

    def _warnings(self, state: State, decision: Decision, kept: bool) -> tuple[str, ...]:
        warnings = []
        age = decision.now - state.snapshot.read_at
        if state.problem or age > STALE_SECONDS:
            warnings.append(f"the evidence is {max(age, 0.0):.0f} s old: {state.problem or 'it was not refreshed'}")
        if not kept:
            warnings.append("this decision is not logged: the log is full because Postgres does not answer")
        if not self.budgets.holdable(decision):
            warnings.append(f"the budget of {decision.policy.name} is below what the cheapest eligible model costs")
        return tuple(warnings)

    def _record(self, who: Who, decision: Decision, candidates: bytes | None, *, shadow: bool = False) -> Record:
        words = explanation(decision)
        return Record(uuid7(), who, decision, words, shadow, self._own, next(self._numbers), candidates)

"""A run's money as its driver hands it out: reserved in Postgres first, then given to the actors that ask.

It also finds out when the money is at its end: somebody needs more than is left, and nothing that is out can come back.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from actors.purse import HEARTBEAT_SECONDS, UNIT_DIGITS, Ask
from evalservice.database import tenant_transaction
from evalservice.errors import DatabaseUnavailable
from evalservice.runs.lifecycle import Lease
from evalservice.runs.spending import charge, give_back, reserve, reserved_cost

LOST_AFTER_SECONDS = 5 * HEARTBEAT_SECONDS
"""An actor that holds money and says nothing for so long is dead, and nobody waits for what it holds; that counts as
spent, unless the actor was only slow and comes back with it."""


@dataclass(slots=True)
class _Holder:
    """What an actor was given and has neither spent nor returned, the oldest first, by the day that it counts for."""

    heard: float
    chunks: list[tuple[date | None, int]] = field(default_factory=list)

    def spend(self, amount: int) -> int:
        """Take out what was spent; gives what was spent beyond all that was granted."""
        while amount > 0 and self.chunks:
            day, chunk = self.chunks[0]
            self.chunks[:1] = [(day, chunk - amount)] if chunk > amount else []
            amount -= chunk
        return max(0, amount)

    def take_back(self, amount: int) -> list[tuple[date | None, int]]:
        """The days for which so much goes back, of the latest grants first."""
        back: list[tuple[date | None, int]] = []
        while amount > 0 and self.chunks:
            day, chunk = self.chunks.pop()
            taken = min(chunk, amount)
            if chunk > taken:
                self.chunks.append((day, chunk - taken))
            back.append((day, taken))
            amount -= taken
        return back


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What answering would change. before, after: the run's reserved cost."""

    granted: dict[int, int]
    holders: dict[str, _Holder]
    refusal: str
    before: Decimal
    after: Decimal


class Budget:
    """Answers the actors' asks for money. `exhausted` names the limit that is at its end; "" while there is more.

    clock: gives seconds.
    """

    def __init__(
        self,
        engine: Engine,
        organization_id: uuid.UUID,
        lease: Lease,
        on_exhausted: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._organization_id, self._lease = engine, organization_id, lease
        self._on_exhausted, self._clock = on_exhausted, clock
        self._holders: dict[str, _Holder] = {}
        self._unsure: _Outcome | None = None
        self.exhausted = ""

    def answers(self, asks: Mapping[int, Ask]) -> dict[int, int]:
        """What each ask gets, in one transaction. Raises DatabaseUnavailable, to be called with the same asks again;
        LeaseLost."""
        started = self._clock()
        try:
            with tenant_transaction(self._engine, self._organization_id) as session:
                outcome = self._unsure = self._outcome(session, asks, started)
        except DatabaseUnavailable:
            for holder in self._holders.values():
                holder.heard = self._clock()  # nobody could be heard, so nobody is dead for it
            raise
        now = self._clock()
        self._unsure, self._holders = None, outcome.holders
        for holder in self._holders.values():
            holder.heard += now - started
        if outcome.refusal and not any(holder.chunks for holder in _living(self._holders, now)):
            self.exhausted = outcome.refusal
            self._on_exhausted()
        return outcome.granted

    def _outcome(self, session: Session, asks: Mapping[int, Ask], now: float) -> _Outcome:
        before = reserved_cost(session, self._lease)
        if self._unsure is not None and before == self._unsure.after:
            return self._unsure  # the commit went through, its answer did not; nobody else changes this number
        after = before
        holders = {key: _Holder(holder.heard, list(holder.chunks)) for key, holder in self._holders.items()}
        granted = dict.fromkeys(asks, 0)
        refusal = ""
        for number, ask in asks.items():
            holder = holders.setdefault(ask.holder, _Holder(now))
            holder.heard = now
            beyond = holder.spend(ask.spent)
            if beyond:  # more than the worst case; it is owed all the same
                charge(session, self._lease, _dollars(beyond))
                granted[number] += beyond
                after += _dollars(beyond)
            for day, amount in holder.take_back(ask.returned):
                give_back(session, self._lease, day, _dollars(amount))
                after -= _dollars(amount)
        parts = len(_living(holders, now))
        for number, ask in asks.items():
            if ask.wanted > 0:
                got = reserve(session, self._lease, _dollars(ask.wanted), _dollars(ask.least), parts)
                granted[number] += _units(got.amount)
                after += got.amount
                if got.amount:
                    holders[ask.holder].chunks.append((got.day, _units(got.amount)))
                refusal = refusal or (got.refusal if ask.least else "")
        return _Outcome(granted, holders, refusal, before, after)


def _living(holders: Mapping[str, _Holder], now: float) -> list[_Holder]:
    return [holder for holder in holders.values() if now - holder.heard < LOST_AFTER_SECONDS]


def _dollars(units: int) -> Decimal:
    return Decimal(units).scaleb(-UNIT_DIGITS)


def _units(dollars: Decimal) -> int:
    return int(dollars.scaleb(UNIT_DIGITS))

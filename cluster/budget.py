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

from actors.purse import HEARTBEAT_SECONDS, UNIT_DIGITS, Ask
from evalservice.database import tenant_transaction
from evalservice.runs.lifecycle import Lease
from evalservice.runs.spending import give_back, reserve

LOST_AFTER_SECONDS = 5 * HEARTBEAT_SECONDS
"""An actor that holds money and says nothing for so long is dead; what it held counts as spent."""


@dataclass(slots=True)
class _Holder:
    """What an actor was given and has neither spent nor returned, the oldest first, by the day that it counts for."""

    heard: float
    chunks: list[tuple[date | None, int]] = field(default_factory=list)

    def spend(self, amount: int) -> None:
        while amount > 0 and self.chunks:
            day, chunk = self.chunks[0]
            self.chunks[:1] = [(day, chunk - amount)] if chunk > amount else []
            amount -= chunk

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


class Budget:
    """Answers the actors' asks for money. `exhausted` names the limit that is at its end; "" while there is more."""

    def __init__(
        self, engine: Engine, organization_id: uuid.UUID, lease: Lease, on_exhausted: Callable[[], None]
    ) -> None:
        self._engine, self._organization_id, self._lease = engine, organization_id, lease
        self._on_exhausted = on_exhausted
        self._holders: dict[str, _Holder] = {}
        self.exhausted = ""

    def answers(self, asks: Mapping[int, Ask]) -> dict[int, int]:
        """What each ask gets, in one transaction. Raises DatabaseUnavailable, LeaseLost; nothing has changed then."""
        now = time.monotonic()
        holders = {
            key: _Holder(holder.heard, list(holder.chunks))
            for key, holder in self._holders.items()
            if now - holder.heard < LOST_AFTER_SECONDS
        }
        granted = dict.fromkeys(asks, 0)
        refusal = ""
        with tenant_transaction(self._engine, self._organization_id) as session:
            for ask in asks.values():
                holder = holders.setdefault(ask.holder, _Holder(now))
                holder.heard = now
                holder.spend(ask.spent)
                for day, amount in holder.take_back(ask.returned):
                    give_back(session, self._lease, day, _dollars(amount))
            for number, ask in asks.items():
                if ask.wanted > 0:
                    got = reserve(session, self._lease, _dollars(ask.wanted), _dollars(ask.least), len(holders))
                    granted[number] = _units(got.amount)
                    if got.amount:
                        holders[ask.holder].chunks.append((got.day, granted[number]))
                    refusal = refusal or (got.refusal if ask.least else "")
        self._holders = holders
        if refusal and not any(holder.chunks for holder in holders.values()):
            self.exhausted = refusal
            self._on_exhausted()
        return granted


def _dollars(units: int) -> Decimal:
    return Decimal(units).scaleb(-UNIT_DIGITS)


def _units(dollars: Decimal) -> int:
    return int(dollars.scaleb(UNIT_DIGITS))

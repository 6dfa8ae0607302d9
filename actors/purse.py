"""The part of a run's budget that one actor holds: taken before a request is sent, settled when it is back.

Amounts are whole numbers of 1e-10 US dollars, the precision that is stored. Only the run's driver hands out money, and
it writes down what it hands out before it does; what an actor that dies has not given back counts as spent.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

UNIT_DIGITS = 10
DENIED_SECONDS = 0.3
HEARTBEAT_SECONDS = 2.0
SHORTEST_SECONDS = 0.2
"""A rate is not told from less."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What an actor tells the driver about its money. All amounts in 1e-10 US dollars.

    wanted: what it would like; least: what the next request needs. spent: settled since the last ask. returned: given
    back with this ask.
    """

    holder: str
    wanted: int = 0
    least: int = 0
    spent: int = 0
    returned: int = 0


AskDriver = Callable[[Ask], Awaitable[int]]
"""Gives what was granted, and what `spent` was beyond all grants: the driver has charged it, so nobody owes it."""


class Purse:
    """Money that was granted and is not spent.

    Whoever uses it sets `shortage`, which says what the waiting requests need, all of them and the first, and
    `when_filled`, which is called when there is more money.
    """

    def __init__(self, ask_driver: AskDriver) -> None:
        self._driver = ask_driver
        self._holder = uuid.uuid4().hex
        self.balance = 0
        self.shortage: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.when_filled: Callable[[], None] = lambda: None
        self._reserved = self._spent = 0
        self._rate = _Rate(time.monotonic())
        self._asking: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    def take(self, amount: int) -> bool:
        """Reserve the most that a request can cost; False when there is not enough, which is then asked for."""
        if amount > self.balance:
            self._ask_soon()
            return False
        self.balance -= amount
        self._reserved += amount
        self._rate.used += amount
        if self.balance < self._rate.a_second() // 2:
            self._ask_soon()
        return True

    def settle(self, reserved: int, cost: int) -> None:
        """A request is back and cost so much: the rest of what was reserved for it can be used again."""
        self._reserved -= reserved
        self._spent += cost
        self.balance += reserved - cost
        self._rate.used -= reserved - cost

    async def give_back(self) -> None:
        """Return what is left, once nothing is in flight."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait([self._asking])
        if not self._reserved and (self.balance > 0 or self._spent):
            beyond = await self._tell(returned=self._all())
            self.balance += beyond

    def _ask_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask())
        if self._beating is None or self._beating.done():
            self._beating = loop.create_task(self._beat())

    async def _ask(self) -> None:
        """Ask until there is enough for all who wait; with too little left, until the first can go or nobody waits."""
        while True:
            waiting, first = self.shortage()
            blocked = first > self.balance
            # Too little for anything here may be what another actor lacks.
            returned = self._all() if blocked and not self._reserved else 0
            held = max(0, self.balance)
            wanted = max(waiting, self._rate.a_second()) - held
            if wanted <= 0:
                return
            granted = await self._tell(wanted, first - held if blocked else 0, returned)
            self._rate = _Rate(time.monotonic())
            self.balance += granted
            self.when_filled()
            if not granted:
                if not blocked:
                    return
                await asyncio.sleep(DENIED_SECONDS)

    async def _beat(self) -> None:
        """Tell the driver now and then that this actor lives, for as long as it holds money."""
        while self.balance > 0 or self._reserved:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            beyond = await self._tell()  # not in one line: the balance may change meanwhile
            self.balance += beyond

    async def _tell(self, wanted: int = 0, least: int = 0, returned: int = 0) -> int:
        spent, self._spent = self._spent, 0
        try:
            return await self._driver(Ask(self._holder, wanted, least, spent, returned))
        except Exception:  # the driver is gone, and its actors stop
            return 0

    def _all(self) -> int:
        everything = max(0, self.balance)
        self.balance -= everything
        return everything


@dataclass(slots=True)
class _Rate:
    """What was used since a moment, and so what a second takes."""

    since: float
    used: int = 0

    def a_second(self) -> int:
        elapsed = time.monotonic() - self.since
        return int(self.used / elapsed) if elapsed > SHORTEST_SECONDS and self.used > 0 else 0

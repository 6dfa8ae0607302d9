"""How a driver tells the actors of its run to pause, to go on or to stop: one tiny Ray actor a run.

Actors wait for a change with one long call each, so nobody polls; and because the signal dies with its driver, an
actor that loses it knows that nobody will store what it does, and stops sending.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Literal

from actors.desk import Desk

State = Literal["running", "paused", "stopped"]
FORGOTTEN_SECONDS = 15.0
"""What an actor that has died since waited for."""
log = logging.getLogger(__name__)


class RunSignal:
    """The state of a run as its actors shall see it. Deployed as a Ray actor that reserves no CPU."""

    def __init__(self) -> None:
        self._state: State = "running"
        self._changed = asyncio.Event()
        self._failure = ""
        self._open: dict[int, int] = {}
        self._rows = self._unstored = 0
        self._generated: dict[int, int] = {}
        self._most_rows = math.inf
        self._beginning: deque[tuple[int, int, asyncio.Future[bool]]] = deque()
        self._desk = Desk()
        self._loads: Counter[str] = Counter()
        self._waiting_for: dict[str, tuple[float, str]] = {}

    async def set(self, state: State) -> None:
        """Change the state and wake everyone who waits; what was stopped stays stopped."""
        if state != self._state != "stopped":
            self._state = state
            self._changed.set()
            self._changed = asyncio.Event()
            self._admit()

    async def next(self, known: State) -> State:
        """The state, as soon as it is another than `known`."""
        while self._state == known:
            await self._changed.wait()
        return self._state

    async def fail(self, reason: str) -> None:
        """Stop the run because of something that concerns all of it, e.g. a snapshot that a node cannot read."""
        self._failure = self._failure or reason
        await self.set("stopped")

    async def failure(self) -> str:
        """Why the run was stopped by one of its actors; "" if it was not."""
        return self._failure

    async def loading(self, actor: str) -> int:
        """An actor, which keeps its id when Ray starts it again, loads its model; how often it died over it before."""
        died = self._loads[actor]
        self._loads[actor] += 1
        return died

    async def loaded(self, actor: str) -> None:
        """It lived to the end of it."""
        del self._loads[actor]

    async def start_pass(self, most_rows: int) -> None:
        """The blocks that are left are asked from here on, with at most so many rows that are begun and not stored."""
        self._open, self._generated, self._unstored, self._most_rows = {}, {}, 0, most_rows
        self._admit()

    async def begin(self, block: int, rows: int) -> bool:
        """Wait until there is room for a block of so many rows; False when the run is stopped.

        Again, for a block that was lost with its actor or its node: it has its room.
        """
        if self._state != "stopped" and (block in self._open or block in self._generated):
            self._open.setdefault(block, 0)
            return True
        began: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._beginning.append((block, rows, began))
        self._admit()
        return await began

    def _admit(self) -> None:
        """Let begin, in the order of asking, who has room: anybody where nothing else is begun."""
        while self._beginning:
            block, rows, began = self._beginning[0]
            taken = sum(self._open.values()) + self._unstored
            if self._state != "stopped" and 0 < taken > self._most_rows - rows:
                return
            self._beginning.popleft()
            if began.done():
                continue
            if self._state != "stopped":
                self._open[block] = rows
            began.set_result(self._state != "stopped")

    async def ended(self, block: int, rows: int) -> None:
        """A block left the generate stage with so many rows; again, if they were lost and it was asked again."""
        self._open.pop(block, None)
        more = rows - self._generated.get(block, 0)
        self._generated[block] = rows
        self._rows += more
        self._unstored += more
        self._admit()

    async def stored(self, rows: int) -> None:
        """So many rows are stored."""
        self._unstored -= rows
        self._admit()

    async def write_off(self) -> None:
        """What was begun and did not come takes no more room: it is lost, and will be asked again, or very slow."""
        self._open, self._unstored = dict.fromkeys(self._open, 0), 0
        self._admit()

    async def outstanding(self) -> tuple[int, int]:
        """Blocks under way, and the rows that have left the generate stage so far."""
        return len(self._open), self._rows

    async def stopped(self) -> bool:
        """Whether the run was stopped."""
        return self._state == "stopped"

    async def waits(self, actor: str, what: str) -> None:
        """An actor says what its requests wait for, as long as they do; "" when they go on."""
        self._waiting_for[actor] = (time.monotonic(), what)

    async def waiting_for(self) -> str:
        """What actors whose requests stand still wait for; "" when all go on."""
        now = time.monotonic()
        return next((what for at, what in self._waiting_for.values() if what and now - at < FORGOTTEN_SECONDS), "")

    async def ask(self, kind: str, question: Any) -> Any:
        """What an actor asks of the driver; gives the driver's answer. Raises DeskClosedError."""
        return await self._desk.ask(kind, question)

    async def asked(self) -> dict[int, tuple[str, Any]]:
        """What actors have asked since the last call; waits a little for something."""
        return await self._desk.asked()

    async def answer(self, answers: Mapping[int, Any]) -> None:
        """The driver's answers, by the numbers of the questions."""
        self._desk.answer(answers)

    async def close_desk(self) -> None:
        """The driver answers no more."""
        self._desk.close()


class Follower:
    """A run's signal as an actor sees it: `stop` and `go` are events of its own event loop."""

    def __init__(self, signal: Any | None) -> None:
        self._signal = signal
        self._task: asyncio.Task[None] | None = None
        self.stop = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    def start(self) -> None:
        """Begin to follow; harmless when repeated. Call on the event loop."""
        if self._task is None and self._signal is not None:
            self._task = asyncio.get_running_loop().create_task(self._follow(self._signal))

    async def _follow(self, signal: Any) -> None:
        state: State = "running"
        try:
            while state != "stopped":
                state = await signal.next.remote(state)
                if state == "paused":
                    self.go.clear()
                else:
                    self.go.set()
        except Exception as error:
            log.warning("driver_lost", extra={"error": type(error).__name__})
        self.stop.set()
        self.go.set()

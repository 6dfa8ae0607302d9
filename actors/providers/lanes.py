"""A bound on the requests in flight, over all batches that are asked for at the same time.

A lane takes one request after the other. There are as many lanes as requests may be in flight, so a request costs no
task, no semaphore and no wake-up of its own: at a thousand in flight that is a tenth of the client's time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from evalservice.records import ChatRequest, Completion

Answer = Callable[[ChatRequest, asyncio.Event], Awaitable[Completion | None]]


class Lanes:
    """Answers batches of requests with at most `width` in flight, first come, first served.

    answer: asks one request; gives None when `stop` was set before it was sent. grace: seconds that a request under
    way has to be answered after `stop`.
    """

    def __init__(self, width: int, answer: Answer, grace: float) -> None:
        self._width, self._answer, self._grace = width, answer, grace
        self._waiting: deque[tuple[_Batch, int]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()

    async def answers(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """The answers, in order. What `answer` raises is raised here; cancelled, it cancels what is under way."""
        if stop.is_set() or not requests:
            return [None] * len(requests)
        loop = asyncio.get_running_loop()
        batch = _Batch(requests, stop, loop.create_future())
        self._waiting.extend((batch, position) for position in range(len(requests)))
        for _ in range(min(len(requests), self._width - len(self._lanes))):
            self._lanes.add(loop.create_task(self._lane()))
        watcher = loop.create_task(self._cut_off(batch))
        try:
            await batch.done
        finally:
            watcher.cancel()
            batch.cut()
        return batch.answers

    async def _lane(self) -> None:
        lane = asyncio.current_task()
        assert lane is not None
        try:
            while self._waiting:
                batch, position = self._waiting.popleft()
                if not batch.done.done():
                    await self._ask(lane, batch, position)
        finally:
            self._lanes.discard(lane)  # at once: the next batch counts the lanes that are left

    async def _ask(self, lane: asyncio.Task[None], batch: _Batch, position: int) -> None:
        batch.under_way.add(lane)
        try:
            batch.settle(position, await self._answer(batch.requests[position], batch.stop))
        except asyncio.CancelledError:
            if not batch.is_cut:
                raise
            lane.uncancel()
            batch.settle(position, None)
        except Exception as error:
            batch.fail(error)
        finally:
            batch.under_way.discard(lane)

    async def _cut_off(self, batch: _Batch) -> None:
        await batch.stop.wait()
        await asyncio.sleep(self._grace)
        batch.cut()


class _Batch:
    """Requests that are answered together. `under_way`: the lanes that are asking one of them."""

    def __init__(self, requests: Sequence[ChatRequest], stop: asyncio.Event, done: asyncio.Future[None]) -> None:
        self.requests, self.stop, self.done = requests, stop, done
        self.answers: list[Completion | None] = [None] * len(requests)
        self.under_way: set[asyncio.Task[None]] = set()
        self.is_cut = False
        self._left = len(requests)

    def settle(self, position: int, answer: Completion | None) -> None:
        self.answers[position] = answer
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def cut(self) -> None:
        self.is_cut = True
        for lane in self.under_way:
            lane.cancel()

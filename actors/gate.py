"""What a request passes before it is sent: room in flight, permits of the cluster's limiter, money of the run's budget.

The way through is a few comparisons while there is room; only who has to wait costs more. Who waits is let through in
the order of coming.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from actors.limiter import Grant, Limits, Membership, Report
from actors.purse import Purse

RETRY_SECONDS = 0.5
STARVING_SECONDS = 0.1
"""How often a holder that has to wait for permits says so."""
STANDSTILL_SECONDS = 5.0
"""When nothing was sent for so long although requests wait, it is said what they wait for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """What a request may use: tokens (an estimate), money (never less than it will cost, in 1e-10 US dollars)."""

    tokens: int = 0
    money: int = 0


class Gate:
    """Lets requests through, up to `member.width` in flight.

    limiter: finds the cluster's limiter, again when it has died; without one only the width holds. purse: the run's
    budget; None when there is none. on_standstill: is told what requests wait for every few seconds that they do, and
    "" when they go on.
    """

    def __init__(
        self,
        member: Membership,
        limiter: Callable[[], Any] | None = None,
        purse: Purse | None = None,
        on_standstill: Callable[[str], Any] = lambda what: None,
    ) -> None:
        self._member, self._find, self._purse = member, limiter, purse
        self._holder = uuid.uuid4().hex
        self._handle: Any = None
        limited = bool(member.credential_limits or member.model_limits)
        self._concurrency = member.width
        self._permits: int | None = 0 if limiter is not None and _any_requests(member) else None
        self._tokens: int | None = 0 if limiter is not None and _any_tokens(member) else None
        self._granted = (0, 0)
        self._in_flight = 0
        self._held_until = 0.0
        self._waiting: deque[tuple[Need, asyncio.Future[bool]]] = deque()
        self._answered = self._refused = self._correction = 0
        self._hold = 0.0
        self._learned = Limits()
        self._report_every = STARVING_SECONDS if limited else 1.0
        self._urgent = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Event] = set()
        self._on_standstill, self._admitted = on_standstill, 0
        self._watching: asyncio.Task[None] | None = None
        if purse is not None:
            purse.when_filled, purse.shortage = self._let_through, self._shortage

    @property
    def budgeted(self) -> bool:
        """Whether requests are paid for out of a budget, so that `Need.money` has to be known."""
        return self._purse is not None

    async def enter(self, need: Need, stop: asyncio.Event) -> bool:
        """Wait until a request may be sent; False when `stop` was set before. Who enters must `leave`."""
        if not self._tasks and self._find is not None:
            self._start()
        if not self._waiting and self._admits(need):
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((need, future))
        self._say_if_starved()
        self._follow(stop)
        if self._watching is None or self._watching.done():
            self._watching = self._spawn(self._watch_standstill())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.leave(need, Need(), refused=False)  # it was let through and never sent
            raise

    def leave(self, need: Need, used: Need, *, refused: bool, answered: bool = False) -> None:
        """A request came back. need: as it entered. used: what it took in the end. refused: by the provider."""
        self._in_flight -= 1
        self._answered += answered
        self._refused += refused
        self._correction += used.tokens - need.tokens
        if self._purse is not None:
            self._purse.settle(need.money, used.money)
        if refused:
            self._urgent.set()
        if self._waiting:
            self._let_through()

    def hold(self, seconds: float) -> None:
        """The provider asked to wait so long: nobody who shares its limits sends anything until then."""
        self._hold = max(self._hold, seconds)
        self._hold_here(seconds)
        self._urgent.set()

    def learn(self, limits: Limits) -> None:
        """The provider named its limits."""
        if limits != self._learned:
            self._learned = limits
            self._urgent.set()

    async def rest(self) -> None:
        """Nothing is left to be sent for now: money that nobody uses goes back."""
        if self._purse is not None and not self._in_flight and not self._waiting:
            await self._purse.give_back()

    async def aclose(self) -> None:
        """Stop following the limiter."""
        for task in self._tasks:
            task.cancel()
        if self._find is not None and self._tasks:
            try:
                await self._limiter().leave.remote(self._holder)
            except Exception as error:
                log.info("limiter_not_left", extra={"error": type(error).__name__})

    def _admits(self, need: Need) -> bool:
        if self._in_flight >= self._concurrency:
            return False
        if self._permits is not None and self._permits < 1:
            return False
        if self._tokens is not None and self._tokens < need.tokens:
            return False
        if self._held_until and asyncio.get_running_loop().time() < self._held_until:
            return False
        if self._purse is not None and not self._purse.take(need.money):
            return False
        self._in_flight += 1
        self._admitted += 1
        if self._permits is not None:
            self._permits -= 1
        if self._tokens is not None:
            self._tokens -= need.tokens
        return True

    def _let_through(self) -> None:
        while self._waiting:
            need, future = self._waiting[0]
            if not future.done():
                if not self._admits(need):
                    self._say_if_starved()
                    return
                future.set_result(True)
            self._waiting.popleft()

    def _say_if_starved(self) -> None:
        first = self._waiting[0][0]
        permits_short = self._permits is not None and self._permits < 1
        if permits_short or (self._tokens is not None and self._tokens < first.tokens):
            self._urgent.set()

    async def _watch_standstill(self) -> None:
        admitted, said = self._admitted, ""
        while self._waiting or said:
            await asyncio.sleep(STANDSTILL_SECONDS)
            what = self._waits_for() if self._admitted == admitted else ""
            admitted = self._admitted
            if what or said:
                self._on_standstill(what)
            said = what

    def _waits_for(self) -> str:
        """What the first request waits for."""
        need = next((need for need, future in self._waiting if not future.done()), None)
        if need is None:
            return ""
        left = self._held_until - asyncio.get_running_loop().time()
        if left > 0:
            until = datetime.now(UTC) + timedelta(seconds=left)
            return f"the provider, which asked to wait until {until:%H:%M:%S} UTC (Retry-After)"
        if self._permits is not None and self._permits < 1:
            return "its turn: requests_per_minute is used up"
        if self._tokens is not None and self._tokens < need.tokens:
            return f"its turn: tokens_per_minute is used up, the next request needs about {need.tokens} tokens"
        if self._in_flight >= self._concurrency:
            return f"answers: {self._in_flight} requests are under way, the provider takes no more at once"
        return "money: what is left of the budget is with requests that are under way"

    def _shortage(self) -> tuple[int, int]:
        waiting = [need.money for need, future in self._waiting if not future.done()]
        return sum(waiting), waiting[0] if waiting else 0

    def _follow(self, stop: asyncio.Event) -> None:
        if stop not in self._stops:
            self._stops.add(stop)
            self._spawn(self._empty(stop))

    async def _empty(self, stop: asyncio.Event) -> None:
        await stop.wait()
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_result(False)
        self._stops.discard(stop)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _start(self) -> None:
        self._spawn(self._reports())
        self._spawn(self._grants())

    async def _grants(self) -> None:
        version = -1
        while True:
            try:
                grant = await self._limiter().next.remote(self._holder, version)
                if grant is None:
                    await self._join()
                    version = -1
                    continue
                version = grant.version
                self._apply(grant)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # it has died, or its node has: another is there in a moment
                log.warning("limiter_lost", extra={"error": type(error).__name__})
                self._handle, version = None, -1
                await asyncio.sleep(RETRY_SECONDS)

    async def _join(self) -> None:
        await self._limiter().join.remote(self._holder, replace(self._member, concurrency=self._concurrency))
        self._granted = (0, 0)

    def _apply(self, grant: Grant) -> None:
        self._concurrency = min(self._member.width, grant.concurrency)
        self._report_every = grant.report_every
        permits, tokens = grant.permits, grant.tokens
        self._permits = None if permits is None else (self._permits or 0) + permits - self._granted[0]
        self._tokens = None if tokens is None else (self._tokens or 0) + tokens - self._granted[1]
        self._granted = (permits or 0, tokens or 0)
        if grant.hold > 0:
            self._hold_here(grant.hold)
        self._let_through()

    def _hold_here(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if until > self._held_until + 0.001:
            self._held_until = until
            loop.call_at(until + 0.001, self._let_through)

    async def _reports(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._report_every):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            started = loop.time()
            self._urgent.clear()
            report = self._report()
            heard = False
            try:
                heard = await self._limiter().report.remote(self._holder, report)
            except asyncio.CancelledError:
                raise
            except Exception:
                await asyncio.sleep(RETRY_SECONDS)
            if not heard and report.hold:  # the others must hear of it; less what has passed
                self._hold = max(self._hold, report.hold - (loop.time() - started))
                self._urgent.set()
            pause = STARVING_SECONDS * self._report_every
            await asyncio.sleep(max(0.0, started + pause - loop.time()))
            if self._waiting and self._permits is not None:
                self._urgent.set()

    def _report(self) -> Report:
        report = Report(
            answered=self._answered,
            refused=self._refused,
            hold=self._hold,
            in_flight=self._in_flight,
            waiting=max(0, len(self._waiting) - (self._permits or 0)),
            waiting_tokens=max(0, sum(need.tokens for need, _ in self._waiting) - (self._tokens or 0)),
            correction=self._correction,
            learned=self._learned,
        )
        self._answered = self._refused = self._correction = 0
        self._hold = 0.0
        return report

    def _limiter(self) -> Any:
        if self._handle is None:
            assert self._find is not None
            self._handle = self._find()
        return self._handle


def _any_requests(member: Membership) -> bool:
    return any(limits.requests_per_minute is not None for limits in (member.credential_limits, member.model_limits))


def _any_tokens(member: Membership) -> bool:
    return any(limits.tokens_per_minute is not None for limits in (member.credential_limits, member.model_limits))

"""Money in the hands of actors: no more than was granted is spent, none is kept, and what is there is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import purse as purse_module
from actors.gate import Gate, Need
from actors.limiter import Membership
from actors.purse import Ask, Purse

WORST, COST = 1_000, 130


@dataclass
class Ledger:
    """What a driver keeps: the money that is left, and what is out with each holder."""

    left: int
    held: dict[str, int] = field(default_factory=dict)
    spent: int = 0
    beyond: int = 0
    exhausted: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, ask: Ask) -> int:
        await asyncio.sleep(0)
        self.left += ask.returned
        self.spent += ask.spent
        self.held[ask.holder] = self.held.get(ask.holder, 0) - ask.returned - ask.spent
        beyond = max(0, -self.held[ask.holder])
        self.beyond += beyond
        self.left -= beyond
        self.held[ask.holder] += beyond
        granted = max(0, min(ask.wanted, max(ask.least, self.left // (2 * len(self.held)))))
        granted = granted if granted <= self.left else 0
        self.left -= granted
        self.held[ask.holder] += granted
        if ask.least and not granted and not any(self.held.values()):
            self.exhausted.set()
        return granted + beyond


async def spend(budget: int, actors: int, requests: int, width: int, cost: int = COST) -> tuple[Ledger, int]:
    """As many requests as the budget allows, of several actors, each with blocks of four that overlap; gives the ledger
    and how many were sent."""
    ledger, stop, sent = Ledger(budget), asyncio.Event(), 0

    async def actor() -> None:
        nonlocal sent
        gate = Gate(Membership("key", "m", "r", width), None, Purse(ledger.answer))

        async def request() -> None:
            nonlocal sent
            need = Need(1, WORST)
            if await gate.enter(need, stop):
                sent += 1
                await asyncio.sleep(0)
                gate.leave(need, Need(1, cost), refused=False, answered=True)

        async def block(start: int) -> None:
            for _ in range(start):
                await asyncio.sleep(0)
            await asyncio.gather(*(request() for _ in range(min(4, requests - start))))
            await gate.rest()

        await asyncio.gather(*(block(start) for start in range(0, requests, 4)))

    async def stopped() -> None:
        await ledger.exhausted.wait()
        stop.set()

    watcher = asyncio.create_task(stopped())
    async with asyncio.timeout(20):
        await asyncio.gather(*(actor() for _ in range(actors)))
    watcher.cancel()
    return ledger, sent


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purse_module, "DENIED_SECONDS", 0.001)
        patch.setattr(purse_module, "HEARTBEAT_SECONDS", 0.0)
        yield


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12_000), st.integers(1, 4), st.integers(1, 15), st.integers(1, 8))
def test_a_budget_is_used_as_far_as_the_worst_case_fits_and_no_further(
    budget: int, actors: int, requests: int, width: int
) -> None:
    ledger, sent = asyncio.run(spend(budget, actors, requests, width))
    assert ledger.spent == sent * COST <= budget
    assert not ledger.beyond, "no more was spent or given back than was granted"
    assert ledger.left == budget - ledger.spent, "all that was not spent came back"
    assert not any(ledger.held.values())
    if sent < actors * requests:
        assert ledger.left < WORST


@pytest.mark.parametrize("actors", [1, 3])
def test_requests_that_cost_more_than_their_worst_case_end_a_run_and_do_not_let_it_wait(actors: int) -> None:
    ledger, sent = asyncio.run(spend(20 * WORST, actors, 30, 4, cost=5 * WORST))
    assert ledger.spent == sent * 5 * WORST == 20 * WORST - ledger.left
    assert 0 < sent <= 4 + 4 * actors, "no more than was in flight when it came out"
    assert not any(ledger.held.values())

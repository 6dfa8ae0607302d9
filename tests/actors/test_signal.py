"""A run's signal: who may begin, so that what is asked and not stored stays within its bound."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from actors.signal import RunSignal

MOST, ROWS = 40, 8


@given(st.lists(st.sampled_from(["begin", "end", "store", "lose"]), max_size=60))
def test_what_is_begun_and_not_stored_stays_within_the_bound_and_nobody_waits_without_need(events: list[str]) -> None:
    async def run() -> None:
        signal = RunSignal()
        await signal.start_pass(MOST)
        asked: list[asyncio.Task[bool]] = []
        ended = stored = 0
        for event in events:
            begun = sum(task.done() for task in asked)
            if event == "begin":
                asked.append(asyncio.ensure_future(signal.begin(len(asked), ROWS)))
            elif event == "end" and ended < begun:
                await signal.ended(ended, ROWS)
                ended += 1
            elif event == "store" and stored < ended:
                await signal.stored(ROWS)
                stored += 1
            elif event == "lose" and ended < begun:
                assert await asyncio.wait_for(signal.begin(ended, ROWS), 1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            begun = sum(task.done() for task in asked)
            assert (begun - stored) * ROWS <= MOST
            assert begun == len(asked) or (begun - stored + 1) * ROWS > MOST
        await signal.set("stopped")
        assert await asyncio.gather(*asked) == [True] * begun + [False] * (len(asked) - begun) if asked else True

    asyncio.run(run())


async def waits(signal: RunSignal, block: int, rows: int = ROWS) -> asyncio.Task[bool]:
    """A block that finds no room."""
    task = asyncio.ensure_future(signal.begin(block, rows))
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


def test_a_block_larger_than_the_bound_begins_when_nothing_else_is_begun() -> None:
    async def run() -> None:
        signal = RunSignal()
        await signal.start_pass(MOST)
        assert await signal.begin(0, ROWS)
        large = await waits(signal, 1, 2 * MOST)
        await signal.ended(0, ROWS)
        await signal.stored(ROWS)
        assert await large

    asyncio.run(run())


def test_what_is_written_off_makes_room_and_may_still_come() -> None:
    async def run() -> None:
        signal = RunSignal()
        await signal.start_pass(2 * ROWS)
        assert await signal.begin(0, ROWS)
        assert await signal.begin(1, ROWS)
        await signal.ended(0, ROWS)
        waiting = await waits(signal, 2)
        await signal.write_off()
        assert await waiting
        assert await signal.outstanding() == (2, ROWS)

    asyncio.run(run())

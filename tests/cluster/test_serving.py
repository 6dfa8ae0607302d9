"""The threads that a replica's routes run in."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

from cluster.serving import Threads

asked_by: ContextVar[str] = ContextVar("asked_by", default="nobody")


def test_calls_one_after_the_other_share_a_thread_and_see_their_callers_context() -> None:
    def who() -> tuple[str, int]:
        return asked_by.get(), threading.get_ident()

    async def ask(threads: Threads, name: str) -> tuple[str, int]:
        asked_by.set(name)
        return await threads.run(who)

    async def both() -> tuple[tuple[str, int], tuple[str, int]]:
        threads = Threads()
        loop = asyncio.get_running_loop()
        return await loop.create_task(ask(threads, "one")), await loop.create_task(ask(threads, "two"))

    (first, thread), (second, same) = asyncio.run(both())
    assert (first, second) == ("one", "two")
    assert thread == same != threading.get_ident()


def test_who_is_cancelled_waits_until_the_call_has_ended() -> None:
    ended = threading.Event()

    def call() -> None:
        time.sleep(0.2)
        ended.set()

    async def cancel() -> None:
        running = asyncio.get_running_loop().create_task(Threads().run(call))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended.is_set()

    asyncio.run(cancel())

"""Questions that the actors of a run ask its driver, who alone writes to Postgres: money, stored completions.

A driver is no actor and cannot be called. It collects what was asked with a long call, and answers all of it at once.
Part of the run's signal, so that who asks learns by the same death that the driver is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

LONG_CALL_SECONDS = 1.0


class DeskClosedError(Exception):
    """The driver answers no more: it stops, or has failed, or somebody else drives the run."""


class Desk:
    """The questions that wait for an answer."""

    def __init__(self) -> None:
        self._closed = False
        self._waiting: dict[int, tuple[str, Any]] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._arrived = asyncio.Event()
        self._last = 0

    async def ask(self, kind: str, question: Any) -> Any:
        """Ask, and wait for the answer. Raises DeskClosedError when there will be none."""
        if self._closed:
            raise DeskClosedError(kind)
        self._last += 1
        number = self._last
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (kind, question)
        self._arrived.set()
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)
            self._answers.pop(number, None)

    async def asked(self) -> dict[int, tuple[str, Any]]:
        """All that was asked since, by number; waits a little for something."""
        if not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(LONG_CALL_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                return {}
        waiting, self._waiting = self._waiting, {}
        return waiting

    def answer(self, answers: Mapping[int, Any]) -> None:
        """Answer by number."""
        for number, value in answers.items():
            future = self._answers.get(number)
            if future is not None and not future.done():
                future.set_result(value)

    def close(self) -> None:
        """Nobody answers any more, neither what waits nor what is still asked."""
        self._closed = True
        self._waiting.clear()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(DeskClosedError())

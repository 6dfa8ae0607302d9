"""Which model for this request? For applications with an event loop.

    async with AsyncRouter("https://evals.example.com", "evs_…", local="fallback") as router:
        choice = await router.select(use_case="qa", constraints={"max_cost": 0.002})
        router.outcome(choice.id, success=True, latency_ms=812.0)

        async with router.choose(use_case="qa") as choice:
            answer = await call(choice.selected)

Evidence is fetched and outcomes are sent by threads: neither takes the event loop's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from evalservice.client.asking import (
    PATH,
    SelectionOptions,
    Tries,
    body_of,
    choice_in,
    encoded,
    headers_of,
)
from evalservice.client.choice import Choice
from evalservice.client.common import FRESH, LIMITS, RouterBase
from evalservice.client.http import translated
from evalservice.errors import EvalserviceError


class AsyncRouter(RouterBase):
    """As Router, for one event loop; `close` it, or use it as an asynchronous context manager."""

    def _connect(self) -> None:
        self._kept = httpx.AsyncClient(base_url=self.url, headers=self._headers, limits=LIMITS, verify=self._tls)
        self._fresh = httpx.AsyncClient(base_url=self.url, headers=self._headers, limits=FRESH, verify=self._tls)

    async def select(self, **options: Unpack[SelectionOptions]) -> Choice:
        """As `Router.select`."""
        body = body_of(options)
        choice = self._at_once(body)
        if choice is not None:
            return choice
        try:
            return await self._asked(body)
        except EvalserviceError as failure:
            return self._instead(body, failure)

    @asynccontextmanager
    async def choose(self, **options: Unpack[SelectionOptions]) -> AsyncIterator[Choice]:
        """As `Router.choose`."""
        with self._measured(await self.select(**options)) as choice:
            yield choice

    async def close(self, seconds: float = 10.0) -> int:
        """As `Router.close`."""
        left = await asyncio.to_thread(self._close, seconds)
        await self._kept.aclose()
        await self._fresh.aclose()
        return left

    async def ready(self, seconds: float) -> bool:
        """As `Router.ready`."""
        return self._local is not None and await asyncio.to_thread(self._local.ready, seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _asked(self, body: dict[str, Any]) -> Choice:
        content, headers, tries = encoded(body), headers_of(body), Tries(self._timeout)
        while True:
            http = self._fresh if tries.count else self._kept
            try:
                with translated(self.url):
                    answer = await http.post(PATH, content=content, headers=headers, timeout=tries.timeout())
                return choice_in(answer)
            except EvalserviceError as failure:
                await asyncio.sleep(tries.pause(failure))

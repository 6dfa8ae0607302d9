"""The one port behind which every model stands: hosted provider or self-hosted engine.

A backend lives in one actor for the actor's life. It never raises for a request: whatever goes wrong with one
request is that request's `Completion.error`. It raises EngineUnavailable (from its constructor) when it cannot serve
at all: not installed, model files missing, out of memory at start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from evalservice.records import ChatRequest, Completion


class Backend(Protocol):
    """Answers chat requests."""

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """Answer every request, in order.

        Once `stop` is set nothing more is sent: a request that was not sent by then is answered with None, and one
        that is under way is answered as usual.
        """
        ...

    async def aclose(self) -> None:
        """Release sockets, memory and devices."""
        ...

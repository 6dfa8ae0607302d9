"""Which model for this request? For applications with threads.

with Router("https://evals.example.com", "evs_…", local="fallback") as router:
    choice = router.select(use_case="qa", constraints={"max_cost": 0.002})
    router.outcome(choice.id, success=True, latency_ms=812.0)

    with router.choose(use_case="qa") as choice:      # latency, and success or the exception, report themselves
        answer = call(choice.selected)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Router(RouterBase):
    """Asks for models, reports outcomes. Safe to use from any thread; `close` it, or use it as a context manager."""

    def _connect(self) -> None:
        self._kept = httpx.Client(base_url=self.url, headers=self._headers, limits=LIMITS, verify=self._tls)
        self._fresh = httpx.Client(base_url=self.url, headers=self._headers, limits=FRESH, verify=self._tls)

    def select(self, **options: Unpack[SelectionOptions]) -> Choice:
        """Which model for this request.

        Raises NothingEligible (`relaxations` say what would be), InvalidInput, Conflict, and ServiceUnreachable or
        another Unavailable where nothing answers in time and this process may not decide.
        """
        body = body_of(options)
        choice = self._at_once(body)
        if choice is not None:
            return choice
        try:
            return self._asked(body)
        except EvalserviceError as failure:
            return self._instead(body, failure)

    @contextmanager
    def choose(self, **options: Unpack[SelectionOptions]) -> Iterator[Choice]:
        """Select, and report the outcome of the block: success and its latency, or failure and the exception's type.

        What else is known of it can be reported inside with `outcome`. Raises as `select` does.
        """
        with self._measured(self.select(**options)) as choice:
            yield choice

    def close(self, seconds: float = 10.0) -> int:
        """Send what waits; gives how many outcomes and decisions could not be sent within so many seconds."""
        left = self._close(seconds)
        self._kept.close()
        self._fresh.close()
        return left

    def ready(self, seconds: float) -> bool:
        """Wait until this process can decide itself. False: it cannot, so many seconds later."""
        return self._local is not None and self._local.ready(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, body: dict[str, Any]) -> Choice:
        content, headers, tries = encoded(body), headers_of(body), Tries(self._timeout)
        while True:
            http = self._fresh if tries.count else self._kept
            try:
                with translated(self.url):
                    answer = http.post(PATH, content=content, headers=headers, timeout=tries.timeout())
                return choice_in(answer)
            except EvalserviceError as failure:
                time.sleep(tries.pause(failure))

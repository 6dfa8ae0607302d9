"""What the routers for threads and for an event loop have in common: outcomes, decisions in this process, closing."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
from pydantic import SecretStr

from evalservice.client.asking import TIMEOUT, Local, outcome_of
from evalservice.client.choice import Choice
from evalservice.client.http import document_of, header_of, path_of, translated, url_of
from evalservice.client.local import LocalDecisions
from evalservice.client.outbox import Item, Outbox
from evalservice.errors import EvalserviceError, InvalidInput

REFRESH_SECONDS = 5.0
SENDERS = 4
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)
"""A connection is left before servers close it, which is after five seconds at the earliest."""
FRESH = httpx.Limits(max_connections=100, max_keepalive_connections=0)
_BACKGROUND = httpx.Timeout(10.0)


class RouterBase(ABC):
    """Connections are made when they are needed. One router serves a whole process; make it after a fork."""

    def __init__(
        self,
        url: str,
        api_key: SecretStr | str,
        *,
        timeout: float = TIMEOUT,
        local: Local = "never",
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        """timeout: seconds for one selection, all its tries together. local: whether this process decides itself, on
        the service's evidence of `refresh_seconds` ago: "fallback" where the service does not answer, "always" for
        every request. Raises InvalidInput."""
        if local not in ("never", "fallback", "always"):
            raise InvalidInput("local", local, "never, fallback or always")
        for name, value in (("timeout", timeout), ("refresh_seconds", refresh_seconds)):
            if not 0 < value < float("inf"):
                raise InvalidInput(name, value, "a positive number of seconds")
        key = api_key if isinstance(api_key, SecretStr) else SecretStr(api_key)
        self.url = url_of(url)
        self._timeout = timeout
        self._headers = {"Authorization": f"Bearer {header_of(key)}", "User-Agent": "evalservice"}
        self._tls = httpx.create_ssl_context()  # one for all of its clients: it takes 50 ms
        self._background = httpx.Client(base_url=self.url, headers=self._headers, timeout=_BACKGROUND, verify=self._tls)
        self._connect()
        self._outcomes = Outbox(self._send, name="evalservice-outcomes", workers=SENDERS)
        self._always = local == "always"
        self._local: LocalDecisions | None = None
        if local != "never":
            self._local = LocalDecisions(self._background, self.url, refresh_seconds)
            self._local.start()

    @abstractmethod
    def _connect(self) -> None:
        """Make what selections are asked with."""

    def outcome(
        self,
        selection_id: str,
        *,
        success: bool | None = None,
        latency_ms: float | None = None,
        cost: Decimal | float | None = None,
        quality: float | None = None,
        served_model: str | None = None,
        served_model_name: str | None = None,
        error_kind: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        occurred_at: datetime | None = None,
    ) -> bool:
        """Report what happened after a selection, whole or in parts; returns at once, it is sent in the background.

        cost: US dollars. quality: in [0, 1]. served_model: the one that answered, where it was not the selected one.
        False: so many wait for the service that this one was not kept. Raises InvalidInput.
        """
        body = outcome_of(
            {
                "success": success,
                "latency_ms": latency_ms,
                "cost": cost,
                "quality": quality,
                "served_model": served_model,
                "served_model_name": served_model_name,
                "error_kind": error_kind,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "occurred_at": occurred_at,
            }
        )
        return self._outcomes.add(Item(selection_id, body))

    @property
    def waiting(self) -> int:
        """Outcomes and local decisions that are not sent yet."""
        return self._outcomes.waiting + (0 if self._local is None else self._local.unsent)

    @property
    def lost(self) -> int:
        """Outcomes that were not kept, or that the service did not take (the log says why)."""
        return self._outcomes.lost

    def _close(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        left = 0 if self._local is None else self._local.close(seconds)
        left += self._outcomes.close(max(0.0, until - time.monotonic()))
        self._background.close()
        return left

    def _at_once(self, body: Mapping[str, Any]) -> Choice | None:
        """A decision that does not ask the service, where there is to be one."""
        local = self._local
        if local is None or body.get("durable") or not local.has_evidence:
            return None
        if self._always:
            return local.decide(body)
        return local.decide(body, "the service does not answer") if local.away else None

    def _instead(self, body: Mapping[str, Any], failure: EvalserviceError) -> Choice:
        """A decision in place of the one that failed. Raises the failure where it is the request's or none may be."""
        local = self._local
        if failure.status < 500 or local is None or body.get("durable"):
            raise failure
        local.service_failed()
        return local.decide(body, failure.message)

    @contextmanager
    def _measured(self, choice: Choice) -> Iterator[Choice]:
        """Reports how long the block took and whether it raised. What cancels it is nobody's failure."""
        started = time.perf_counter()
        try:
            yield choice
        except Exception as error:
            self.outcome(choice.id, success=False, error_kind=type(error).__name__)
            raise
        self.outcome(choice.id, success=True, latency_ms=(time.perf_counter() - started) * 1000)

    def _send(self, items: Sequence[Item]) -> None:
        for item in items:
            path = path_of("selections", item.selection_id, "outcome")
            with translated(self.url):
                answer = self._background.post(path, content=item.body, headers={"Content-Type": "application/json"})
            document_of(answer)

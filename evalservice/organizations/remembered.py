"""Who a key belongs to, remembered for a moment: for the one route that asks Postgres nothing.

A remembered key is asked about again after `FRESH_SECONDS`, and all are when Postgres tells of a change of keys,
members or users. While Postgres is away a key that was good goes on being good for `TRUST_SECONDS`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sqlalchemy import Engine

from evalservice.database import listening, transaction
from evalservice.errors import Unauthenticated, Unavailable
from evalservice.organizations.identity import Authenticator, Caller, hash_of

CHANNEL = "evalservice_keys"
FRESH_SECONDS = 2.0
TRUST_SECONDS = 600.0
RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 0.3
MOST_KEYS = 10_000

InThread = Callable[..., Awaitable[Any]]
log = logging.getLogger(__name__)


class _Known(NamedTuple):
    """A key's holder. Times are of the monotonic clock: until when nobody is asked, when Postgres last said so."""

    caller: Caller
    fresh_until: float
    confirmed: float


class RememberedKeys:
    """Callers by their keys' hashes. The event loop's alone but for `forget`, which may be called from anywhere."""

    def __init__(self, engine: Engine, in_thread: InThread, authenticate: Callable[..., Caller] | None = None) -> None:
        self._engine, self._in_thread = engine, in_thread
        self._authenticate = authenticate or Authenticator()
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Future[Caller]] = {}
        self._stop = threading.Event()

    async def find(self, key: str) -> Caller:
        """The key's holder; asks Postgres when the answer is not fresh, once for all who wait for it.

        Raises Unauthenticated, DatabaseUnavailable. While Postgres is away, or takes longer than `PATIENCE_SECONDS`, a
        key that it said was good within `TRUST_SECONDS` is.
        """
        hashed = hash_of(key)
        known = self._known.get(hashed)
        now = time.monotonic()
        if known is not None and now < known.fresh_until:
            return known.caller
        asking = self._asking.get(hashed)
        if asking is None:
            asking = self._asking[hashed] = asyncio.ensure_future(self._asked(hashed, key))
            asking.add_done_callback(lambda done: self._ended(hashed, done))
        if known is None or now - known.confirmed > TRUST_SECONDS:
            return await asyncio.shield(asking)
        try:
            return await asyncio.wait_for(asyncio.shield(asking), PATIENCE_SECONDS)
        except (TimeoutError, Unavailable):
            return known.caller

    async def _asked(self, hashed: str, key: str) -> Caller:
        now = time.monotonic()
        try:
            caller: Caller = await self._in_thread(self._ask, key)
        except Unauthenticated:
            self._known.pop(hashed, None)
            raise
        except Unavailable:
            known = self._known.get(hashed)
            if known is not None:
                self._known[hashed] = known._replace(fresh_until=time.monotonic() + RETRY_SECONDS)
            raise
        if len(self._known) >= MOST_KEYS:
            self._known.clear()
        self._known[hashed] = _Known(caller, now + FRESH_SECONDS, now)
        return caller

    def _ended(self, hashed: str, done: asyncio.Future[Caller]) -> None:
        self._asking.pop(hashed, None)
        if not done.cancelled():
            done.exception()  # nobody may have waited for it

    def _ask(self, key: str) -> Caller:
        with transaction(self._engine) as session:
            return self._authenticate(session, key)

    def forget(self) -> None:
        """Ask about every key again at its next use; keep what is known for when Postgres does not answer."""
        self._known = {hashed: known._replace(fresh_until=0.0) for hashed, known in list(self._known.items())}

    def start(self) -> None:
        """Forget when Postgres tells of a change, until `stop`."""
        threading.Thread(target=self._listen, name="keys-listen", daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        self._stop.set()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with listening(self._engine, CHANNEL) as connection:
                    self.forget()
                    while not self._stop.is_set():
                        for _ in connection.notifies(timeout=1.0, stop_after=1):
                            self.forget()
            except Exception as error:
                log.warning("keys_deaf", extra={"error": repr(error)})
                self._stop.wait(RETRY_SECONDS)

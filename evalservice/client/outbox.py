"""What is sent in the background: bounded in memory, kept while the service is away, drained at the end.

outbox = Outbox(send)
outbox.add(b"…")               # returns at once; False when it is full and the item is not kept
outbox.close(timeout=10)       # how many could not be sent
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalservice.errors import EvalserviceError, Unavailable

LIMIT_BYTES = 16 << 20
OVERHEAD = 250
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """Something to send: about which selection, and what."""

    selection_id: str
    body: bytes

    @property
    def size(self) -> int:
        """About what it takes in memory."""
        return OVERHEAD + len(self.body)


class Outbox:
    """Sends items in their order, up to `batch` at once, from `workers` threads. Safe to use from any thread.

    `send` raises Unavailable for what is worth repeating: the items wait. Any other error loses them, and is logged.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], None],
        *,
        name: str,
        batch: int = 1,
        workers: int = 1,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._send, self._name, self._batch = send, name, batch
        self._workers, self._limit = workers, limit_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._bytes = self._sending = self.lost = 0
        self._threads: list[threading.Thread] = []
        self._closing = self._ended = False

    def add(self, item: Item) -> bool:
        """Keep an item until it is sent. False: there is no room, or it is closed; it is counted in `lost`."""
        with self._changed:
            if self._closing or self._bytes + item.size > self._limit:
                self.lost += 1
                return False
            self._bytes += item.size
            self._waiting.append(item)
            if len(self._threads) < self._workers:
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        return True

    @property
    def waiting(self) -> int:
        """How many items are not sent yet."""
        return len(self._waiting) + self._sending

    def flush(self, timeout: float) -> bool:
        """Wait until everything is sent. False: it is not, `timeout` seconds later."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, timeout)

    def close(self, timeout: float) -> int:
        """Take nothing more and send what is here; gives how many could not be sent within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.flush(timeout)
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            return self.waiting

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while items := self._taken():
            try:
                self._send(items)
            except Unavailable as error:
                log.info("service_away", extra={"outbox": self._name, "error": error.message})
                self._returned(items)
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception as error:
                said = error.message if isinstance(error, EvalserviceError) else repr(error)
                log.warning(
                    "not_taken", extra={"outbox": self._name, "selection": items[0].selection_id, "error": said}
                )
                self._done(items, lost=len(items))
            else:
                pause = FIRST_PAUSE
                self._done(items, lost=0)

    def _taken(self) -> list[Item]:
        """The next items; none when it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._ended:
                return []
            items = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._sending += len(items)
            return items

    def _done(self, items: Sequence[Item], *, lost: int) -> None:
        with self._changed:
            self._sending -= len(items)
            self._bytes -= sum(item.size for item in items)
            self.lost += lost
            self._changed.notify_all()

    def _returned(self, items: Sequence[Item]) -> None:
        with self._changed:
            self._sending -= len(items)
            self._waiting.extendleft(reversed(items))

    def _rest(self, seconds: float) -> None:
        """Wait, but when it closes no longer than the first pause."""
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)
        if self._closing:
            time.sleep(max(0.0, min(FIRST_PAUSE, until - time.monotonic())))

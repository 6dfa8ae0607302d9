"""Chores: functions that are called every so often in a thread of their own, whatever they raise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Chore:
    seconds: float
    function: Callable[[], object]
    due: float = 0.0


class Periodic:
    """One thread for all of them: a chore that takes long delays the others, and nothing else."""

    def __init__(self) -> None:
        self._chores: list[_Chore] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="periodic", daemon=True)

    def add(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` every `seconds`, counted from the end of one call to the beginning of the next."""
        self._chores.append(_Chore(seconds, function))

    def start(self) -> None:
        """Begin; the first calls are due at once."""
        self._thread.start()

    def stop(self) -> None:
        """Call nothing more; a call that is under way ends by itself."""
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.is_set():
            for chore in list(self._chores):
                if time.monotonic() < chore.due or self._stop.is_set():
                    continue
                try:
                    chore.function()
                except Exception:
                    log.exception("chore_failed", extra={"chore": getattr(chore.function, "__qualname__", "")})
                chore.due = time.monotonic() + chore.seconds
            soonest = min((chore.due for chore in self._chores), default=time.monotonic() + 1.0)
            self._stop.wait(min(1.0, max(0.05, soonest - time.monotonic())))

"""Hear of new work at once: LISTEN on a connection of its own."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from evalservice.database import listening
from evalservice.runs.queue import CHANNEL

RETRY_SECONDS = 3.0
log = logging.getLogger(__name__)


def wake_on_work(engine: Engine, wake: threading.Event, stop: threading.Event) -> None:
    """Set `wake` whenever work is announced, until `stop`; whatever happens to Postgres meanwhile."""
    while not stop.is_set():
        try:
            with listening(engine, CHANNEL) as connection:
                wake.set()  # what was announced before is found now
                while not stop.is_set():
                    for _ in connection.notifies(timeout=1.0, stop_after=1):
                        wake.set()
        except Exception as error:
            log.warning("supervisor_deaf", extra={"error": error})
            stop.wait(RETRY_SECONDS)

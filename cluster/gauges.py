"""What only the whole service knows: how long its queue is. Told by every supervisor, the same by each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from cluster.hub import find_hub, keep_hub
from cluster.metrics import DRIVEN, QUEUE_AGE, QUEUE_LENGTH, Meters
from evalservice.database import transaction
from evalservice.runs.queue import queue_state

SECONDS = 5.0
"""How often to tell: Ray forgets a gauge after some 20."""


class ServiceGauges:
    """Tells the gauges of the service, and keeps the hub of metrics alive."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._meters = Meters()
        self._kept: Any = None

    def tell(self) -> None:
        """To be called every `SECONDS`. Raises DatabaseUnavailable."""
        with transaction(self._engine) as session:
            state = queue_state(session)
        self._meters.set(QUEUE_LENGTH, state.waiting)
        self._meters.set(QUEUE_AGE, state.oldest_seconds)
        self._meters.set(DRIVEN, state.driven)
        hub = find_hub()  # a handle that keeps nothing alive: the first one does, so it is not to be replaced
        if hub is None:
            hub = self._kept = keep_hub()
        hub.show.remote()

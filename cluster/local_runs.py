"""A running A/B test without a service: its runs are driven, and its turns are taken, by this process."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cluster.driver import Stop
from cluster.launch import run_claimed
from cluster.runtime import Platform, start_ray, stop_ray
from evalservice.errors import EvalserviceError
from evalservice.runs.lifecycle import Lease

log = logging.getLogger(__name__)


class LocalRuns:
    """A test's runs, each driven by a thread of this process, and its turns."""

    def __init__(self, platform: Platform, test_id: uuid.UUID, leases: Mapping[uuid.UUID, Lease]) -> None:
        self._platform, self._test_id = platform, test_id
        self._stops = {run_id: Stop() for run_id in leases}
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._drive, args=(lease, self._stops[run_id]), name=f"run-{run_id}", daemon=True)
            for run_id, lease in leases.items()
        ]

    @contextmanager
    def driven(self) -> Iterator[LocalRuns]:
        """The drivers work while the block runs and until each has ended, or left."""
        if self._threads:
            start_ray(self._platform.settings)
        for thread in self._threads:
            thread.start()
        try:
            yield self
        except BaseException:
            self.leave()
            raise
        finally:
            for thread in self._threads:
                thread.join()
            stop_ray()

    def leave(self) -> None:
        """Stop sending, keep what was answered, and let go of the runs."""
        for stop in self._stops.values():
            stop.request("left")

    def turn(self) -> None:
        """Bring the test forward. Raises what a driver raised, when none is at work any more."""
        from evalservice.comparisons.turns import take_turn

        with self._platform.transaction() as session:
            status = take_turn(session, self._test_id)
        if status == "running" and self._failures and not any(thread.is_alive() for thread in self._threads):
            raise self._failures[0]

    def _drive(self, lease: Lease, stop: Stop) -> None:
        try:
            run_claimed(self._platform, lease, stop, lambda progress: None)
        except BaseException as error:
            self._failures.append(error)
            message = error.message if isinstance(error, EvalserviceError) else f"{type(error).__name__}: {error}"
            log.warning("run_not_driven", extra={"run_id": lease.run_id, "error": message})

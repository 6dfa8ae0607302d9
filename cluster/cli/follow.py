"""Following what a service does: a run's progress, Ctrl-C, its end; and patience while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cluster.cli.output import note
from evalservice.client import path_of
from evalservice.errors import EvalserviceError, RunFailed, Unavailable

if TYPE_CHECKING:
    from cluster.cli.common import Service
    from cluster.driver import Progress
    from evalservice.client import Client

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
AGAIN_SECONDS = 1.0


class RemoteStop:
    """What a Ctrl-C asks for: that the service cancels the run. Asked in a thread: a signal handler must not wait."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def request(self, reason: Literal["cancelled"]) -> None:
        """Ask, once."""
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _cancel(self) -> None:
        try:
            self._client.post(path_of("evaluation-runs", self._run_id, "cancel"))
        except EvalserviceError as error:
            note(f"it was not cancelled: {error.message}")


def follow(client: Client, run_id: str, title: str) -> dict[str, Any]:
    """Show a run's progress to its end; Ctrl-C cancels it. Gives its document. Raises as `_to_its_end` does."""
    from cluster.cli.progress import cancelled_by_signals, shown

    with cancelled_by_signals(RemoteStop(client, run_id)), shown(title) as show:
        return _to_its_end(client, run_id, show)


def _to_its_end(client: Client, run_id: str, show: Callable[[Progress], None]) -> dict[str, Any]:
    """The run's document once nothing is left to be done on it. Connections that break are made again.

    Raises what the service answers, Unavailable when it stays away for two minutes, and RunFailed when what was asked
    of an ended run could not be done.
    """
    away_since: float | None = None
    told = ""
    while True:
        try:
            for kind, data in client.events(path_of("evaluation-runs", run_id, "events")):
                away_since = None
                if kind == "error":
                    raise EvalserviceError(str(data.get("detail", data)))
                show(_progress(data))
                if (waiting := str(data.get("waiting_for", ""))) != told:
                    told = waiting
                    if waiting:
                        note(f"waiting for {waiting}")
            run: dict[str, Any] = client.get(path_of("evaluation-runs", run_id))
            away_since = None
            if run["status"] in ("completed", "failed", "cancelled") and run["requested_work"] is None:
                if run["work_error"]:
                    raise RunFailed(f"run {run_id}: {run['work_error']}")
                return run
        except Unavailable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
        time.sleep(AGAIN_SECONDS)


def _progress(data: dict[str, Any]) -> Progress:
    from cluster.driver import Progress

    return Progress(data["total_test_cases"], data["completed_test_cases"], data["failed_test_cases"])


def patiently(read: Callable[[], T], opened: Service) -> T:
    """What `read` gives of a service, which may be away for two minutes. Raises Unavailable when it stays away."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return read()
        except Unavailable:
            if opened.platform is not None or time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_SECONDS)

"""Following a numbered experiment run to its end: a service's, or one whose cells this process drives in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

from cluster.cli.common import Service
from cluster.cli.follow import patiently
from cluster.cli.output import note
from cluster.cli.progress import cancelled_by_signals, shown
from cluster.driver import Progress, Stop
from cluster.launch import claim_for_resume, run_claimed
from cluster.runtime import Platform, stop_ray
from evalservice.client import path_of
from evalservice.comparisons.experiments import take_turn
from evalservice.errors import EvalserviceError, LeaseHeld

POLL_SECONDS = 1.0


class Leave:
    """What a Ctrl-C asks for: that this process lets go of the cell that it drives, and begins no other."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._driven: Stop | None = None

    def request(self, reason: Literal["cancelled"]) -> None:
        """Ask, from a signal handler."""
        self.asked.set()
        if self._driven is not None:
            self._driven.request("left")

    def stop(self) -> Stop:
        """What ends the next cell's driver."""
        self._driven = Stop()
        if self.asked.is_set():
            self._driven.request("left")
        return self._driven


def to_its_end(opened: Service, experiment_id: str, number: int) -> dict[str, Any]:
    """See a numbered run to its end, or until Ctrl-C; gives its document."""
    leave = Leave()
    try:
        with cancelled_by_signals(leave, "leaving"), shown(f"run {number}") as show:
            while True:
                run = patiently(lambda: _read(opened, experiment_id, number), opened)
                show(_progress(run))
                if run["status"] != "running" or leave.asked.is_set():
                    return run
                if opened.platform is None or not _drive_one(opened.platform, run, leave, show):
                    leave.asked.wait(POLL_SECONDS)
                if opened.platform is not None:
                    with opened.platform.transaction() as session:
                        take_turn(session, UUID(run["id"]))
    finally:
        if opened.platform is not None:
            stop_ray()


def _read(opened: Service, experiment_id: str, number: int) -> dict[str, Any]:
    runs = opened.client.items(path_of("experiments", experiment_id, "runs"))
    return next(run for run in runs if run["run_number"] == number)


def _drive_one(platform: Platform, run: dict[str, Any], leave: Leave, show: Callable[[Progress], None]) -> bool:
    """Drive the first cell that nobody drives to its end; whether there was one."""
    for cell in run["cells"]:
        if cell["status"] not in ("pending", "running"):
            continue
        try:
            lease = claim_for_resume(
                platform, cell["evaluation_run_id"], lambda left: note(f"waiting for a driver's lease ({left:.0f} s)")
            )
        except LeaseHeld:
            continue
        if lease is None:
            continue
        values = "".join(f", {key} {value}" for key, value in cell["parameters"].items())
        note(f"{cell['model']}{values} × {cell['benchmark']}")
        try:
            run_claimed(platform, lease, leave.stop(), show)
        except EvalserviceError as error:
            note(f"  failed: {error.message}")
        return True
    return False


def _progress(run: dict[str, Any]) -> Progress:
    """Over all cells."""
    total, completed, failed = (
        sum(cell[f"{name}_test_cases"] for cell in run["cells"]) for name in ("total", "completed", "failed")
    )
    return Progress(total, completed, failed)

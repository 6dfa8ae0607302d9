"""The progress of a run on stderr: a bar on a terminal, nothing otherwise; and Ctrl-C, which cancels cleanly."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cluster.cli.common import money
from cluster.cli.output import note
from cluster.driver import Progress

WINDOW_SECONDS = 10.0
DOUBLE_SECONDS = 1.0


class Stoppable(Protocol):
    """A run that can be asked to end early: by its driver here, or by a service."""

    def request(self, reason: Literal["cancelled"]) -> None:
        """Ask, from a signal handler."""
        ...


@contextmanager
def shown(title: str) -> Iterator[Callable[[Progress], None]]:
    """A function that shows the latest progress, for as long as the block runs. The bar vanishes at its end."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, facts="starting")
        history: list[tuple[float, int]] = []

        def show(progress: Progress) -> None:
            done = progress.completed + progress.failed
            history.append((time.monotonic(), done))
            while len(history) > 2 and history[-1][0] - history[0][0] > WINDOW_SECONDS:
                history.pop(0)
            bar.update(task, total=progress.total, completed=done, facts=_facts(progress, done, history))

        yield show


def _facts(progress: Progress, done: int, history: list[tuple[float, int]]) -> str:
    seconds = history[-1][0] - history[0][0]
    rate = (history[-1][1] - history[0][1]) / seconds if seconds > 0 else 0.0
    facts = [f"{rate:.0f}/s"]
    if progress.failed:
        facts.append(f"{progress.failed} errors")
    if progress.cost:
        facts.append(money(progress.cost))
    if rate > 0:
        facts.append(f"{_duration((progress.total - done) / rate)} left")
    return " · ".join(facts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def cancelled_by_signals(stop: Stoppable, said: str = "cancelling") -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) stops sending and keeps what was answered; the second ends the process at once.

    Wrappers (make, timeout) pass one keystroke on twice, so a second one counts only after a moment.
    """
    first = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first and now - first > DOUBLE_SECONDS:
            raise KeyboardInterrupt
        if first:
            return
        first = now
        stop.request("cancelled")
        note(f"{said}: what was answered is kept (Ctrl-C again to leave at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What a driver counts of its run, and how the hub of metrics hears of it: by the block, and once in two seconds."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayActorError

from cluster.hub import Report, find_hub
from cluster.metrics import COST, ERRORS, LEASE_LOSSES, RUNS, TEST_CASES, TOKENS, Metric

REPORT_SECONDS = 2.0
ANSWER_SECONDS = 1.5
"""How long the hub may take: at its end a run that is stopped has no more time than that."""

log = logging.getLogger(__name__)


class RunMeter:
    """The counts of one run that are not reported yet. Threads may use it at once."""

    def __init__(self, organization: str, platform: str) -> None:
        self.organization, self.platform = organization, platform
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        self._write_seconds: list[float] = []
        self._planned = self._block_rows = 0

    def planned(self, rows: int, block_rows: int) -> None:
        """So many test cases will be asked, in blocks of at most so many."""
        self._planned, self._block_rows = rows, block_rows

    def stored(self, rows: pa.Table, cost: Decimal, seconds: float) -> None:
        """A block of scored rows was stored, which took so long."""
        completed = pc.sum(rows.column("success")).as_py() or 0
        used = {name: pc.sum(rows.column(f"{name}_tokens")).as_py() or 0 for name in ("input", "output")}
        kinds = [] if completed == len(rows) else _kinds(rows)
        with self._lock:
            self._add(TEST_CASES, completed, "completed")
            self._add(TEST_CASES, len(rows) - completed, "failed")
            for direction, tokens in used.items():
                self._add(TOKENS, tokens, direction)
            for kind, count in kinds:
                self._add(ERRORS, count, kind)
            self._add(COST, float(cost))
            self._write_seconds.append(seconds)

    def ended(self, status: str) -> None:
        """The run was closed."""
        with self._lock:
            self._add(RUNS, 1, status)

    def lease_lost(self) -> None:
        """Another driver has the run."""
        with self._lock:
            self._counts[LEASE_LOSSES.name, ("taken_over",)] += 1

    def _add(self, metric: Metric, value: float, *label: str) -> None:
        if value:
            self._counts[metric.name, (self.organization, self.platform, *label)] += value

    def in_flight(self, blocks: int, generated: int) -> int:
        """Test cases that are asked now, as far as a driver knows: those of the blocks that are under way."""
        return max(0, min(blocks * self._block_rows, self._planned - generated))

    def take(self, run_id: str, in_flight: int) -> Report:
        """What was counted since the last time."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(float)
            seconds, self._write_seconds = self._write_seconds, []
        return Report(run_id, self.organization, self.platform, in_flight, dict(counts), seconds)

    def put_back(self, report: Report) -> None:
        """The hub did not hear it: the next report says it too."""
        with self._lock:
            for key, value in report.counts.items():
                self._counts[key] += value
            self._write_seconds = [*report.write_seconds, *self._write_seconds][-1000:]


def _kinds(rows: pa.Table) -> list[tuple[str, int]]:
    failed = rows.column("error_kind").filter(pc.invert(rows.column("success")))
    counted = pc.value_counts(failed).to_pylist()
    return [(each["values"] or "unknown", each["counts"]) for each in counted]


@contextmanager
def reporting(meter: RunMeter, run_id: str, signal: Any) -> Iterator[None]:
    """Report until the block ends, and then what is left. `signal`: the run's RunSignal."""
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(meter, run_id, signal, done), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2 * ANSWER_SECONDS)


def _report(meter: RunMeter, run_id: str, signal: Any, done: threading.Event) -> None:
    hub = None
    ended = False
    while not ended:
        ended = done.wait(REPORT_SECONDS)
        report = None
        try:
            hub = hub or find_hub()
            if hub is None:
                continue
            under_way = 0 if ended else meter.in_flight(*ray.get(signal.outstanding.remote(), timeout=ANSWER_SECONDS))
            report = meter.take(run_id, under_way)
            ray.get(hub.report.remote(report), timeout=ANSWER_SECONDS)
        except RayActorError:  # the next hub hears it; what only took too long this one has heard or will
            hub = None
            if report is not None:
                meter.put_back(report)
        except Exception as error:  # metrics never stop a run: Ray may be going away
            hub = None
            log.debug("metrics_not_reported", extra={"run_id": run_id, "error": type(error).__name__})

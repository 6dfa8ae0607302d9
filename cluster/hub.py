"""The hub of metrics: a small Ray actor that has the meters of all runs, because a driver does not live long enough.

The supervisor keeps it alive, on its own node; drivers find it by name. A driver that finds none reports nothing: a
run of the command line on a Ray of its own has nobody who would look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.metrics import IN_FLIGHT, METRICS, WRITE_SECONDS, Meters

NAME = "evalservice-metrics"
NAMESPACE = "evalservice"
SILENT_SECONDS = 15.0
"""A run whose driver has not reported for so long has nothing in flight."""

log = logging.getLogger(__name__)
_BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Report:
    """What a driver has counted since its last report.

    counts: {(metric's name, label values): how much}. in_flight: now, of this run.
    """

    run_id: str
    organization: str
    platform: str
    in_flight: int
    counts: Mapping[tuple[str, tuple[str, ...]], float]
    write_seconds: Sequence[float]


class MeterHub:
    """Deployed as a Ray actor that reserves no CPU."""

    def __init__(self) -> None:
        self._meters = Meters()
        self._runs: dict[str, tuple[tuple[str, str], int, float]] = {}
        self._shown: set[tuple[str, str]] = set()

    def report(self, report: Report) -> None:
        """Take over what a driver has counted."""
        for (name, labels), value in report.counts.items():
            self._meters.count(_BY_NAME[name], value, *labels)
        for seconds in report.write_seconds:
            self._meters.observe(WRITE_SECONDS, seconds)
        of = (report.organization, report.platform)
        self._runs[report.run_id] = (of, report.in_flight, time.monotonic())
        self.show()

    def show(self) -> None:
        """Set the gauges, which Ray forgets otherwise."""
        oldest = time.monotonic() - SILENT_SECONDS
        self._runs = {run: kept for run, kept in self._runs.items() if kept[1] and kept[2] >= oldest}
        totals = dict.fromkeys(self._shown, 0)
        for of, in_flight, _ in self._runs.values():
            totals[of] = totals.get(of, 0) + in_flight
        for of, total in totals.items():
            self._meters.set(IN_FLIGHT, total, *of)
        self._shown = {of for of, total in totals.items() if total}


def keep_hub() -> Any:
    """The hub, made if there is none; it lives as long as the process that has made it keeps what this returns."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    hub = ray.remote(MeterHub).options(
        name=NAME, namespace=NAMESPACE, get_if_exists=True, num_cpus=0, scheduling_strategy=here
    )
    return hub.remote()


def find_hub() -> Any | None:
    """The hub, if there is one."""
    try:
        return ray.get_actor(NAME, NAMESPACE)
    except ValueError:
        return None

"""What Prometheus is told: every metric by name, and the meters of one process.

Ray exports them from each node's metrics port as `ray_<name>`, counters as `ray_<name>_total`, with the labels below
and its own (`SessionName`, `NodeAddress`, `WorkerId`, …). Ours have few values that nobody can make more of: the
organization's id, the platform, the kind of an error, a route's template. A run's id is in the logs, not here.

Ray keeps the counters of each process that ever had one for as long as the node lives. So only processes that live
long have meters: replicas of the API, supervisors, and the hub (cluster/hub.py) to which drivers report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

PREFIX = "ray_"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `buckets` are a histogram's upper bounds."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        if self.kind == "counter":
            return (f"{PREFIX}{self.name}_total",)
        if self.kind == "gauge":
            return (f"{PREFIX}{self.name}",)
        return tuple(f"{PREFIX}{self.name}_{part}" for part in ("bucket", "count", "sum"))


_RUN = ("organization", "platform")

TEST_CASES = Metric(
    "counter", "evalservice_test_cases", "Test cases stored, by outcome: completed, failed.", (*_RUN, "outcome")
)
ERRORS = Metric("counter", "evalservice_errors", "Failed test cases stored, by kind of error.", (*_RUN, "kind"))
TOKENS = Metric("counter", "evalservice_tokens", "Tokens used, by direction: input, output.", (*_RUN, "direction"))
COST = Metric("counter", "evalservice_cost_dollars", "US dollars spent on models that have a price.", _RUN)
IN_FLIGHT = Metric("gauge", "evalservice_test_cases_in_flight", "Test cases that models are asked now.", _RUN)
RUNS = Metric("counter", "evalservice_runs", "Runs that ended, by status.", (*_RUN, "status"))
WRITE_SECONDS = Metric(
    "histogram", "evalservice_write_seconds", "How long storing a block of results took.", (), SECONDS
)
LEASE_LOSSES = Metric(
    "counter",
    "evalservice_lease_losses",
    "Leases of runs lost, by reason: driver_died, taken_over (from a driver that was thought dead).",
    ("reason",),
)
QUEUE_LENGTH = Metric("gauge", "evalservice_queue_length", "Runs that wait for a driver.")
QUEUE_AGE = Metric("gauge", "evalservice_queue_age_seconds", "How long the first of them has waited.")
DRIVEN = Metric("gauge", "evalservice_runs_driven", "Runs that a driver has.")
REQUESTS = Metric("counter", "evalservice_api_requests", "Requests answered by the API.", ("method", "route", "status"))
REQUEST_SECONDS = Metric(
    "histogram", "evalservice_api_request_seconds", "Until an answer of the API began.", ("method", "route"), SECONDS
)

DECISIONS_LOST = Metric(
    "counter", "evalservice_decisions_lost", "Routing decisions that were made and could not be logged."
)
DECISIONS_WAITING = Metric("gauge", "evalservice_decisions_waiting", "Routing decisions that are not stored yet.")
EVIDENCE_AGE = Metric(
    "gauge", "evalservice_evidence_age_seconds", "Age of the oldest snapshot that a replica decides on."
)

METRICS = (
    *(TEST_CASES, ERRORS, TOKENS, COST, IN_FLIGHT, RUNS, WRITE_SECONDS, LEASE_LOSSES),
    *(QUEUE_LENGTH, QUEUE_AGE, DRIVEN, REQUESTS, REQUEST_SECONDS, DECISIONS_LOST, DECISIONS_WAITING, EVIDENCE_AGE),
)


class Meters:
    """The metrics of this process, which must be connected to Ray. Label values come in the order of the labels."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def count(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a counter; nothing is added by 0."""
        if value > 0:
            self._of(metric).inc(value, dict(zip(metric.labels, labels, strict=True)))

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge. Ray forgets one that is not set again for some 20 seconds."""
        self._of(metric).set(value, dict(zip(metric.labels, labels, strict=True)))

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add an observation to a histogram."""
        self._of(metric).observe(value, dict(zip(metric.labels, labels, strict=True)))

    def _of(self, metric: Metric) -> Any:
        found = self._made.get(metric.name)
        if found is None:
            found = self._made[metric.name] = _make(metric)
        return found


def _make(metric: Metric) -> Any:
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.help, metric.labels)

"""Drivers as Ray jobs: the dashboard shows each by its run, with its log, and can stop it.

A job's submission id is `run-<run id>-<attempt>`, so that any supervisor finds the job of any attempt. It inherits the
environment of the Ray node on which it runs: nothing secret is in its command, its environment or its metadata.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.job_submission import JobSubmissionClient

from evalservice.errors import ClusterUnavailable
from evalservice.runs.queue import Work

TIMEOUT_SECONDS = 20.0
NO_SUCH_JOB = "status code 404"
State = Literal["alive", "succeeded", "failed", "stopped", "unknown"]
STATES: dict[str, State] = {
    "PENDING": "alive",
    "RUNNING": "alive",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


@dataclass(frozen=True, slots=True)
class JobLook:
    """How a job stands. message: why it failed, with the last lines of its log."""

    state: State
    message: str = ""

    def last_lines(self, most: int = 5) -> str:
        """The end of its log, in one line."""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return " | ".join(lines[-most:])[-1000:]


class Jobs:
    """The Jobs API of the cluster that this process is connected to. Every method raises ClusterUnavailable."""

    def __init__(self) -> None:
        self._client: Any = None

    def submit(self, work: Work, metadata: dict[str, str]) -> None:
        """Start the driver of a piece of work; a job that is there already is left alone."""
        name = submission_id(work, work.lease.attempt)
        try:
            self._connected().submit_job(
                submission_id=name,
                entrypoint=entrypoint(work, ray.get_runtime_context().gcs_address),
                metadata=metadata,
                entrypoint_num_cpus=0,
            )
        except Exception as error:
            if self.look(name).state == "unknown":
                raise self._lost(error) from error

    def look(self, name: str) -> JobLook:
        """How the job stands; `unknown` when there is none of that name."""
        try:
            details = self._connected().get_job_info(name)
        except Exception as error:
            if NO_SUCH_JOB in str(error):
                return JobLook("unknown")
            raise self._lost(error) from error
        return JobLook(STATES[str(getattr(details.status, "value", details.status))], details.message or "")

    def stop(self, name: str) -> None:
        """Ask a job to stop, as the dashboard does; harmless when it has ended."""
        try:
            self._connected().stop_job(name)
        except Exception as error:
            if NO_SUCH_JOB not in str(error):
                raise self._lost(error) from error

    def _connected(self) -> Any:
        if self._client is None:
            self._client = _Client(ray.get_runtime_context().gcs_address)
        return self._client

    def _lost(self, error: Exception) -> ClusterUnavailable:
        self._client = None
        lines = str(error).strip().splitlines()
        return ClusterUnavailable(f"Ray's Jobs API does not answer: {lines[0] if lines else type(error).__name__}")


def submission_id(work: Work, attempt: int) -> str:
    """The name of the job that drives this run at this attempt."""
    return f"run-{work.lease.run_id}-{attempt}"


def entrypoint(work: Work, address: str) -> str:
    """The command of a job. `exec`, so that what is stopped is the driver and not the shell around it.

    It names the cluster: Ray gives a job the address of whichever cluster was last started on the machine.
    """
    words = [work.lease.run_id, work.organization_id, work.lease.owner, work.lease.attempt, work.kind]
    command = shlex.join([sys.executable, "-m", "cluster.job", *map(str, words)])
    return f"RAY_ADDRESS={shlex.quote(address)} exec {command}"


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client waits for ever for an answer; a supervisor must not."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, timeout=TIMEOUT_SECONDS, **options)

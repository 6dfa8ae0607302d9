"""The supervisor: claims work, starts a Ray job for each piece of it, and sees to it that every run ends.

Any number of supervisors may run; Postgres is all that they share, and what one that dies leaves behind, another takes
over. A supervisor holds the lease of a run until the run's own driver has taken it over.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from cluster.driver import STOPPED_IN_DASHBOARD
from cluster.jobs import JobLook, Jobs, submission_id
from cluster.metrics import LEASE_LOSSES, RUNS, Meters
from cluster.periodic import Periodic
from cluster.runtime import Platform
from cluster.wake import wake_on_work
from evalservice.database import tenant_transaction, transaction
from evalservice.errors import ClusterUnavailable, EvalserviceError, LeaseLost
from evalservice.runs.leases import abandon, give_back, held_at
from evalservice.runs.lifecycle import driver_name, renew
from evalservice.runs.queue import Work, claim_work
from evalservice.tables import EvaluationRun

POLL_SECONDS = 1.0
CLAIM_SECONDS = 3.0
"""How often to look for work that nobody announced: an orphan, a run whose backoff is over."""
LOOKS_PER_SECOND = 8.0
"""How often the Jobs API is asked, over all jobs."""
START_SECONDS = 2.0
"""How often to renew the lease of a run whose driver is starting, and so to see whether it has started."""
STUCK_SECONDS = 120.0
MOST_ORPHANED = 5
"""So often a driver of a run may die before the run has failed."""
SLOTS_PER_CPU = 4

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A piece of work of this supervisor. `submitted`: Ray has it; `driven`: its driver has taken over the lease."""

    work: Work
    submitted: bool = False
    driven: bool = False
    looked: float = 0.0

    @property
    def name(self) -> str:
        return submission_id(self.work, self.work.lease.attempt)


class Supervisor:
    """A loop in a thread of its own. `slots`: how many runs at once; by default 4 for each CPU of the cluster.

    This process must be connected to Ray before `start`.
    """

    def __init__(self, platform: Platform, slots: int | None = None) -> None:
        self._engine = platform.engine
        self._slots = slots or platform.settings.max_concurrent_runs
        self._name = f"supervisor:{driver_name()}"
        self._ray = Jobs()
        self._meters = Meters()
        self._jobs: dict[str, _Job] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._turned = time.monotonic()
        self._claim_at = 0.0
        self._periodic = Periodic()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (
                ("supervisor", self._loop),
                ("supervisor-lease", self._keep_leases),
                ("supervisor-listen", lambda: wake_on_work(self._engine, self._wake, self._stop)),
            )
        ]

    def every(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` every so often, first soon after the start. What it raises is logged."""
        self._periodic.add(seconds, function)

    def start(self) -> None:
        """Begin to claim."""
        self._turned = time.monotonic()
        for thread in self._threads:
            thread.start()
        self._periodic.start()
        log.info("supervisor_started", extra={"supervisor": self._name, "slots": self._slots or "auto"})

    def stop(self, timeout: float = 30.0) -> None:
        """Claim nothing more. Runs that are under way go on: their drivers hold their leases."""
        self._stop.set()
        self._wake.set()
        self._periodic.stop()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        for job in [job for job in self._jobs.values() if not job.submitted]:
            self._give_back(job)
            del self._jobs[job.name]
        log.info("supervisor_stopped", extra={"supervisor": self._name, "left": len(self._jobs)})

    def stop_with_jobs(self, timeout: float = 30.0) -> None:
        """Claim nothing more and end the jobs. Their runs stay `running`, and the next supervisor goes on at once."""
        self.stop(timeout)
        for job in list(self._jobs.values()):
            self._give_back(job)
            with contextlib.suppress(EvalserviceError):
                self._ray.stop(job.name)
        self._jobs.clear()

    def _give_back(self, job: _Job) -> None:
        work = job.work
        with contextlib.suppress(EvalserviceError), tenant_transaction(self._engine, work.organization_id) as session:
            lease = held_at(session, work.lease.run_id, work.lease.attempt)
            if lease is not None:
                give_back(session, lease)

    def check(self) -> None:
        """Raises ClusterUnavailable when this supervisor supervises no more."""
        age = time.monotonic() - self._turned
        if not self._threads[0].is_alive() or age > STUCK_SECONDS:
            raise ClusterUnavailable(f"the supervisor of runs does nothing (for {age:.0f} s)")

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._turned = time.monotonic()
            try:
                for job in list(self._jobs.values()):
                    self._step(job)
                self._claim()
            except Exception as error:  # whatever it is, the next turn may do better
                log.warning("supervisor_turn_failed", extra={"error": f"{type(error).__name__}: {error}"})
            self._wake.wait(POLL_SECONDS)

    def _claim(self) -> None:
        if not self._wake.is_set() and time.monotonic() < self._claim_at:
            return
        self._wake.clear()
        while self._has_room() and not self._stop.is_set():
            with transaction(self._engine) as session:
                work = claim_work(session, self._name)
            if work is None:
                break
            log.info("run_claimed", extra={**_fields(work), "orphaned": work.orphaned})
            job = _Job(work)
            self._jobs[job.name] = job
            self._step(job)
        self._claim_at = time.monotonic() + CLAIM_SECONDS

    def _has_room(self) -> bool:
        """Whether one more may be claimed: a slot is free, and not too many are starting.

        A driver takes some seconds of CPU until it drives; eight that start at once on two CPUs would all take a
        minute. While Ray takes no jobs, what is claimed stays among those that are starting.
        """
        cpus = int(ray.cluster_resources().get("CPU", 1.0))
        starting = sum(not job.driven for job in self._jobs.values())
        return starting < max(2, cpus) and len(self._jobs) < (self._slots or max(4, SLOTS_PER_CPU * cpus))

    def _step(self, job: _Job) -> None:
        """Bring one job forward. A fault is logged and tried again at the next turn."""
        try:
            if not job.submitted:
                self._start(job)
                return
            now = time.monotonic()
            if now - job.looked < max(POLL_SECONDS, len(self._jobs) / LOOKS_PER_SECOND):
                return
            job.looked = now
            look = self._ray.look(job.name)
            if look.state != "alive":
                self._ended(job, look)
        except LeaseLost:
            del self._jobs[job.name]
        except EvalserviceError as error:
            log.warning("run_not_stepped", extra={**_fields(job.work), "error": error.message})

    def _start(self, job: _Job) -> None:
        work = job.work
        if work.orphaned:
            previous = submission_id(work, work.lease.attempt - 1)
            look = self._ray.look(previous)
            if look.state == "stopped":  # whoever watched over it died before it could say so
                self._close(job, STOPPED_IN_DASHBOARD)
                return
            if look.state == "alive":  # it cannot write any more, and shall not ask
                self._ray.stop(previous)
            if work.orphaned > MOST_ORPHANED:
                last = look.last_lines()
                reason = f"its driver died {work.orphaned} times" + (f", the last time after: {last}" if last else "")
                self._close(job, reason)
                return
        self._ray.submit(work, self._metadata(work))
        job.submitted, job.looked = True, time.monotonic()
        log.info("run_submitted", extra={**_fields(work), "job": job.name})

    def _metadata(self, work: Work) -> dict[str, str]:
        with tenant_transaction(self._engine, work.organization_id) as session:
            run = session.get_one(EvaluationRun, work.lease.run_id)
            names = {"model": run.provenance["model"]["name"], "benchmark": run.provenance["benchmark"]["name"]}
        return {"run": str(work.lease.run_id), "organization": str(work.organization_id), "work": work.kind, **names}

    def _ended(self, job: _Job, look: JobLook) -> None:
        work = job.work
        with tenant_transaction(self._engine, work.organization_id) as session:
            lease = held_at(session, work.lease.run_id, work.lease.attempt)
            if lease is not None and look.state != "stopped":
                abandon(session, lease)
        if lease is not None and look.state == "stopped":
            self._close(job, STOPPED_IN_DASHBOARD)
            return
        if lease is not None:
            log.warning("driver_died", extra={**_fields(work), "job": job.name, "last": look.last_lines()})
            self._meters.count(LEASE_LOSSES, 1, "driver_died")
        log.info("job_ended", extra={**_fields(work), "job": job.name, "state": look.state})
        del self._jobs[job.name]
        self._claim_at = 0.0

    def _close(self, job: _Job, reason: str) -> None:
        from evalservice.runs.closing import close_run  # brings scipy, for what rarely happens

        with tenant_transaction(self._engine, job.work.organization_id) as session:
            lease = held_at(session, job.work.lease.run_id, job.work.lease.attempt)
            if lease is not None:
                run = close_run(session, lease, "failed", error_message=reason)
                platform = str(run.provenance["model"].get("platform", ""))
                self._meters.count(RUNS, 1, str(job.work.organization_id), platform, run.status)
        log.warning("run_failed", extra={**_fields(job.work), "job": job.name, "error": reason})
        del self._jobs[job.name]
        self._claim_at = 0.0

    def _keep_leases(self) -> None:
        """Renew what this supervisor has claimed until its driver lives: on a busy machine that takes a while."""
        while not self._stop.wait(START_SECONDS):
            for job in list(self._jobs.values()):
                if job.driven:
                    continue
                try:
                    with tenant_transaction(self._engine, job.work.organization_id) as session:
                        renew(session, job.work.lease)
                except LeaseLost:
                    job.driven = True
                    self._wake.set()
                except Exception as error:
                    log.warning("lease_not_renewed", extra={**_fields(job.work), "error": error})


def _fields(work: Work) -> dict[str, object]:
    return {
        "run_id": work.lease.run_id,
        "organization_id": work.organization_id,
        "attempt": work.lease.attempt,
        "work": work.kind,
    }

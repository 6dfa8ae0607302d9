"""The driver: owns one run from claim to close. It alone writes the run's rows.

It holds the lease (renewed every few seconds by a thread of its own), feeds the pipeline with the blocks that are not
stored yet, and stores what comes back. When Postgres goes away it pauses the actors and tries again for a while; when
the lease is lost it stops at once and writes nothing more.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sqlalchemy import Engine

from actors.cache import StoredCompletion
from actors.garbage import collect_rarely
from actors.plan import RunPlan
from actors.signal import RunSignal
from cluster.budget import Budget
from cluster.desk import Answer, attended
from cluster.meter import RunMeter, reporting
from cluster.pipeline import scored_rows
from evalservice.catalog.blocks import Block, plan_blocks, plan_ordered_blocks, random_order
from evalservice.catalog.snapshots import open_snapshot
from evalservice.database import tenant_transaction
from evalservice.errors import DatabaseUnavailable, EvalserviceError, LeaseLost, RunFailed
from evalservice.runs.completion_cache import Answered, remember, stored_completions
from evalservice.runs.leases import give_back, note_waiting
from evalservice.runs.lifecycle import ENDED, HEARTBEAT_SECONDS, LEASE_SECONDS, Lease, cancel_requested, renew
from evalservice.runs.results import settled_mask, store_results
from evalservice.runs.spending import ITS_BUDGET
from evalservice.tables import EvaluationRun

POLL_SECONDS = 1.0
DATABASE_PATIENCE_SECONDS = 90.0
STOPPED_IN_DASHBOARD = "stopped in the Ray dashboard"
HOPELESS_AFTER = 20
"""So many failures of the kinds below, and not one success, end the run: it would fail for every test case."""
HOPELESS_KINDS = frozenset({"authentication", "not_found", "engine_error"})

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """What a progress bar shows. Counts of this run in all, cost in US dollars of what this driver stored."""

    total: int
    completed: int = 0
    failed: int = 0
    cost: Decimal = Decimal(0)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str = ""


@dataclass(frozen=True, slots=True)
class Drive:
    """What a driver needs: the run under its lease, the plan of its workers, and the way to Postgres."""

    engine: Engine
    organization_id: uuid.UUID
    lease: Lease
    plan: RunPlan
    total: int
    on_progress: Callable[[Progress], None] = lambda progress: None
    until_possible: Callable[[Stop], None] = lambda stop: None
    """Waits, under the lease, for what the run needs and the cluster has not got yet."""
    order_seed: int | None = None
    """Ask in the random order of this seed, the first `total` of it; by default in the dataset's own order."""


Reason = Literal["cancelled", "lease_lost", "hopeless", "stopped", "left", "budget"]


class Stop:
    """How to end a run early: from a signal handler, another thread, or the database."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason: Reason | Literal[""] = ""

    def request(self, reason: Reason) -> None:
        """The first reason stays. "left": the run is not over, whoever claims it next goes on with it."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def requested(self) -> bool:
        """Whether the run shall end."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is requested, at most so long; whether it is."""
        return self._event.wait(seconds)


def drive(job: Drive, stop: Stop) -> EvaluationRun:
    """Ask, score and store whatever the run still lacks, then close it; gives the closed run, or one that was left.

    Raises LeaseLost when another driver took over, DatabaseUnavailable when Postgres stays away, KeyboardInterrupt;
    the run is then still `running` and can be resumed. Any other fault closes it as `failed` with the reason and is
    raised again.
    """
    collect_rarely()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    signal = ray.remote(RunSignal).options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here).remote()
    meter = RunMeter(str(job.organization_id), job.plan.platform)
    try:
        with reporting(meter, str(job.lease.run_id), signal):
            run = _drive(job, stop, signal, meter)
            if run.status in ENDED:
                meter.ended(run.status)
            return run
    finally:
        _tell(signal, "stopped")


def _drive(job: Drive, stop: Stop, signal: Any, meter: RunMeter) -> EvaluationRun:
    budget = Budget(job.engine, job.organization_id, job.lease, on_exhausted=lambda: stop.request("budget"))
    desk: dict[str, Answer] = {"money": budget.answers} if job.plan.budgeted else {}
    if job.plan.cache != "off":
        desk["completions"] = functools.partial(_stored, job)
    try:
        with _watched(job, stop, signal), attended(signal, desk, DATABASE_PATIENCE_SECONDS) as attendant:
            progress = _store_all(job, stop, signal, meter)
            attendant.check()
            return _close(job, stop, progress, budget.exhausted)
    except LeaseLost:
        meter.lease_lost()
        raise
    except (DatabaseUnavailable, KeyboardInterrupt):
        raise
    except BaseException as error:
        _close_failed(job, error)
        meter.ended("failed")
        raise


def _store_all(job: Drive, stop: Stop, signal: Any, meter: RunMeter) -> Progress:
    run_id = job.lease.run_id
    total = job.total if job.order_seed is None else open_snapshot(job.plan.snapshot_uri).total
    with tenant_transaction(job.engine, job.organization_id) as session:
        settled = settled_mask(session, run_id, total)
        run = session.get_one(EvaluationRun, run_id)
        progress = Progress(job.total, run.completed_test_cases, run.failed_test_cases)
    job.on_progress(progress)
    job.until_possible(stop)
    if stop.requested():
        return progress
    blocks = _blocks(job, settled)
    if not blocks:
        return progress
    meter.planned(sum(map(len, blocks)), job.plan.block_rows)
    for rows in scored_rows(job.plan, blocks, signal):
        _store(job, rows, stop, signal, progress, meter)
        job.on_progress(progress)
        if stop.reason == "lease_lost":
            raise LeaseLost(f"run {run_id}: this driver's lease was taken over; it writes nothing more")
        if progress.completed == 0 and _hopeless(progress.errors) >= HOPELESS_AFTER:
            stop.request("hopeless")
    failure = ray.get(signal.failure.remote())
    if failure:
        raise RunFailed(failure)
    return progress


def _blocks(job: Drive, settled: npt.NDArray[np.bool_]) -> list[Block]:
    """What is left to be asked, in the order in which it shall be."""
    open_snapshot(job.plan.snapshot_uri)
    if job.order_seed is None:
        return plan_blocks(job.total, job.plan.block_rows, settled)
    return plan_ordered_blocks(random_order(len(settled), job.order_seed)[: job.total], job.plan.block_rows, settled)


def _hopeless(errors: Counter[str]) -> int:
    return sum(count for kind, count in errors.items() if kind in HOPELESS_KINDS)


def _store(job: Drive, rows: pa.Table, stop: Stop, signal: Any, progress: Progress, meter: RunMeter) -> None:
    """Store one block. While Postgres is away the actors are paused: nothing may be answered that cannot be kept."""
    deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
    paused = False
    while True:
        started = time.monotonic()
        try:
            with tenant_transaction(job.engine, job.organization_id) as session:
                stored = store_results(session, job.lease, job.organization_id, rows)
                if job.plan.cache != "off":
                    remember(session, job.organization_id, job.lease.run_id, _reusable(rows))
            seconds = time.monotonic() - started
            break
        except DatabaseUnavailable:
            if time.monotonic() > deadline:
                raise
            if not paused:
                log.warning("database_away", extra={"run_id": job.lease.run_id})
                _tell(signal, "paused")
                paused = True
            time.sleep(POLL_SECONDS)
        except LeaseLost:
            stop.request("lease_lost")
            raise
    if paused:
        _tell(signal, "running")
    cost = sum((Decimal(cost) for cost in rows.column("cost").to_pylist() if cost), Decimal(0))
    meter.stored(rows, cost, seconds)
    progress.completed += stored.completed
    progress.failed += stored.failed
    progress.cost += cost
    failures = rows.filter(pc.invert(rows.column("success")))
    progress.errors.update(failures.column("error_kind").to_pylist())
    if len(failures) and not progress.first_error:
        progress.first_error = failures.column("error_message")[0].as_py()


def _stored(job: Drive, asked: Mapping[int, Sequence[bytes]]) -> dict[int, dict[bytes, StoredCompletion]]:
    """Of the requests that each question names, the completions that are stored. Raises DatabaseUnavailable."""
    with tenant_transaction(job.engine, job.organization_id) as session:
        found = stored_completions(session, {key for keys in asked.values() for key in keys})
    known = {key: StoredCompletion(*stored) for key, stored in found.items()}
    return {number: {key: known[key] for key in keys if key in known} for number, keys in asked.items()}


def _reusable(rows: pa.Table) -> Iterator[Answered]:
    columns = [rows.column(name).to_pylist() for name in ("success", "test_case_index", "cache_keys")]
    for success, index, keys in zip(*columns, strict=True):
        for sample, key in enumerate(keys or ()):
            if success and key is not None:
                yield Answered(key, index, sample)


@contextlib.contextmanager
def _watched(job: Drive, stop: Stop, signal: Any) -> Iterator[None]:
    """Renew the lease, notice a cancel from elsewhere, and pass a stop on to the actors, until the block ends."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(job, stop, signal, done), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(job: Drive, stop: Stop, signal: Any, done: threading.Event) -> None:
    renewed = asked = time.monotonic()
    told = False
    waits_for = ""
    while not done.is_set():
        if stop.requested() and not told:
            _tell(signal, "stopped")
            told = True
        now = time.monotonic()
        try:
            if now - renewed >= HEARTBEAT_SECONDS:
                with tenant_transaction(job.engine, job.organization_id) as session:
                    renew(session, job.lease)
                renewed = now
            if not told and now - asked >= POLL_SECONDS:
                asked = now
                found = _waiting_for(signal, waits_for)
                with tenant_transaction(job.engine, job.organization_id) as session:
                    if cancel_requested(session, job.lease):
                        stop.request("cancelled")
                    if found != waits_for:
                        note_waiting(session, job.lease, found)
                waits_for = found
        except LeaseLost:
            if not done.is_set():  # else the run was closed a moment ago
                stop.request("lease_lost")
                _tell(signal, "stopped")
            return
        except Exception as error:  # this thread must go on: it is the one that keeps the lease and hears Ctrl-C
            log.warning("lease_not_renewed", extra={"run_id": job.lease.run_id, "error": error})
        if told:
            done.wait(POLL_SECONDS)
        else:
            stop.wait(POLL_SECONDS / 4)


def _waiting_for(signal: Any, before: str) -> str:
    try:
        found: str = ray.get(signal.waiting_for.remote(), timeout=POLL_SECONDS / 2)
    except Exception:  # a cancel must be heard all the same
        return before
    return found


def _tell(signal: Any, state: str) -> None:
    with contextlib.suppress(Exception):  # Ray may be gone; the actors then stop by themselves
        ray.get(signal.set.remote(state), timeout=5)


def _close(job: Drive, stop: Stop, progress: Progress, exhausted: str) -> EvaluationRun:
    """Close the run by what Postgres says of it; while Postgres is away, try again for as long as in `_store`.

    exhausted: which limit of money is at its end.
    """
    from evalservice.runs.closing import close_run  # brings scipy, a second that the first request need not wait for

    deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
    tried = False
    while True:
        try:
            with tenant_transaction(job.engine, job.organization_id) as session:
                run = session.get_one(EvaluationRun, job.lease.run_id)
                if tried and run.status in ENDED and run.attempt == job.lease.attempt and run.lease_owner is None:
                    return run  # the commit went through, its answer did not
                if stop.reason == "left" and run.completed_test_cases + run.failed_test_cases < run.total_test_cases:
                    give_back(session, job.lease)
                    return run
                status, message = _verdict(run, stop, progress, exhausted)
                return close_run(session, job.lease, status, error_message=message)
        except DatabaseUnavailable:
            if time.monotonic() > deadline:
                raise
            tried = True
            time.sleep(POLL_SECONDS)


def _verdict(run: EvaluationRun, stop: Stop, progress: Progress, exhausted: str) -> tuple[str, str]:
    """How the run ends, and why."""
    kinds = ", ".join(f"{kind} ({count})" for kind, count in progress.errors.most_common(3))
    if progress.first_error:
        kinds += f"; the first: {progress.first_error}"
    missing = run.total_test_cases - run.completed_test_cases - run.failed_test_cases
    if stop.reason == "hopeless":
        return "failed", f"stopped: every request failed: {kinds}"
    if missing > 0 and stop.reason == "stopped":
        return "failed", STOPPED_IN_DASHBOARD
    if stop.reason == "budget" and (missing > 0 or run.status in ENDED):
        spent = f"${run.reserved_cost.normalize():f} spent"
        left = f"{missing} test cases not asked" if missing > 0 else "test cases that failed not asked again"
        if exhausted.startswith(ITS_BUDGET):
            more = "`evalservice runs resume ID --max-cost USD` goes on"
        else:
            more = "`evalservice runs resume ID` goes on tomorrow (UTC), or under another limit"
        return "cancelled" if missing > 0 else "completed", f"stopped at {exhausted} ({spent}) with {left}; {more}"
    if missing > 0:
        return "cancelled", f"cancelled with {missing} test cases not asked"
    if run.completed_test_cases == 0:
        return "failed", f"no test case succeeded: {kinds}" if kinds else "no test case succeeded"
    return "completed", ""


def _close_failed(job: Drive, error: BaseException) -> None:
    from evalservice.runs.closing import close_run

    message = error.message if isinstance(error, EvalserviceError) else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(EvalserviceError), tenant_transaction(job.engine, job.organization_id) as session:
        close_run(session, job.lease, "failed", error_message=message[:2000], error_traceback=trace[-20_000:])


def lease_patience() -> float:
    """Seconds after which a lease that nobody renews has surely lapsed."""
    return LEASE_SECONDS + 1.0

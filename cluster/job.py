"""The driver of one run as a process of its own: what a Ray job runs, `python -m cluster.job RUN ORGANIZATION …`.

It takes over the lease under which it was started, so that whoever started it knows from then on that it lives.
SIGTERM is what the Ray dashboard sends, three seconds before SIGKILL: the run ends as failed and can be resumed.
Exit code 0: the run was closed as completed or cancelled, or what was asked of an ended run is done. The log is what
the dashboard shows.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

from cluster.driver import Drive, Progress, Stop, drive
from cluster.launch import drive_of, give_up, rescore_claimed
from cluster.observability import log_as_json
from cluster.runtime import Platform, open_platform, read_service_settings, start_ray, stop_ray
from cluster.waiting import wait_for_gpus
from evalservice.database import tenant_transaction
from evalservice.errors import DatabaseUnavailable, EvalserviceError, LeaseLost
from evalservice.runs.leases import hand_over, note_waiting
from evalservice.runs.lifecycle import Lease, driver_name
from evalservice.runs.queue import Kind
from evalservice.tables import EvaluationRun

PROGRESS_SECONDS = 5.0
START_SECONDS = 180.0
"""Eight drivers that start at once on two CPUs take a minute."""
log = logging.getLogger("cluster.job")


def main(arguments: list[str] | None = None) -> int:
    """Drive the run that the arguments name; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cluster.job", description=__doc__)
    parser.add_argument("run", type=uuid.UUID)
    parser.add_argument("organization", type=uuid.UUID)
    parser.add_argument("owner", help="who holds the run's lease now")
    parser.add_argument("attempt", type=int)
    parser.add_argument("work", choices=get_args(Kind))
    given = parser.parse_args(arguments)
    about = {"run_id": str(given.run), "organization_id": str(given.organization), "attempt": str(given.attempt)}
    log_as_json(lambda: about, stream=sys.stdout)
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.request("stopped"))
    lease = Lease(given.run, given.owner, given.attempt, keeps_status=given.work != "run")
    try:
        with open_platform(read_service_settings()) as opened:
            return _run(replace(opened, organization_id=given.organization), lease, given.work, stop)
    except EvalserviceError as error:
        log.error("run_left", extra={"code": error.code, "error": error.message})
        return 1
    except Exception as error:
        log.exception("driver_crashed", extra={"error": f"{type(error).__name__}: {error}"})
        return 1


def _run(platform: Platform, lease: Lease, work: Kind, stop: Stop) -> int:
    with under_way_within(START_SECONDS):
        start_ray(platform.settings)
    try:
        with platform.transaction() as session:
            lease = hand_over(session, lease, driver_name())
            run = session.get_one(EvaluationRun, lease.run_id)
            names = run.provenance["model"]["name"], run.provenance["benchmark"]["name"]
        log.info("run_started", extra={"work": work, "model": names[0], "benchmark": names[1]})
        ended = rescore_claimed(platform, lease) if work == "rescore" else _drive(platform, lease, stop)
    except (DatabaseUnavailable, LeaseLost):
        raise  # nothing can be written now: the supervisor starts the run again, or somebody else drives it
    except BaseException as error:
        _close_failed(platform, lease, error)
        raise
    finally:
        stop_ray()
    log.info(
        "run_ended",
        extra={
            "status": ended.status,
            "completed": ended.completed_test_cases,
            "failed": ended.failed_test_cases,
            "total": ended.total_test_cases,
            "cost": ended.total_cost,
            "seconds": ended.duration_seconds,
            "error": ended.error_message,
        },
    )
    return 0 if work != "run" or ended.status in ("completed", "cancelled") else 1


@contextmanager
def under_way_within(seconds: float) -> Iterator[None]:
    """End this process if the block has not ended by then: Ray may wait for ever for a cluster that does not answer.

    The supervisor sees a driver that died, and starts the run again.
    """
    timer = threading.Timer(seconds, _end_late, (seconds,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_late(seconds: float) -> None:
    log.error("ray_not_reached", extra={"seconds": seconds})
    logging.shutdown()
    os._exit(1)


def _drive(platform: Platform, lease: Lease, stop: Stop) -> EvaluationRun:
    with _reported() as on_progress:
        job = drive_of(platform, lease, on_progress)
        return drive(replace(job, until_possible=lambda asked: _wait(job, asked)), stop)


def _wait(job: Drive, stop: Stop) -> None:
    def note(what: str) -> None:
        with tenant_transaction(job.engine, job.organization_id) as session:
            note_waiting(session, job.lease, what)

    wait_for_gpus(job.plan, stop, note)


def _close_failed(platform: Platform, lease: Lease, error: BaseException) -> None:
    """What `drive` raised it has closed itself; this is for what fails before and beside it."""
    message = error.message if isinstance(error, EvalserviceError) else f"{type(error).__name__}: {error}"
    log.error("run_failed", extra={"error": message})
    try:
        give_up(platform, lease, message[:2000])
    except EvalserviceError as other:
        log.info("run_not_closed", extra={"code": other.code})


@contextmanager
def _reported() -> Iterator[Callable[[Progress], None]]:
    """A function that takes the latest progress; a thread logs it every few seconds."""
    latest: deque[Progress] = deque(maxlen=1)
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(latest, done), name="progress", daemon=True)
    thread.start()
    try:
        yield latest.append
    finally:
        done.set()
        thread.join()


def _report(latest: deque[Progress], done: threading.Event) -> None:
    before, at = None, time.monotonic()
    while not done.wait(PROGRESS_SECONDS):
        # Brings scipy, which the end needs: a run that is stopped has three seconds to close.
        import evalservice.runs.closing  # noqa: F401

        if not latest:
            continue
        progress, now = latest[0], time.monotonic()
        count = progress.completed + progress.failed
        log.info(
            "run_progress",
            extra={
                "completed": progress.completed,
                "failed": progress.failed,
                "total": progress.total,
                "per_second": round((count - (count if before is None else before)) / (now - at), 1),
                "cost": progress.cost,
                "errors": dict(progress.errors.most_common(3)),
            },
        )
        before, at = count, now


if __name__ == "__main__":
    sys.exit(main())

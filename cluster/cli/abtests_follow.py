"""Following a running A/B test to its end: one of a service's, or one whose runs this process drives."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Literal
from uuid import UUID

from cluster.cli.common import Service, detached
from cluster.cli.follow import patiently
from cluster.cli.output import note
from cluster.cli.progress import cancelled_by_signals, shown
from cluster.driver import Progress
from cluster.local_runs import LocalRuns
from evalservice.client import path_of
from evalservice.errors import LeaseHeld
from evalservice.runs.lifecycle import Lease

POLL_SECONDS = 1.0


class Leave:
    """What a Ctrl-C asks for: that this process follows the test no more."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def request(self, reason: Literal["cancelled"]) -> None:
        """Ask, from a signal handler."""
        self.asked.set()


def to_its_end(opened: Service, test: dict[str, Any]) -> dict[str, Any]:
    """Follow a test until it has ended, or Ctrl-C; gives its document. Raises what its drivers and the service do."""
    leave = Leave()
    test_id = test["id"]
    title = " against ".join(run["model"] for run in test["runs"])
    with contextlib.ExitStack() as stack:
        local = None
        if opened.platform is not None:
            local = LocalRuns(opened.platform, UUID(test_id), _leases(opened, test))
        stack.enter_context(cancelled_by_signals(leave, "leaving"))
        show = stack.enter_context(shown(title))
        if local is not None:
            stack.enter_context(local.driven())
        stopped: set[str] = set()
        while test["status"] == "running" and not leave.asked.is_set():
            leave.asked.wait(POLL_SECONDS)
            if local is not None and not leave.asked.is_set():
                local.turn()
            test = patiently(lambda: opened.client.get(path_of("ab-tests", test_id)), opened)
            show(_progress(test))
            stopped = _told(test, stopped)
        if local is not None and test["status"] == "running":
            local.leave()
    return test


def _leases(opened: Service, test: dict[str, Any]) -> dict[UUID, Lease]:
    """The leases of the runs that have not ended, and that nobody else drives: claimed when the test was started, or
    taken over now."""
    from cluster.launch import claim_for_resume

    assert opened.claims is not None
    assert opened.platform is not None
    leases = dict(opened.claims.leases)
    for run in test["runs"]:
        run_id = UUID(run["evaluation_run_id"])
        driven = run["is_shared"] and run["status"] == "running"
        if driven or run_id in leases or run["status"] not in ("pending", "running"):
            continue
        try:
            lease = claim_for_resume(
                opened.platform, str(run_id), lambda left: note(f"waiting for the last driver's lease ({left:.0f} s)")
            )
        except LeaseHeld as error:
            note(f"another process drives it: {error.message}")
            continue
        if lease is not None:
            leases[run_id] = lease
    return leases


def _progress(test: dict[str, Any]) -> Progress:
    """Over all models that are not out."""
    going = [run for run in test["runs"] if not _state(test, run).get("stopped")]
    planned = test["plan"]["test_cases"]
    done = [min(planned, run["completed_test_cases"] + run["failed_test_cases"]) for run in going]
    return Progress(planned * len(going), sum(done))


def _state(test: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = test["results"]["models"].get(run["model_id"], {})
    return state


def _told(test: dict[str, Any], before: set[str]) -> set[str]:
    """Say who is out; gives who has been named."""
    out = {run["model"]: _state(test, run)["test_cases"] for run in test["runs"] if _state(test, run).get("stopped")}
    for model in out.keys() - before:
        note(f"{model} has lost after {out[model]:,} test cases")
    return set(out)


def in_background(opened: Service, test_id: str) -> str:
    """The service's supervisors see to the test; without a service a process of its own does. Says where its log is."""
    if opened.platform is None:
        return ""
    log = detached(opened.platform, f"abtest-{test_id}.log", "abtests", "start", test_id)
    return f" (log: {log})"

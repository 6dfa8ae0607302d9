"""`evalservice run`: benchmark a model, from the first request to the closed run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, json_object, money, platform, with_interval
from cluster.cli.output import note, print_json, say

if TYPE_CHECKING:
    from cluster.runtime import Platform
    from evalservice.runs.lifecycle import Lease
    from evalservice.tables import EvaluationRun


def run(
    model: Annotated[str, typer.Option("--model", metavar="M", help="A registered model.")],
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="B", help="A registered benchmark.")],
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first N test cases.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="JSON", help="Overrides the model's configuration for this run.")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", metavar="N", help="Requests in flight at most (default 64).")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", metavar="N", help="Higher is started earlier.")] = 0,
    name: Annotated[str, typer.Option("--name", metavar="N", help="A name for this run.")] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the run's id and go on in the background.")] = False,
    json: Json = False,
) -> int:
    """Benchmark a model. Every result is a row in Postgres; the run can be resumed after any fault.

    Ctrl-C once cancels and keeps what was answered. Exit code 1 when the run did not complete.
    """
    from cluster.launch import new_run
    from evalservice.runs.lifecycle import driver_name

    with platform() as opened:
        run_id, lease = new_run(
            opened,
            model=model,
            benchmark=benchmark,
            config=json_object("config", config),
            limit=limit,
            max_concurrency=max_concurrency,
            name=name,
            priority=priority,
            owner=None if no_wait else driver_name(),
        )
        if lease is None:
            return _in_background(opened, str(run_id), json)
        note(f"run {run_id}: {model} × {benchmark} (after any fault: evalservice runs resume {run_id})")
        return finish(opened, lease, json)


def finish(opened: Platform, lease: Lease, json: bool) -> int:
    """Drive a claimed run to its end and print it; 0 when it completed."""
    from cluster.cli.progress import cancelled_by_signals, shown
    from cluster.driver import Stop
    from cluster.launch import run_claimed
    from cluster.runtime import stop_ray

    stop = Stop()
    try:
        with cancelled_by_signals(stop), shown("asking") as show:
            ended = run_claimed(opened, lease, stop, show)
    finally:
        stop_ray()
    report(ended, json)
    return 0 if ended.status == "completed" else 1


def report(ended: EvaluationRun, json: bool) -> None:
    """Print a run: as JSON, or as a few lines for people."""
    if json:
        print_json(document(ended))
        return
    seconds = f" in {ended.duration_seconds:.1f} s" if ended.duration_seconds is not None else ""
    say(
        f"{ended.status}{seconds}: {ended.completed_test_cases} of {ended.total_test_cases} test cases answered, "
        f"{ended.failed_test_cases} failed"
    )
    if ended.error_message:
        say(f"  {ended.error_message}")
    for metric, result in ended.aggregated_results.items():
        say(f"  {metric:<20} {with_interval(result)}  n = {result['n']}")
    if ended.total_tokens is not None:
        cost = f", {money(ended.total_cost)}" if ended.total_cost is not None else ""
        say(f"  {ended.input_tokens or 0} input and {ended.output_tokens or 0} output tokens{cost}")
    if ended.status in ("cancelled", "failed"):
        say(f"  go on with: evalservice runs resume {ended.id}")
    elif ended.failed_test_cases:
        say(f"  look at the failures: evalservice runs items {ended.id} --failed")


def document(run: EvaluationRun) -> dict[str, Any]:
    """The JSON of `run --json`."""
    names = [
        "id",
        "status",
        "total_test_cases",
        "completed_test_cases",
        "failed_test_cases",
        "duration_seconds",
        "input_tokens",
        "output_tokens",
        "total_cost",
        "aggregated_results",
    ]
    shown = {name: getattr(run, name) for name in names}
    return {**shown, "error_message": run.error_message} if run.error_message else shown


def _in_background(opened: Platform, run_id: str, json: bool) -> int:
    """A process of its own drives the run; its log is kept under the home."""
    logs = opened.settings.home_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"run-{run_id}.log").open("wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "runs", "resume", run_id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if json:
        print_json({"id": run_id, "status": "pending", "log": log.name})
    else:
        say(f"run {run_id} goes on in the background (log: {log.name}); see `evalservice runs show {run_id}`")
    return 0

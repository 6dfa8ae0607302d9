"""`evalservice run`: benchmark a model, from the first request to the closed run."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any
from uuid import UUID

import typer

from cluster.cli.alerts import said
from cluster.cli.common import Json, Service, body_of, detached, json_object, money, service, with_interval
from cluster.cli.follow import follow
from cluster.cli.output import note, print_json, say
from evalservice.client import path_of
from evalservice.errors import EvalserviceError

SERVICE_PATIENCE_SECONDS = 2.0
LATEST = 100


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
    max_cost: Annotated[
        str | None,
        typer.Option(
            "--max-cost", metavar="USD", help="The run's budget in US dollars: it stops before it costs more."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="off|deterministic|all",
            help="Use stored completions again for the very same requests: for none, for those at temperature 0, for "
            "all. Default: the organization's setting completion_cache, else off.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option("--priority", metavar="N", help="Higher is started earlier.")] = 0,
    name: Annotated[str, typer.Option("--name", metavar="N", help="A name for this run.")] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the run's id and go on in the background.")] = False,
    json: Json = False,
) -> int:
    """Benchmark a model. Every result is a row in Postgres; the run can be resumed after any fault.

    This process drives the run, or with EVALSERVICE_URL the service does and this follows it. Ctrl-C once cancels and
    keeps what was answered. Exit code 1 when the run did not complete. One that is worse than earlier ones of the same
    configuration, beyond noise, is told on stderr and listed by `evalservice alerts`.
    """
    from evalservice.catalog.model_config import ModelConfig
    from evalservice.catalog.schemas import parse
    from evalservice.runs.lifecycle import driver_name
    from evalservice.runs.schemas import RunBody

    own = ModelConfig.parse("config", json_object("config", config))
    given: dict[str, Any] = {"model": model, "benchmark": benchmark, "limit": limit, "max_concurrency": max_concurrency}
    given |= {} if max_cost is None else {"max_cost": max_cost}
    given |= {} if cache is None else {"completion_cache": cache}
    new = parse(RunBody, {**given, "name": name, "priority": priority})
    with service() as opened:
        if opened.claims is not None and not no_wait:
            opened.claims.owner = driver_name()
        created = opened.client.post(path_of("evaluation-runs"), {**body_of(new), "config": own.set_values()})
        run_id = created["id"]
        if no_wait:
            return _in_background(opened, created, json)
        note(f"run {run_id}: {model} × {benchmark} (after any fault: evalservice runs resume {run_id})")
        return finish(opened, run_id, json)


def finish(opened: Service, run_id: str, json: bool) -> int:
    """See a run to its end, as its driver or by following the service's, and print it; 0 when it completed."""
    try:
        ended = to_its_end(opened, run_id, "asking")
    finally:
        leave_ray(opened)
    alert = None
    if ended["status"] == "completed":
        with contextlib.suppress(EvalserviceError):  # the run is done; its check stays due
            alert = _regression(opened, ended)
    if json and alert is not None:
        print_json({**document(ended), "regression_alert": alert})
    else:
        report(ended, json)
    if alert is not None:
        note(said(alert))
    return 0 if ended["status"] == "completed" else 1


def _regression(opened: Service, ended: dict[str, Any]) -> dict[str, Any] | None:
    """The alert that a completed run has raised. A service checks it in its own time, which is waited for a little."""
    run_id, patience = ended["id"], 0.0
    if opened.platform is not None:
        from cluster.regressions import check_own
        from cluster.webhooks import send_own

        check_own(opened.platform)
        send_own(opened.platform)
    elif _measured_before(opened, ended):
        patience = SERVICE_PATIENCE_SECONDS
    deadline = time.monotonic() + patience
    while True:
        for alert in opened.client.items(path_of("regression-alerts"), 1, evaluation_run_id=run_id):
            return alert
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.5)


def _measured_before(opened: Service, ended: dict[str, Any]) -> bool:
    """Whether there is anything to be worse than, among the latest runs of this model."""
    latest = opened.client.items(path_of("evaluation-runs"), LATEST, model=ended["model_id"], status="completed")
    return any(r["id"] != ended["id"] and r["configuration_hash"] == ended["configuration_hash"] for r in latest)


def to_its_end(opened: Service, run_id: str, title: str) -> dict[str, Any]:
    """Drive a run that this process has claimed, or follow one that a service drives; gives its document."""
    if opened.platform is None:
        return follow(opened.client, run_id, title)
    from cluster.cli.progress import cancelled_by_signals, shown
    from cluster.driver import Stop
    from cluster.launch import run_claimed

    assert opened.claims is not None
    stop = Stop()
    with cancelled_by_signals(stop), shown(title) as show:
        run_claimed(opened.platform, opened.claims.leases[UUID(run_id)], stop, show)
    run: dict[str, Any] = opened.client.get(path_of("evaluation-runs", run_id))
    return run


def leave_ray(opened: Service) -> None:
    """No more runs are driven here; a local Ray ends."""
    if opened.platform is not None:
        from cluster.runtime import stop_ray

        stop_ray()


def report(run: dict[str, Any], json: bool) -> None:
    """Print a run: as JSON, or as a few lines for people."""
    if json:
        print_json(document(run))
        return
    seconds = f" in {run['duration_seconds']:.1f} s" if run["duration_seconds"] is not None else ""
    say(
        f"{run['status']}{seconds}: {run['completed_test_cases']} of {run['total_test_cases']} test cases answered, "
        f"{run['failed_test_cases']} failed"
    )
    if run["error_message"]:
        say(f"  {run['error_message']}")
    for metric, result in run["aggregated_results"].items():
        say(f"  {metric:<20} {with_interval(result)}  n = {result['n']}")
    if run["cached_test_cases"]:
        say(f"  {run['cached_test_cases']} test cases from the completion cache, at no cost")
    if run["total_tokens"] is not None:
        cost = f", {money(run['total_cost'])}" if run["total_cost"] is not None else ""
        say(f"  {run['input_tokens'] or 0} input and {run['output_tokens'] or 0} output tokens{cost}")
    if run["status"] in ("cancelled", "failed"):
        more = " --max-cost USD" if "--max-cost" in run["error_message"] else ""
        say(f"  go on with: evalservice runs resume {run['id']}{more}")
    elif run["failed_test_cases"]:
        say(f"  look at the failures: evalservice runs items {run['id']} --failed")


def document(run: dict[str, Any]) -> dict[str, Any]:
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
    shown = {name: run[name] for name in names}
    if run["cached_test_cases"]:
        shown["cached_test_cases"] = run["cached_test_cases"]
    return {**shown, "error_message": run["error_message"]} if run["error_message"] else shown


def _in_background(opened: Service, created: dict[str, Any], json: bool) -> int:
    """The service's supervisors drive the run; without a service a process of its own does, with a log in the home."""
    run_id = created["id"]
    if opened.platform is None:
        if json:
            print_json({"id": run_id, "status": created["status"]})
        else:
            say(f"run {run_id} is {created['status']}; see `evalservice runs show {run_id}`")
        return 0
    log = detached(opened.platform, f"run-{run_id}.log", "runs", "resume", run_id)
    if json:
        print_json({"id": run_id, "status": "pending", "log": str(log)})
    else:
        say(f"run {run_id} goes on in the background (log: {log}); see `evalservice runs show {run_id}`")
    return 0

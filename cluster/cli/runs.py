"""`evalservice runs`: list, look into, cancel, resume, rescore and export runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from cluster.cli.common import Json, body_of, minute, money, service, with_interval
from cluster.cli.follow import follow
from cluster.cli.output import note, print_json, print_table, say
from cluster.cli.run import finish, report
from evalservice.client import path_of
from evalservice.errors import InvalidInput, LeaseHeld

if TYPE_CHECKING:
    from evalservice.client import Client

LEASE_PATIENCE_SECONDS = 20.0

app = typer.Typer(help="Runs: look at them, cancel, resume, rescore, export.", no_args_is_help=True)

RunId = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or the beginning of it (8 characters or more).")
]


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option("--status", metavar="S", help="Only runs in this status.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Only this model's runs.")] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", metavar="B", help="Only this benchmark's.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the runs, the newest first."""
    with service() as opened:
        items = list(
            opened.client.items(path_of("evaluation-runs"), limit, status=status, model=model, benchmark=benchmark)
        )
    if json:
        print_json({"items": items})
        return
    print_table(
        ["ID", "MODEL", "BENCHMARK", "STATUS", "DONE", "FAILED", "RESULT", "COST", "CREATED"],
        [
            [
                i["id"],
                i["model"],
                i["benchmark"],
                i["status"],
                f"{i['completed_test_cases']}/{i['total_test_cases']}",
                i["failed_test_cases"],
                with_interval(i["aggregated_results"].get(i["primary_metric"], {})),
                money(i["total_cost"]),
                minute(i["created_at"]),
            ]
            for i in items
        ],
    )


@app.command("show")
def show(run_id: RunId, json: Json = False) -> None:
    """Show a run: status, results with intervals, and its provenance."""
    from evalservice.catalog.criteria_parts import abridged

    with service() as opened:
        run = opened.client.get(path_of("evaluation-runs", run_id))
    if json:
        print_json(run)
        return
    say(f"run {run['id']}  {run['model']} × {run['benchmark']}")
    report(run, json=False)
    if run["waiting_for"]:
        say(f"  waiting for {run['waiting_for']}")
    say(f"  configuration {run['configuration_hash'][:16]}, attempt {run['attempt']}")
    provenance = run["provenance"]
    for key, value in {**provenance, "criteria": abridged(provenance.get("criteria") or {})}.items():
        say(f"  {key:>14}: {orjson.dumps(value).decode() if isinstance(value, dict | list) else value}")


@app.command("items")
def items(
    run_id: RunId,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only answers that the primary metric calls wrong.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only test cases without an answer.")] = False,
    search: Annotated[str | None, typer.Option("--search", metavar="TEXT", help="Only where TEXT occurs.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000)] = 20,
    after: Annotated[
        int, typer.Option("--after", metavar="INDEX", min=-1, max=2**31 - 1, help="Go on after this test case.")
    ] = -1,
    json: Json = False,
) -> None:
    """Look at test cases: the prompt, what was expected and what the model answered, side by side."""
    if wrong and failed:
        raise InvalidInput("--wrong", "--failed", "one of the two: an answer is wrong, or there is none")
    asked = {"success": False if failed else None, "wrong": wrong, "search": search, "after": after}
    with service() as opened:
        rows = list(opened.client.items(path_of("evaluation-runs", run_id, "results"), limit, **asked))
    if json:
        print_json({"items": rows, "next_after": rows[-1]["test_case_index"] if rows else None})
        return
    for row in rows:
        _side_by_side(row)
    if not rows:
        say("no such test cases")
    elif len(rows) == limit:
        note(f"more: --after {rows[-1]['test_case_index']}")


def _side_by_side(row: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from cluster.cli.output import console

    state = "" if row["success"] else f"  {row['error_kind']}: {row['error_message']}"
    metrics = "  ".join(f"{name} {value}" for name, value in row["metrics"].items())
    say(f"── {row['test_case_index']} {row['test_case_id']}  {metrics}{state}")
    table = Table(box=None, show_edge=False, pad_edge=False, header_style="bold", expand=True)
    for column in ("PROMPT", "EXPECTED", "ACTUAL"):
        table.add_column(column, ratio=1, overflow="fold")
    cells = (_prompt(row["input_data"]), _text(row["expected_output"]), _text(row["actual_output"]))
    table.add_row(*(escape(_cut(cell)) for cell in cells))
    console().print(table)


def _prompt(value: Any) -> str:
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list):
        return _text(value)
    if len(messages) == 1:
        return _text(messages[0].get("content"))
    return "\n".join(f"{message.get('role')}: {_text(message.get('content'))}" for message in messages)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _cut(text: str, limit: int = 2000) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


@app.command("cancel")
def cancel(run_id: RunId, json: Json = False) -> None:
    """Cancel a run: its driver stops sending within two seconds and keeps what was answered."""
    with service() as opened:
        asked = opened.client.post(path_of("evaluation-runs", run_id, "cancel"))
    if json:
        print_json({"id": asked["id"], "status": asked["status"], "cancel_requested": True})
    else:
        done = "cancelled" if asked["status"] == "cancelled" else "its driver was asked to stop"
        say(f"run {asked['id']}: {done}")


@app.command("resume")
def resume(
    run_id: RunId,
    max_cost: Annotated[
        str | None,
        typer.Option("--max-cost", metavar="USD", help="Another budget in US dollars, over all that the run spends."),
    ] = None,
    json: Json = False,
) -> int:
    """Go on with a run that was cancelled, failed or lost its driver: asks only for what is missing or may succeed now.

    A run that still says `running` is waited for until its lease lapses (15 s at most).
    """
    from evalservice.catalog.schemas import parse
    from evalservice.runs.schemas import RunResume

    how = parse(RunResume, {} if max_cost is None else {"max_cost": max_cost})
    with service() as opened:
        run = opened.client.get(path_of("evaluation-runs", run_id))
        if opened.platform is not None and opened.claims is not None:
            from cluster.launch import claim_for_resume

            waiting = "waiting for the last driver's lease"
            lease = claim_for_resume(
                opened.platform, run["id"], lambda left: note(f"{waiting} ({left:.0f} s)"), how.max_cost
            )
            if lease is not None:
                opened.claims.leases[lease.run_id] = lease
            goes_on = lease is not None
        else:
            asked = _asked_to_resume(opened.client, run["id"], body_of(how))
            goes_on = asked["status"] != "completed" or asked["requested_work"] is not None
        if goes_on:
            return finish(opened, run["id"], json)
        note(f"run {run['id']} is completed: nothing to resume")
        report(opened.client.get(path_of("evaluation-runs", run["id"])), json)
        return 0


def _asked_to_resume(client: Client, run_id: str, how: dict[str, Any]) -> dict[str, Any]:
    """Ask the service; while the last driver's lease lasts, again. Raises LeaseHeld when it is being renewed."""
    deadline = time.monotonic() + LEASE_PATIENCE_SECONDS
    while True:
        try:
            asked: dict[str, Any] = client.post(path_of("evaluation-runs", run_id, "resume"), how)
            return asked
        except LeaseHeld:
            if time.monotonic() > deadline:
                raise
            note("waiting for the last driver's lease")
            time.sleep(2)


@app.command("rescore")
def rescore(run_id: RunId, json: Json = False) -> None:
    """Score the stored completions again, e.g. after a scorer changed. No model is asked."""
    with service() as opened:
        run = opened.client.get(path_of("evaluation-runs", run_id))
        if opened.platform is not None:
            from cluster.launch import rescore as rescore_here

            rescore_here(opened.platform, run["id"])
            run = opened.client.get(path_of("evaluation-runs", run["id"]))
        else:
            opened.client.post(path_of("evaluation-runs", run["id"], "rescore"))
            run = follow(opened.client, run["id"], "scoring")
    report(run, json)


@app.command("export")
def export(
    run_id: RunId,
    file_format: Annotated[
        str, typer.Option("--format", metavar="F", help="jsonl, csv, parquet, inspect, lm-eval or every-eval-ever.")
    ] = "jsonl",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: stdout, where it is text. A zip is unpacked into a folder."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Export a run's rows, in bounded memory: as they are, or as another tool's log (lm-eval, every-eval-ever: zip)."""
    from cluster.cli.output import binary_stdout
    from evalservice.interchange import BINARY, FORMATS, unpack_whole, write_whole

    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"accepted are {', '.join(FORMATS)}")
    if output is None and (json or file_format in BINARY):
        raise InvalidInput("output", None, f"a file, with --json or --format {' or '.join(BINARY)}")
    with service() as opened:
        own_id = opened.client.get(path_of("evaluation-runs", run_id))["id"]
        with opened.client.download(path_of("evaluation-runs", own_id, "export"), format=file_format) as answer:
            rows = int(answer.headers["X-Row-Count"])
            if output is not None and output.is_dir() and FORMATS[file_format].suffix == "zip":
                unpack_whole(answer.iter_bytes(), output)
            else:
                write_whole(answer.iter_bytes(), output if output is not None else binary_stdout())
    if json:
        print_json({"id": own_id, "format": file_format, "file": output, "rows": rows})
    else:
        note(f"{rows} rows{f' to {output}' if output else ''}")

"""`evalservice runs`: list, look into, cancel, resume, rescore and export runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from cluster.cli.common import Json, money, platform, with_interval
from cluster.cli.output import note, print_json, print_table, say
from cluster.cli.run import document, finish, report

if TYPE_CHECKING:
    from evalservice.tables import EvaluationResult, EvaluationRun

app = typer.Typer(help="Runs: look at them, cancel, resume, rescore, export.", no_args_is_help=True)

RunId = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or the beginning of it (8 characters or more).")
]


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option("--status", metavar="S", help="Only runs in this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the runs, the newest first."""
    from evalservice.errors import InvalidInput
    from evalservice.runs.service import list_runs, primary_metric
    from evalservice.tables import RUN_STATUSES

    if status is not None and status not in RUN_STATUSES:
        raise InvalidInput("status", status, f"accepted are {', '.join(RUN_STATUSES)}")
    with platform() as opened, opened.transaction() as session:
        found = list_runs(session, limit, status)
        items = [{**_summary(run), "primary_metric": primary_metric(run)} for run in found]
    if json:
        print_json({"items": items})
        return
    print_table(
        ["ID", "MODEL", "BENCHMARK", "STATUS", "DONE", "FAILED", "RESULT", "COST", "CREATED"],
        [
            [
                str(i["id"]),
                i["model"],
                i["benchmark"],
                i["status"],
                f"{i['completed_test_cases']}/{i['total_test_cases']}",
                i["failed_test_cases"],
                with_interval(i["aggregated_results"].get(i["primary_metric"], {})),
                money(i["total_cost"]),
                i["created_at"].strftime("%Y-%m-%d %H:%M"),
            ]
            for i in items
        ],
    )


def _summary(run: EvaluationRun) -> dict[str, Any]:
    return {
        **document(run),
        "name": run.name,
        "model": run.model.name,
        "benchmark": run.benchmark.name,
        "progress": run.progress,
        "priority": run.priority,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
    }


@app.command("show")
def show(run_id: RunId, json: Json = False) -> None:
    """Show a run: status, results with intervals, and its provenance."""
    from evalservice.runs.service import get_run

    with platform() as opened, opened.transaction() as session:
        run = get_run(session, run_id)
        details = {
            **_summary(run),
            "configuration_hash": run.configuration_hash,
            "provenance": run.provenance,
            "model_config": run.model_config,
            "evaluation_config": run.evaluation_config,
            "lease_owner": run.lease_owner,
            "attempt": run.attempt,
            "error_message": run.error_message,
        }
    if json:
        print_json(details)
        return
    say(f"run {run.id}  {details['model']} × {details['benchmark']}")
    report(run, json=False)
    say(f"  configuration {run.configuration_hash[:16]}, attempt {run.attempt}")
    for key, value in run.provenance.items():
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
    from evalservice.errors import InvalidInput
    from evalservice.runs.service import get_run, items_query
    from evalservice.tables import EvaluationResult

    if wrong and failed:
        raise InvalidInput("--wrong", "--failed", "one of the two: an answer is wrong, or there is none")
    with platform() as opened, opened.transaction() as session:
        run = get_run(session, run_id)
        query = items_query(run, success=False if failed else None, wrong=wrong, search=search, after=after)
        rows = session.scalars(query.order_by(EvaluationResult.test_case_index).limit(limit))
        documents = [_item(row) for row in rows]
    if json:
        print_json({"items": documents, "next_after": documents[-1]["test_case_index"] if documents else None})
        return
    for row in documents:
        _side_by_side(row)
    if not documents:
        say("no such test cases")
    elif len(documents) == limit:
        note(f"more: --after {documents[-1]['test_case_index']}")


def _item(row: EvaluationResult) -> dict[str, Any]:
    names = [
        "test_case_index",
        "test_case_id",
        "input_data",
        "expected_output",
        "actual_output",
        "metrics",
        "success",
        "error_kind",
        "error_message",
        "latency_ms",
        "input_tokens",
        "output_tokens",
        "cost",
        "executed_at",
        "completion_info",
        "score_details",
    ]
    return {name: getattr(row, name) for name in names}


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
    from evalservice.runs.lifecycle import request_cancel
    from evalservice.runs.service import get_run

    with platform() as opened, opened.transaction() as session:
        run = get_run(session, run_id)
        status = request_cancel(session, run.id)
    if json:
        print_json({"id": run.id, "status": status, "cancel_requested": True})
    else:
        say(f"run {run.id}: " + ("cancelled" if status == "cancelled" else "its driver was asked to stop"))


@app.command("resume")
def resume(run_id: RunId, json: Json = False) -> int:
    """Go on with a run that was cancelled, failed or lost its driver: asks only for what is missing or may succeed now.

    A run that still says `running` is waited for until its lease lapses (15 s at most).
    """
    from cluster.launch import claim_for_resume
    from evalservice.runs.service import get_run

    with platform() as opened:
        lease = claim_for_resume(
            opened, run_id, lambda left: note(f"waiting for the last driver's lease ({left:.0f} s)")
        )
        if lease is not None:
            return finish(opened, lease, json)
        with opened.transaction() as session:
            run = get_run(session, run_id)
        note(f"run {run.id} is completed: nothing to resume")
        report(run, json)
        return 0


@app.command("rescore")
def rescore(run_id: RunId, json: Json = False) -> None:
    """Score the stored completions again, e.g. after a scorer changed. No model is asked."""
    from cluster.launch import rescore as rescore_run

    with platform() as opened:
        report(rescore_run(opened, run_id), json)


@app.command("export")
def export(
    run_id: RunId,
    file_format: Annotated[str, typer.Option("--format", metavar="F", help="jsonl, csv or parquet.")] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout (not parquet).")
    ] = None,
    json: Json = False,
) -> None:
    """Export a run's rows, in bounded memory."""
    from cluster.cli.output import binary_stdout
    from evalservice.errors import InvalidInput
    from evalservice.interchange import FORMATS, export_chunks, write_whole
    from evalservice.runs.results import stream_results
    from evalservice.runs.service import get_run

    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"accepted are {', '.join(FORMATS)}")
    if output is None and (json or file_format == "parquet"):
        raise InvalidInput("output", None, "a file, with --json or --format parquet")
    with platform() as opened, opened.transaction() as session:
        run = get_run(session, run_id)
        rows = stream_results(session, run.id)
        written = 0

        def chunks() -> Iterator[bytes]:
            nonlocal written
            for chunk, count in export_chunks(rows, file_format):
                written += count
                yield chunk

        write_whole(chunks(), output if output is not None else binary_stdout())
    if json:
        print_json({"id": run.id, "format": file_format, "file": output, "rows": written})
    else:
        note(f"{written} rows{f' to {output}' if output else ''}")

"""`evalservice import`: results of other tools, and our own exports, become runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, Service, sent, service, with_interval
from cluster.cli.output import note, print_json, say
from evalservice.client import path_of
from evalservice.errors import EvalserviceError, InvalidInput

if TYPE_CHECKING:
    from evalservice.interchange.records import LogFiles


app = typer.Typer(help="Results of other tools.", no_args_is_help=True)


@app.command("import")
def import_(
    path: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Logs, or folders with logs; what lies beside one is found.")
    ],
    file_format: Annotated[
        str,
        typer.Option(
            "--format", metavar="F", help="lm-eval, inspect, every-eval-ever, parquet, jsonl; else by content."
        ),
    ] = "auto",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A registered model, or a name for a new one.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", metavar="NAME", help="Likewise; one with scorers scores the completions, too."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Likewise; the log's items must be its own.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Import the rows of a log that contradicts its own aggregates.")
    ] = False,
    json: Json = False,
) -> int:
    """Import results of lm-evaluation-harness, Inspect AI, Every Eval Ever, or `runs export`: runs like any other.

    Of a log all runs are imported or none; one that has been imported is recognised. Example: evalservice import out/
    """
    from evalservice.interchange.logs import AUTO, READERS, find_logs

    if file_format not in (AUTO, *READERS):
        raise InvalidInput("format", file_format, f"accepted are {AUTO}, {', '.join(READERS)}")
    logs = [log for each in path for log in find_logs(each)]
    asked = {"format": file_format, "model": model, "benchmark": benchmark, "dataset": dataset, "force": force}
    runs: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    code = 0
    with service() as opened:
        for log in logs:
            try:
                answer = _imported(opened, log, asked)
            except EvalserviceError as error:
                if len(logs) == 1:
                    raise
                note(f"error: {log.path}: {error.message}")
                refused.append({"file": str(log.path), "detail": error.message})
                code = max(code, error.exit_code)
                continue
            runs += answer["runs"]
            _tell(log, answer, quiet=json)
    if json:
        print_json({"runs": runs, **({"refused": refused} if refused else {})})
    return code


def _imported(opened: Service, log: LogFiles, asked: dict[str, Any]) -> dict[str, Any]:
    """Import one log: its files are sent to a service, and read where they are by the application in this process."""
    names = [log.main, *(name for name in log.paths if name != log.main)]
    with ExitStack() as sending:
        files = []
        for name in names:
            path = log.paths[name]
            here = opened.platform is not None
            files.append(
                {"name": name, "file_path": str(path) if here else sending.enter_context(sent(opened.client, path))}
            )
        answer: dict[str, Any] = opened.client.post(path_of("imports"), {**asked, "files": files})
    return answer


def _tell(log: LogFiles, answer: dict[str, Any], quiet: bool) -> None:
    tell = note if quiet else say
    if answer["already_imported"]:
        tell(f"{log.main}: imported before")
    for each in answer["notes"]:
        note(f"{log.main}: {each}")
    for run in answer["runs"]:
        tell(f"run {run['id']}  {run['model']} × {run['benchmark']}  {run['total_test_cases']} test cases")
        for name, result in run["aggregated_results"].items():
            tell(f"  {name}  {with_interval(result)}")

"""The `evalservice` command: a file per noun, one place that turns errors into exit codes.

Exit codes: 0 success, 1 the work failed, 2 bad usage, 3 inconclusive (`--gate`), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from cluster.cli import (
    abtests,
    alerts,
    benchmarks,
    compare,
    credentials,
    datasets,
    db,
    demo,
    experiments,
    imports,
    keys,
    leaderboard,
    members,
    models,
    organizations,
    policies,
    run,
    runs,
    select,
    selections,
    up,
    webhooks,
)
from cluster.cli.output import note, quiet_broken_pipe, take_stdout
from cluster.observability import log_as_text
from evalservice.errors import EvalserviceError, InvalidRecords

app = typer.Typer(
    name="evalservice",
    help="Measure language models, every result in Postgres.\n\nStart with `evalservice demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("run")(run.run)
app.command("import")(imports.import_)
app.command("compare")(compare.compare)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("select")(select.select)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(benchmarks.app, name="benchmarks")
app.add_typer(runs.app, name="runs")
app.add_typer(imports.app, name="results")
app.add_typer(abtests.app, name="abtests")
app.add_typer(experiments.app, name="experiments")
app.add_typer(selections.app, name="selections")
app.add_typer(policies.app, name="policies")
app.add_typer(alerts.app, name="alerts")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(members.app, name="members")
app.add_typer(credentials.app, name="credentials")
app.add_typer(organizations.app, name="organizations")
app.add_typer(db.app, name="db")
command = typer.main.get_command(app)


# Typer brings a click of its own or uses the installed one, by its version: this is the one it uses.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> None:
    """Run a command; errors of the user's or the world's become one line on stderr and an exit code."""
    take_stdout()
    log_as_text()
    code = 0
    try:
        with quiet_broken_pipe():
            code = _exit_code(command(standalone_mode=False))
    except _UsageError as error:
        error.show(file=sys.stderr)
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        note("interrupted")
        code = 130
    except InvalidRecords as error:
        note(f"error: {error.message}")
        for record in error.bad:
            note(f"  {record}")
        if error.total > len(error.bad):
            note(f"  … and {error.total - len(error.bad)} more")
        code = error.exit_code
    except EvalserviceError as error:
        note(f"error: {error.message}")
        code = error.exit_code
        if os.environ.get("EVALSERVICE_DEBUG"):
            raise
    except Exception as error:  # a fault of ours: one line for the user, the rest for whoever repairs it
        lines = str(error).strip().splitlines()
        note(f"error: internal: {type(error).__name__}: {lines[0] if lines else ''}")
        note(f"  the traceback is in {_keep_traceback()}; please report it")
        code = 1
    if code == 130:
        sys.stderr.flush()
        os._exit(code)  # a thread that still works is not waited for; Postgres rolls back what it did
    sys.exit(code)


def _keep_traceback() -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="evalservice-", suffix=".log", delete=False) as file:
        file.write(traceback.format_exc())
    return file.name


def _exit_code(result: object) -> int:
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()

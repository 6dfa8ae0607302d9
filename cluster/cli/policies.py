"""`evalservice policies`: selection policies of an organization."""

from __future__ import annotations

import typer

from cluster.cli import policies_study

app = typer.Typer(help="Selection policies: which model a request goes to.", no_args_is_help=True)
app.add_typer(policies_study.app, name="study")

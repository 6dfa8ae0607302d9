"""`evalservice alerts`: runs that are worse than earlier ones of the same configuration, beyond noise."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, minute, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput

app = typer.Typer(
    help="Regression alerts: runs that are worse than the first run of the same configuration, beyond noise.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Only this model's.")] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", metavar="B", help="Only this benchmark's.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that somebody has acknowledged.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the alerts that nobody has acknowledged, the newest first.

    Each completed run is compared, test case by test case, with its baseline: the first completed run of the same
    model, data, prompt, sampling and scorers, or after an alert the run that raised it. Only the primary metric is
    looked at, and only a drop is told. The first look at a baseline may err with a chance of 3 %, the k-th with
    3 % / k², so that all looks together raise a false alert with a chance of at most 5 %. Where the configuration was
    repeated before, the drop must also be beyond what repeating alone does.

    Look closer with: evalservice compare RUN BASELINE
    """
    asked = {"model": model, "benchmark": benchmark, "acknowledged": None if every else False}
    with service() as opened:
        items = list(opened.client.items(path_of("regression-alerts"), limit, **asked))
    if json:
        print_json({"items": items})
        return
    if not items:
        say("no alerts" if every else "no alerts that nobody has acknowledged")
        return
    print_table(
        [
            "ID",
            "MODEL",
            "BENCHMARK",
            "METRIC",
            "VALUE",
            "BASELINE",
            "DIFFERENCE",
            "P",
            "LOOK",
            "RUN",
            "SEEN",
            "CREATED",
        ],
        [
            [
                i["id"],
                i["model"],
                i["benchmark"],
                i["metric"],
                f"{i['value']:.4f}",
                f"{i['baseline_value']:.4f}",
                _difference(i),
                f"{i['p_value']:.2g}",
                i["look_number"],
                i["evaluation_run_id"],
                minute(i["acknowledged_at"]),
                minute(i["created_at"]),
            ]
            for i in items
        ],
    )


@app.command("ack")
def ack(
    alert_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Their ids, or beginnings that only one has (8 or more).")
    ],
    json: Json = False,
) -> None:
    """Acknowledge alerts: they leave the list, and who has seen them first, and when, is kept.

    Nothing else changes: the run that raised an alert is the new baseline in any case.
    """
    with service() as opened:
        known = [alert["id"] for alert in opened.client.items(path_of("regression-alerts"))]
        found = [_named(wanted, known) for wanted in alert_ids]
        items = [opened.client.patch(path_of("regression-alerts", each), {"acknowledged": True}) for each in found]
    if json:
        print_json({"items": items})
        return
    for item in items:
        say(f"alert {item['id']} is acknowledged")


def said(alert: dict[str, Any]) -> str:
    """An alert in one line."""
    return (
        f"regressed: {alert['metric']} {alert['value']:.4f} is worse than {alert['baseline_value']:.4f} of run "
        f"{alert['baseline_run_id']} ({_difference(alert)}, p = {alert['p_value']:.2g}, look {alert['look_number']}); "
        f"evalservice alerts ack {alert['id']}"
    )


def _named(wanted: str, known: list[str]) -> str:
    given = wanted.strip().lower()
    matches = [each for each in known if each.startswith(given)]
    if len(given) == 36:
        return given
    if len(given) < 8 or len(matches) != 1:
        raise InvalidInput("id", wanted, "the id of an alert: `evalservice alerts list --all` shows them")
    return matches[0]


def _difference(alert: dict[str, Any]) -> str:
    low, high = alert["ci_low"], alert["ci_high"]
    return f"{alert['difference']:+.4f}" + ("" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]")

"""`evalservice policies`: versions of the policies that choose a model, which of them decides, and the way back."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from cluster.cli import policies_evaluate, policies_study, policies_trial
from cluster.cli.common import Description, Json, json_object, minute, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

app = typer.Typer(
    help="Policies: how a model is chosen for a request. Versions, and which of them decides.", no_args_is_help=True
)
app.command("evaluate")(policies_evaluate.evaluate)
app.add_typer(policies_study.app, name="study")
app.command("ab-result")(policies_trial.ab_result)

Reference = Annotated[str, typer.Argument(metavar="NAME[@V]", help="Its name (the active version, else the newest).")]
Share = Annotated[float, typer.Option("--share", metavar="S", help="Of the policy's requests, between 0 and 1.")]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Option("--name", metavar="N", help="Only versions of this one.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="draft, active, shadow, canary, ab, retired.")
    ] = None,
    use_case: Annotated[str | None, typer.Option("--use-case", metavar="U", help="Only of this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the versions of all policies, the newest first."""
    with service() as opened:
        path = path_of("selection-policies")
        items = list(opened.client.items(path, limit, name=name, status=status, use_case=use_case))
    if json:
        print_json({"items": items})
        return
    print_table(
        ["POLICY", "STATUS", "ALGORITHM", "USE CASE", "DEFAULT", "ACTIVATED", "CREATED"],
        [
            [
                _label(item),
                _status(item),
                item["algorithm"],
                item["use_case"],
                "yes" if item["is_default"] and item["status"] == "active" else "",
                minute(item["activated_at"]),
                minute(item["created_at"]),
            ]
            for item in items
        ],
    )


@app.command("show")
def show(reference: Reference, json: Json = False) -> None:
    """Show a version with its parameters and its budget."""
    with service() as opened:
        policy = opened.client.get(path_of("selection-policies", reference))
    if json:
        print_json(policy)
        return
    default = ", the default" if policy["is_default"] and policy["status"] == "active" else ""
    say(f"policy {_label(policy)} is {_status(policy)}{default}")
    for field in ("id", "description", "algorithm", "parameters", "budget", "use_case"):
        value = policy[field]
        if value:
            say(f"  {field}: {orjson.dumps(value).decode() if isinstance(value, dict) else value}")
    for field in ("created_at", "activated_at", "retired_at"):
        if policy[field]:
            say(f"  {field.removesuffix('_at')}: {minute(policy[field])}")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name; where it exists, this is its next version.")],
    algorithm: Annotated[
        str,
        typer.Option(
            "--algorithm",
            metavar="A",
            help="weighted, cheapest_above_quality, pareto, thompson, nearest, pinned, canary, or a plug-in's.",
        ),
    ],
    parameters: Annotated[
        str | None, typer.Option("--parameters", metavar="JSON", help='E.g. {"min_quality": 0.8}.')
    ] = None,
    mean_cost: Annotated[
        float | None, typer.Option("--mean-cost", metavar="USD", help="Budget: mean cost of a request.")
    ] = None,
    per_day: Annotated[float | None, typer.Option("--per-day", metavar="USD", help="Budget: for a day.")] = None,
    use_case: Annotated[
        str, typer.Option("--use-case", metavar="U", help="What it is for; default: all that have none of their own.")
    ] = "",
    description: Description = "",
    json: Json = False,
) -> None:
    """Make a draft. It decides nothing before `policies activate`, `shadow`, `canary` or `ab`.

    evalservice policies create support --algorithm cheapest_above_quality --parameters '{"min_quality": 0.8}'
    """
    budget = {"mean_cost_usd": mean_cost, "usd_per_day": per_day}
    body = {
        "name": name,
        "algorithm": algorithm,
        "parameters": json_object("--parameters", parameters),
        "budget": {key: value for key, value in budget.items() if value is not None},
        "use_case": use_case,
        "description": description,
    }
    with service() as opened:
        policy = opened.client.post(path_of("selection-policies"), body)
    if json:
        print_json(policy)
    else:
        say(f"policy {_label(policy)} is a draft; use it with: evalservice policies activate {_label(policy)}")


@app.command("activate")
def activate(
    reference: Reference,
    default: Annotated[
        bool | None,
        typer.Option("--default/--no-default", help="Of its use case; unsaid: as the version that it replaces."),
    ] = None,
    json: Json = False,
) -> None:
    """Make it the active version of its name; the one before is retired, and `policies rollback` brings it back."""
    _act(reference, "activate", json, {"is_default": default})


@app.command("shadow")
def shadow(reference: Reference, json: Json = False) -> None:
    """Let it decide and be logged, without serving."""
    _act(reference, "shadow", json)


@app.command("canary")
def canary(reference: Reference, share: Share, json: Json = False) -> None:
    """Let it decide a share of the requests, to see whether it does harm; the active version decides the others."""
    _act(reference, "canary", json, {"share": share})


@app.command("ab")
def ab(reference: Reference, share: Share = 0.5, json: Json = False) -> None:
    """Let it decide a share of the requests, to compare it with the active version, which decides the others."""
    _act(reference, "ab", json, {"share": share})


@app.command("rollback")
def rollback(reference: Reference, json: Json = False) -> None:
    """Make the version active again that was so before; the one that is active now is retired."""
    _act(reference, "rollback", json)


@app.command("retire")
def retire(reference: Reference, json: Json = False) -> None:
    """Let it decide nothing more."""
    _act(reference, "retire", json)


def _act(reference: str, action: str, json: bool, body: Any = None) -> None:
    with service() as opened:
        policy = opened.client.post(path_of("selection-policies", reference, action), body)
    if json:
        print_json(policy)
    else:
        default = f", the default of use case {policy['use_case']!r}" if policy["is_default"] else ""
        say(f"policy {_label(policy)} is {_status(policy)}{default if policy['status'] == 'active' else ''}")


def _label(policy: dict[str, Any]) -> str:
    return f"{policy['name']}@{policy['version']}"


def _status(policy: dict[str, Any]) -> str:
    share = policy["traffic_share"]
    return str(policy["status"]) + ("" if share is None else f" ({share:.4g} of the requests)")

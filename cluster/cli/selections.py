"""`evalservice selections`: the log of decisions, their replay, and what happened after them."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from cluster.cli import selections_summary
from cluster.cli.common import Json, minute, moment, money, service
from cluster.cli.output import note, print_json, print_table, say
from cluster.cli.select import CANDIDATE_HEADER, candidate_row
from evalservice.client import path_of

app = typer.Typer(no_args_is_help=True, help="Routing decisions: what was asked, chosen and why, and what happened.")
app.command("summary")(selections_summary.summary)
Id = Annotated[str, typer.Argument(metavar="ID", help="The selection's id.")]


@app.command("list")
def list_(
    use_case: Annotated[str | None, typer.Option("--use-case", metavar="U", help="Only of this use case.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", metavar="P", help="Only by this policy.")] = None,
    model_id: Annotated[str | None, typer.Option("--model-id", metavar="ID", help="Only with this model.")] = None,
    since: selections_summary.Since = None,
    until: selections_summary.Until = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", metavar="O", help="success, failed, or none: not known.")
    ] = None,
    shadow: Annotated[
        bool | None, typer.Option("--shadow/--served", help="Only shadows, or only what served; unsaid: both.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="So many, the latest first.")] = 20,
    json: Json = False,
) -> None:
    """The latest decisions."""
    query = {
        "use_case": use_case,
        "policy_name": policy,
        "selected_model_id": model_id,
        "since": moment("--since", since),
        "until": moment("--until", until),
        "outcome": outcome,
        "shadow": shadow,
    }
    with service() as opened:
        found = list(opened.client.items(path_of("selections"), limit, **query))
    if json:
        print_json({"items": found})
        return
    print_table(
        ["ID", "WHEN", "POLICY", "USE CASE", "SCORE", "PROPENSITY", "OUTCOME", ""],
        [
            [
                each["id"],
                minute(each["decided_at"] or each["created_at"]),
                each["policy_name"] + ("" if each["policy_version"] is None else f"@{each['policy_version']}"),
                each["use_case"],
                "" if each["selection_score"] is None else f"{each['selection_score']:.3f}",
                "nothing eligible" if each["propensity"] is None else f"{each['propensity']:.3g}",
                {None: "", True: "success", False: "failed"}[each["execution_successful"]],
                "shadow" if each["is_shadow"] else "",
            ]
            for each in found
        ],
    )


@app.command()
def show(selection: Id, json: Json = False) -> None:
    """One decision: the request, every candidate, why, and its outcome."""
    with service() as opened:
        found = opened.client.get(path_of("selections", selection))
    if json:
        print_json(found)
        return
    rows = [candidate_row(each, found["selected_model_id"] or "") for each in found["candidate_models"]]
    print_table(CANDIDATE_HEADER, rows, title=f"{found['policy_name']}: {minute(found['decided_at'])}")
    say(found["selection_explanation"])
    if found["actual_performance"]:
        say("outcome: " + ", ".join(f"{name} {value}" for name, value in found["actual_performance"].items()))


@app.command()
def replay(selection: Id, json: Json = False) -> int:
    """Make a decision again from its log; exit code 1 when it is not the same bit for bit."""
    with service() as opened:
        found: dict[str, Any] = opened.client.get(path_of("selections", selection, "replay"))
    if json:
        print_json(found)
    elif found["same"]:
        say(f"the same decision: {found['selected_model_id']} with propensity {found['propensity']}")
    else:
        note("not the same decision:")
        for difference in found["differences"]:
            note(f"  {difference}")
    return 0 if found["same"] else 1


@app.command()
def outcome(
    selection: Id,
    success: Annotated[bool | None, typer.Option("--success/--failed", help="Whether it worked.")] = None,
    quality: Annotated[float | None, typer.Option("--quality", metavar="Q", help="From 0 to 1.")] = None,
    latency_ms: Annotated[float | None, typer.Option("--latency-ms", metavar="MS")] = None,
    cost: Annotated[str | None, typer.Option("--cost", metavar="USD")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", metavar="N")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output-tokens", metavar="N")] = None,
    error_kind: Annotated[str | None, typer.Option("--error-kind", metavar="K", help="e.g. timeout.")] = None,
    served_model: Annotated[
        str | None, typer.Option("--served-model", metavar="M", help="The model that answered, if it was another one.")
    ] = None,
    json: Json = False,
) -> None:
    """Report what happened after a decision; parts that come later are added, repeating changes nothing."""
    given = {
        "success": success,
        "quality": quality,
        "latency_ms": latency_ms,
        "cost": cost,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "error_kind": error_kind,
        "served_model": served_model,
    }
    body = {name: value for name, value in given.items() if value is not None}
    with service() as opened:
        found = opened.client.post(path_of("selections", selection, "outcome"), body)
    if json:
        print_json(found)
        return
    known = [f"{name} {found[name]}" for name in ("success", "quality", "latency_ms") if found[name] is not None]
    if found["cost"] is not None:
        known.append(f"cost {money(Decimal(found['cost']))}")
    say(f"outcome of {selection}: {', '.join(known) or 'noted'}")

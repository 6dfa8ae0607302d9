"""`evalservice selections summary`: who is chosen, what constraints reject, what was got, given up and saved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, minute, moment, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of

Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Decisions from then on, e.g. 2026-03-01; UTC.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Decisions before then.")]


def summary(
    since: Since = None,
    until: Until = None,
    use_case: Annotated[str | None, typer.Option("--use-case", metavar="U", help="Only of this use case.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", metavar="P", help="Only by this policy.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="The latest decisions, at most.")
    ] = 20_000,
    json: Json = False,
) -> None:
    """The decisions of the last seven days (or of --since to --until) as a whole.

    Regret: how much better the best eligible model was estimated than the chosen one, and than what the chosen one
    really got. Savings: against always choosing the best, by the expected costs.
    """
    query = {
        "since": moment("--since", since),
        "until": moment("--until", until),
        "use_case": use_case,
        "policy_name": policy,
        "limit": limit,
    }
    with service() as opened:
        found = opened.client.get(path_of("selections", "summary"), **query)
    if json:
        print_json(found)
        return
    if not found["complete"]:
        note(
            f"only the latest {found['limit']} decisions were looked at, since {minute(found['looked_at_since'])}: "
            "see --limit"
        )
    say(f"{minute(found['looked_at_since'])} to {minute(found['until'])}, UTC")
    _show("served", found["served"])
    if found["shadows"]["decisions"]:
        say()
        _show("shadows", found["shadows"])


def _show(title: str, part: dict[str, Any]) -> None:
    nothing = part["nothing_eligible"]
    say(f"{title}: {part['decisions']} decisions" + (f", {nothing} with nothing eligible" if nothing else ""))
    outcomes = {each["model_id"]: each for each in part["outcomes"]}
    models = {each["model_id"]: each for each in part["models"]}
    if models or outcomes:
        print_table(
            ["MODEL", "CHOSEN", "SHARE", "SUCCESS", "QUALITY", "COST", "LATENCY"],
            [_model_row(own, models.get(own), outcomes.get(own)) for own in dict.fromkeys((*models, *outcomes))],
        )
    if part["rejections"]:
        print_table(
            ["CONSTRAINT", "REJECTS", "IN DECISIONS"],
            [[each["constraint"], each["candidates"], each["decisions"]] for each in part["rejections"]],
        )
    _show_regret(part["regret"])
    savings = part["savings"]
    if savings["n"]:
        given_up = savings["quality_given_up"]
        say(
            f"saved {_dollars(savings['total_usd'])} against always choosing the best, "
            f"{_dollars(savings['per_request_usd'])} a request, for {given_up:.4f} less estimated quality "
            f"(n {savings['n']}, {savings['unknown']} unknown)"
        )


def _model_row(own: str, share: dict[str, Any] | None, got: dict[str, Any] | None) -> list[Any]:
    name = (share or got or {}).get("name") or own
    chosen = ["", ""] if share is None else [share["decisions"], f"{share['share']:.1%}"]
    if got is None:
        return [name, *chosen, "", "", "", ""]
    parts = (("success_rate", "{:.1%}"), ("quality", "{:.3f}"), ("cost", "${:.3g}"), ("latency_ms", "{:.0f} ms"))
    return [name, *chosen, *(_figure(got[part], form) for part, form in parts)]


def _figure(found: dict[str, Any], form: str) -> str:
    """`95.0% [93.1%, 96.5%] n 500`; nothing where nothing is known."""
    if found["value"] is None:
        return ""
    interval = "" if found["ci_low"] is None else f" [{form.format(found['ci_low'])}, {form.format(found['ci_high'])}]"
    return f"{form.format(found['value'])}{interval} n {found['n']}"


def _show_regret(regret: dict[str, Any]) -> None:
    known = [
        f"{words} {_figure(regret[kind], '{:.4f}')}"
        for kind, words in (("estimated", "as estimated"), ("realised", "by what was got"))
        if regret[kind]["value"] is not None
    ]
    if known:
        say(f"regret against the best eligible one, in quality: {'; '.join(known)}")


def _dollars(value: float) -> str:
    return f"{'-' if value < 0 else ''}${abs(value):.4g}"

"""`evalservice policies evaluate`: what a policy would have got on the requests that were logged."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, moment, service, with_interval
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

_NAMES = {"ips": "IPS", "snips": "self-normalised IPS", "dr": "doubly robust"}


def evaluate(
    reference: Annotated[str, typer.Argument(metavar="NAME[@V]", help="The policy, of any status.")],
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Decisions from then on, e.g. 2026-03-01; UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Decisions before then.")] = None,
    use_case: Annotated[
        str | None, typer.Option("--use-case", metavar="U", help="Default: the policy's, all if it has none.")
    ] = None,
    reward: Annotated[str, typer.Option("--reward", metavar="R", help="quality, success or utility.")] = "quality",
    cost_weight: Annotated[
        float | None,
        typer.Option("--cost-weight", metavar="Q", help="Of utility: quality that a dollar is worth; or the policy's."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=50_000, help="The latest decisions, at most.")
    ] = 10_000,
    json: Json = False,
) -> int:
    """Estimate what a policy would have got on the logged requests, from the log alone.

    Three estimators side by side, each with its 95 % interval: inverse propensity scores, the same self-normalised, and
    doubly robust with the estimates of the time as the reward model. Refused, with exit code 1, where the log cannot
    say: when the policy may choose what the logged one could not for more than 5 % of the requests, or when the log is
    worth fewer than 100 requests of this policy. Log with a policy that explores to be able to tell.
    """
    query = {
        "reward": reward,
        "cost_weight": cost_weight,
        "use_case": use_case,
        "since": moment("--since", since),
        "until": moment("--until", until),
        "limit": limit,
    }
    with service() as opened:
        found = opened.client.get(path_of("selection-policies", reference, "evaluation"), **query)
    if json:
        print_json(found)
    else:
        _show(found)
    return 0 if found["refusal"] is None else 1


def _show(found: dict[str, Any]) -> None:
    policy, refusal = f"{found['policy_name']}@{found['policy_version']}", found["refusal"]
    if refusal is not None:
        say(f"refused: {refusal['message']}")
    else:
        print_table(
            ["ESTIMATOR", f"MEAN {found['reward'].upper()}"],
            [
                ["as logged", with_interval(found["logged"])],
                *([f"{policy}, {_NAMES[key]}", with_interval(each)] for key, each in found["estimators"].items()),
            ],
        )
    say(
        f"{found['n']} decisions with an outcome, worth {found['effective_n']:.0f} of this policy; "
        f"{found['without_support']:.1%} without support, {found['without_outcome']} without an outcome, "
        f"{found['unusable']} unusable"
    )

"""`evalservice policies ab-result`: which of two versions is better that share a policy's requests."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, minute, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of


def ab_result(
    reference: Annotated[
        str, typer.Argument(metavar="NAME[@V]", help="The version with a share, or its policy's name.")
    ],
    reward: Annotated[str, typer.Option("--reward", metavar="R", help="quality, success or utility.")] = "quality",
    json: Json = False,
) -> None:
    """Compare the version that has a share of the requests (ab or canary) with the active one, by their outcomes.

    The 95 % interval of the difference holds at every look: look as often as you like, stop when there is a verdict.
    """
    with service() as opened:
        found = opened.client.get(path_of("selection-policies", reference, "ab-result"), reward=reward)
    if json:
        print_json(found)
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    versions = {kind: f"{found['policy_name']}@{found[kind]['version']}" for kind in ("active", "trial")}
    share = "" if found["traffic_share"] is None else f", {found['traffic_share']:.4g} of the requests"
    print_table(
        ["VERSION", "", "OUTCOMES", f"MEAN {found['reward'].upper()}"],
        [
            [versions[kind], about, found[kind]["n"], _mean(found[kind]["mean"])]
            for kind, about in (("active", "active"), ("trial", f"{found['status']}{share}"))
        ],
        title=f"since {minute(found['started_at'])}",
    )
    difference = found["difference"]
    if difference["ci_low"] is not None:
        say(
            f"difference {difference['value']:+.4f} [{difference['ci_low']:+.4f}, {difference['ci_high']:+.4f}] "
            f"(95 %, at every look), from {difference['n']} blocks"
        )
    if found["stopped_at"] is not None:
        say(f"{versions['trial']} was stopped at {minute(found['stopped_at'])}: it failed more often")
    say(f"p = {found['failure_p_value']:.3g} that {versions['trial']} fails at most as often as {versions['active']}")
    if found["verdict"] == "continue":
        say("no verdict yet: continue")
    else:
        say(f"{versions[found['verdict']]} is better")


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

"""`evalservice leaderboard`: the models on one benchmark, best first, with error bars."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, money, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

BAR_CELLS = 30


def leaderboard(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Name, name@version or id.")],
    metric: Annotated[str | None, typer.Option("--metric", metavar="M", help="Default: the primary metric.")] = None,
    json: Json = False,
) -> None:
    """Rank models by their latest completed run on a benchmark, with 95 % intervals.

    Overlapping intervals are no proof of a tie, and neighbours need not differ: compare them before you choose.
    """
    with service() as opened:
        document = opened.client.get(path_of("leaderboards", benchmark), metric=metric)
    if json:
        print_json(document)
    else:
        show(document)


def show(document: dict[str, Any]) -> None:
    """The leaderboard as a table; the bar spans the interval, the dot is the value."""
    rows = document["items"]
    if not rows:
        say(f"no completed run of {document['benchmark']!r} yet")
        return
    low = min(row["ci_low"] if row["ci_low"] is not None else row["value"] for row in rows)
    high = max(row["ci_high"] if row["ci_high"] is not None else row["value"] for row in rows)
    print_table(
        ["#", "MODEL", document["metric"].upper(), "95 % INTERVAL", "", "N", "LATENCY P50", "COST"],
        [
            [
                row["rank"],
                row["model"],
                f"{row['value']:.4f}",
                "" if row["ci_low"] is None else f"[{row['ci_low']:.4f}, {row['ci_high']:.4f}]",
                _bar(row, low, high),
                row["n"],
                "" if row["latency_p50_ms"] is None else f"{row['latency_p50_ms']:.0f} ms",
                money(row["total_cost"]),
            ]
            for row in rows
        ],
        title=f"{document['benchmark']}: {document['metric']}",
    )


def _bar(row: dict[str, Any], low: float, high: float) -> str:
    def cell(value: float) -> int:
        return round((value - low) / (high - low) * (BAR_CELLS - 1)) if high > low else BAR_CELLS // 2

    cells = [" "] * BAR_CELLS
    if row["ci_low"] is not None:
        for position in range(cell(row["ci_low"]), cell(row["ci_high"]) + 1):
            cells[position] = "─"
    cells[cell(row["value"])] = "●"
    return "".join(cells)

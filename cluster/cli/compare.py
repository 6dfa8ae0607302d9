"""`evalservice compare`: stored runs side by side, with error bars and a verdict."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.common import Json, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.comparisons import MAX_COVERAGE_GAP, MIN_COVERAGE

SHOWN = 13
"""Characters of an id: runs of the same minute begin alike."""
GATE_CODES = {"go": 0, "no_go": 1, "inconclusive": 3}


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Two or more run ids; the first is the candidate.")
    ],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="M", help="Only this metric; can be repeated.")
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", metavar="D", min=0, help="The least difference that matters, in its units.")
    ] = 0.0,
    alpha: Annotated[float, typer.Option("--alpha", metavar="A", help="Chance of a false winner.")] = 0.05,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", metavar="S", min=0, max=1, help="Scored share of the test cases.")
    ] = MIN_COVERAGE,
    max_coverage_gap: Annotated[
        float, typer.Option("--max-coverage-gap", metavar="S", min=0, max=1, help="Between two runs, at most.")
    ] = MAX_COVERAGE_GAP,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of permutations and resamples.")] = 0,
    gate: Annotated[bool, typer.Option("--gate", help="Exit 0 go, 1 no go, 3 inconclusive.")] = False,
    json: Json = False,
) -> int:
    """Compare runs of the same test cases, pair by pair: is the difference real?

    Every metric gets a verdict: a winner (better than every other after Holm's correction, beyond the margin),
    equivalent (all differences within the margin), or inconclusive, with the number of test cases that would tell.

    With --gate the primary metric decides for the first run: go when it is the winner, or equivalent within --margin;
    no go when another run is the winner.
    """
    asked = {
        "run": runs,
        "metric": metric or None,
        "margin": margin,
        "alpha": alpha,
        "min_coverage": min_coverage,
        "max_coverage_gap": max_coverage_gap,
        "seed": seed,
    }
    with service() as opened:
        document = opened.client.get(path_of("comparisons"), **asked)
    if json:
        print_json(document)
    else:
        _show(document)
    return GATE_CODES[document["gate"]] if gate else 0


def _show(document: dict[str, Any]) -> None:
    for warning in document["warnings"]:
        note(f"warning: {warning}")
    for name, metric in document["metrics"].items():
        show_metric(name, metric, document)
    say(f"gate ({document['primary']}): {document['gate'].replace('_', ' ')}")


def show_metric(name: str, metric: dict[str, Any], document: dict[str, Any]) -> None:
    """One metric of a comparison: the runs, best first, their pairs, and the verdict in words."""
    best_first = sorted(metric["runs"].items(), key=lambda each: each[1]["rank"])
    print_table(
        ["#", "RUN", "MODEL", name.upper(), "95 % INTERVAL", "N"],
        [[r["rank"], run[:SHOWN], r["model"], _number(r["value"]), _bounds(r), r["n"]] for run, r in best_first],
        title=f"{name} over {document['test_cases']} test cases" + (", clustered" if document["clustered"] else ""),
    )
    label = {run: f"{r['model']} {run[:SHOWN]}" for run, r in metric["runs"].items()}
    print_table(
        ["PAIR", "DIFFERENCE", "95 % INTERVAL", "P (HOLM)", "EFFECT", "WINS", "TIES", "LOSSES", "NOTICEABLE"],
        [
            [
                f"{label[pair['run_a']]} - {label[pair['run_b']]}",
                _number(pair["difference"], "+"),
                _bounds(pair, "+"),
                f"{pair['p_corrected']:.3g}",
                "" if pair["effect_size"] is None else f"{pair['effect']} {pair['effect_size']:+.3f}",
                pair["wins_a"],
                pair["ties"],
                pair["wins_b"],
                _number(pair["noticeable"]),
            ]
            for pair in metric["pairs"]
        ],
    )
    for run, r in best_first:
        if r["retest"] is not None:
            say(_said_of_repeats(label[run], r["retest"]))
    for pair in metric["pairs"]:
        if pair["retest_stderr"] is not None:
            noise = f"± {pair['retest_stderr']:.4f}"
            say(f"{label[pair['run_a']]} - {label[pair['run_b']]}: measured again it moves by {noise} (one stderr)")
    say(metric["said"])
    say("")


def _said_of_repeats(label: str, retest: dict[str, Any]) -> str:
    times = "once" if retest["repeats"] == 1 else f"{retest['repeats']} times"
    return (
        f"{label} was measured again {times}: the value moved by ± {retest['stderr']:.4f} (one stderr), "
        f"{retest['changed']:.1%} of the test cases scored differently"
    )


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _bounds(row: dict[str, Any], sign: str = "") -> str:
    return "" if row["ci_low"] is None else f"[{row['ci_low']:{sign}.4f}, {row['ci_high']:{sign}.4f}]"

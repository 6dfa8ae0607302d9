"""`evalservice abtests`: which of two or more models is better, decided by a test that says how sure it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Description, Json, by_id_or_name, minute, service
from cluster.cli.compare import GATE_CODES, show_metric
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput

if TYPE_CHECKING:
    from evalservice.client import Client

app = typer.Typer(
    help="A/B tests: models on the same test cases, paired; a test that decides early asks no more.",
    no_args_is_help=True,
)

Reference = Annotated[str, typer.Argument(metavar="NAME", help="The test's name or id.")]
Gate = Annotated[
    bool, typer.Option("--gate", help="Exit 0 go, 1 no go, 3 inconclusive, for the first model as the candidate.")
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the test.")],
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="B", help="A registered benchmark.")],
    model: Annotated[
        list[str], typer.Option("--model", metavar="M", help="Twice or more; the first is the candidate.")
    ],
    design: Annotated[
        str, typer.Option("--design", metavar="D", help="fixed: one test at the end. sequential: looks all the time.")
    ] = "fixed",
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="M", help="The first decides, others are told; default: the primary one."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", metavar="A", help="Chance of a false winner.")] = 0.05,
    effect: Annotated[
        float | None,
        typer.Option("--effect", metavar="D", help="The difference to find; sizes the test, in the metric's units."),
    ] = None,
    power: Annotated[float, typer.Option("--power", metavar="P", help="Chance to find such a difference.")] = 0.8,
    discordance: Annotated[
        float | None,
        typer.Option("--discordance", metavar="S", help="Test cases that only one model gets right (guess: 0.25)."),
    ] = None,
    difference_sd: Annotated[
        float | None,
        typer.Option("--difference-sd", metavar="S", help="For metrics that are not 0 or 1: spread of differences."),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", metavar="D", help="The least difference that matters; within: equivalent.")
    ] = 0.0,
    test_cases: Annotated[
        int | None,
        typer.Option("--test-cases", metavar="N", help="A random sample of N; default: by --effect, else all."),
    ] = None,
    max_model_calls: Annotated[
        int | None, typer.Option("--max-model-calls", metavar="N", help="The budget, over all models.")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", metavar="N", help="Requests in flight of each run.")
    ] = None,
    no_share: Annotated[
        bool, typer.Option("--no-share", help="Ask anew what runs of the same configuration have answered.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the order of the test cases.")] = 0,
    description: Description = "",
    json: Json = False,
) -> None:
    """Make a draft: the design is checked and sized now, no model is asked before `abtests start`.

    With --effect the test is sized to find such a difference with --power. A sequential design takes 1.4 times a
    fixed one's test cases at most, and 0.6 times in the median (power 0.9) when the difference is as large as that.
    """
    given = {
        "design": design,
        "metrics": metric or None,
        "test_cases": test_cases,
        "power": power,
        "minimum_detectable_effect": effect,
        "discordance": discordance,
        "difference_sd": difference_sd,
        "margin": margin,
        "max_model_calls": max_model_calls,
        "max_concurrency": max_concurrency,
        "share": not no_share,
        "seed": seed,
    }
    body = {
        "name": name,
        "benchmark": benchmark,
        "models": model,
        "description": description,
        "significance_level": alpha,
        "test_config": {key: value for key, value in given.items() if value is not None},
    }
    with service() as opened:
        test = opened.client.post(path_of("ab-tests"), body)
    if json:
        print_json(test)
        return
    plan = test["plan"]
    say(f"A/B test {test['name']!r}: {design}, {plan['test_cases']:,} test cases a model by {plan['metric']}")
    if plan["noticeable"] is not None:
        say(f"  a fixed design of that size finds a difference of {plan['noticeable']:.3g} with a power of {power:g}")
    say(f"  at most {plan['model_calls']:,} model calls; start it with: evalservice abtests start {test['id']}")


@app.command("start")
def start(
    reference: Reference,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the test's state and go on elsewhere.")] = False,
    gate: Gate = False,
    json: Json = False,
) -> int:
    """Start a test, or go on with one, and follow it until it is decided.

    This process drives its runs, or with EVALSERVICE_URL the service does and this follows them. Ctrl-C leaves: what
    was answered is kept, and the same command goes on. Exit code 1 when the test failed or was cancelled.
    """
    from cluster.cli.abtests_follow import in_background, to_its_end
    from evalservice.runs.lifecycle import driver_name

    with service() as opened:
        test = _find(opened.client, reference)
        if test["status"] != "completed":
            if opened.claims is not None and not no_wait:
                opened.claims.owner = driver_name()
            test = opened.client.post(path_of("ab-tests", test["id"], "start"))
            if no_wait:
                log = in_background(opened, test["id"])
                if json:
                    print_json(test)
                else:
                    say(f"A/B test {test['name']!r} is running; see `evalservice abtests show {test['id']}`{log}")
                return 0
            note(f"A/B test {test['id']}: {_against(test)} (after any fault: evalservice abtests start {test['id']})")
            test = to_its_end(opened, test)
    if test["status"] == "running":
        note(f"left: go on with `evalservice abtests start {test['id']}`, or end it with `abtests cancel`")
        return 130
    return _reported(test, json, gate=gate)


@app.command("show")
def show(reference: Reference, gate: Gate = False, json: Json = False) -> int:
    """Show a test: its design, how far its models are, what it has found so far or in the end."""
    with service() as opened:
        test = _find(opened.client, reference)
    if gate and test["results"]["comparison"] is None:
        raise InvalidInput("--gate", test["status"], "a test that is completed")
    return _reported(test, json, gate=gate, failed=0)


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option("--status", metavar="S", help="Only tests in this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the tests, the newest first."""
    with service() as opened:
        items = list(opened.client.items(path_of("ab-tests"), limit, status=status))
    if json:
        print_json({"items": items})
        return
    print_table(
        ["ID", "NAME", "DESIGN", "MODELS", "STATUS", "TEST CASES", "VERDICT", "CREATED"],
        [
            [
                i["id"],
                i["name"],
                i["test_config"]["design"],
                len(i["models"]),
                i["status"],
                f"{i['results']['test_cases']}/{i['plan']['test_cases'] if i['plan'] else '?'}",
                i["results"]["verdict"],
                minute(i["created_at"]),
            ]
            for i in items
        ],
    )


@app.command("cancel")
def cancel(reference: Reference, json: Json = False) -> None:
    """Cancel a test and the runs that it has made; runs that it shares go on."""
    with service() as opened:
        test = opened.client.post(path_of("ab-tests", _find(opened.client, reference)["id"], "cancel"))
    if json:
        print_json(test)
    else:
        say(f"A/B test {test['name']!r} is cancelled")


def _find(client: Client, reference: str) -> dict[str, Any]:
    return by_id_or_name(client, "ab-tests", "A/B test", reference, "`evalservice abtests list` shows them")


def _against(test: dict[str, Any]) -> str:
    return " against ".join(run["model"] for run in test["runs"])


def _reported(test: dict[str, Any], json: bool, *, gate: bool, failed: int = 1) -> int:
    if json:
        print_json(test)
    else:
        _report(test)
    if gate and test["results"]["comparison"] is not None:
        return GATE_CODES[test["results"]["comparison"]["gate"]]
    return 0 if test["status"] == "completed" else failed


def _report(test: dict[str, Any]) -> None:
    results, plan = test["results"], test["plan"]
    seconds = f" in {test['duration_seconds']:.1f} s" if test["duration_seconds"] is not None else ""
    verdict = f": {results['verdict']}" if results["verdict"] else ""
    say(f"A/B test {test['name']!r} ({test['test_config']['design']}) is {test['status']}{seconds}{verdict}")
    if results["error"]:
        say(f"  {results['error']}")
    if not test["runs"]:
        say(f"  {plan['test_cases']:,} test cases for each of {len(test['models'])} models by {plan['metric']}")
        return
    print_table(
        ["MODEL", "RUN", "STATUS", "ANSWERED", "TAKEN", "SHARED"],
        [
            [
                run["model"],
                run["evaluation_run_id"],
                run["status"],
                f"{run['completed_test_cases'] + run['failed_test_cases']}/{run['total_test_cases']}",
                results["models"].get(run["model_id"], {}).get("test_cases", 0),
                "yes" if run["is_shared"] else "",
            ]
            for run in test["runs"]
        ],
    )
    if (comparison := results["comparison"]) is not None:
        for warning in comparison["warnings"]:
            note(f"warning: {warning}")
        for name, metric in comparison["metrics"].items():
            show_metric(name, metric, comparison)
    else:
        _show_pairs(test)
    if (calls := results["calls"]) is not None:
        say(
            f"{calls['made']:,} of {calls['planned']:,} model calls made: {calls['saved_by_stopping']:,} saved by "
            f"stopping, {calls['saved_by_sharing']:,} by sharing runs"
        )


def _show_pairs(test: dict[str, Any]) -> None:
    """What the last look has found."""
    if not test["results"]["pairs"]:
        return
    names = {run["model_id"]: run["model"] for run in test["runs"]}
    print_table(
        ["PAIR", "N", "DIFFERENCE", "95 % AT ANY LOOK", "P (HOLM)", "WINS", "TIES", "LOSSES", "DECIDED"],
        [
            [
                f"{names[pair['model_a']]} - {names[pair['model_b']]}",
                pair["n"],
                "" if pair["difference"] is None else f"{pair['difference']:+.4f}",
                "" if pair["ci_low"] is None else f"[{pair['ci_low']:+.4f}, {pair['ci_high']:+.4f}]",
                f"{pair['p_corrected']:.3g}",
                pair["wins_a"],
                pair["ties"],
                pair["wins_b"],
                {"a": names[pair["model_a"]], "b": names[pair["model_b"]]}.get(pair["outcome"], pair["outcome"]),
            ]
            for pair in test["results"]["pairs"]
        ],
    )

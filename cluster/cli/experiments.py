"""`evalservice experiments`: a grid of models, benchmarks and parameters, its numbered runs and their report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from cluster.cli.common import Description, Json, Service, Tags, by_id_or_name, minute, money, service, with_interval
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from evalservice.client import Client

app = typer.Typer(
    help="Experiments: a grid of models, benchmarks and parameters that tests a hypothesis.", no_args_is_help=True
)
templates = typer.Typer(help="What experiments are made from.", no_args_is_help=True)
app.add_typer(templates, name="templates")

Reference = Annotated[str, typer.Argument(metavar="NAME", help="The experiment's name or id.")]
Models = Annotated[list[str] | None, typer.Option("--model", metavar="M", help="Repeatable; the first: baseline.")]
Benchmarks = Annotated[list[str] | None, typer.Option("--benchmark", metavar="B", help="Repeatable.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", metavar="KEY=[…]", help="Values to try, e.g. temperature=[0,0.7]; repeatable."),
]
Metric = Annotated[str | None, typer.Option("--metric", metavar="M", help="What is compared; default: the primary.")]
TestCases = Annotated[int | None, typer.Option("--test-cases", metavar="N", help="A random sample; default: all.")]
MaxConcurrency = Annotated[
    int | None, typer.Option("--max-concurrency", metavar="N", help="Requests in flight of each run.")
]
Alpha = Annotated[float, typer.Option("--alpha", metavar="A", help="Chance that any verdict of a report is false.")]
NoShare = Annotated[bool, typer.Option("--no-share", help="Ask anew what runs of the same configuration have.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the sample, permutations and resamples.")]
Hypothesis = Annotated[str, typer.Option("--hypothesis", metavar="S", help="What is tested.")]
Objective = Annotated[str, typer.Option("--objective", metavar="S", help="What it is good for.")]
Number = Annotated[int | None, typer.Option("--run", metavar="N", min=1, help="Its number; default: the latest.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the experiment.")],
    model: Models = None,
    benchmark: Benchmarks = None,
    parameter: Parameters = None,
    template: Annotated[str | None, typer.Option("--template", metavar="T", help="Made from this one.")] = None,
    metric: Metric = None,
    test_cases: TestCases = None,
    alpha: Alpha = 0.05,
    max_concurrency: MaxConcurrency = None,
    no_share: NoShare = False,
    seed: Seed = 0,
    hypothesis: Hypothesis = "",
    objective: Objective = "",
    description: Description = "",
    tag: Tags = None,
    json: Json = False,
) -> None:
    """Make a draft: the grid is checked as a whole, no model is asked before `experiments start`.

    Every model is run on every benchmark with every combination of the parameters' values; the first model with each
    parameter's first value is the baseline of the report.

      evalservice experiments create warm --model mini --benchmark gsm8k --parameter 'temperature=[0,0.7,1]'
    """
    grid = _grid(model, benchmark, parameter, metric, test_cases, alpha, max_concurrency, no_share, seed)
    if grid is None and template is None:
        raise InvalidInput("--model", None, "given, with --benchmark; or --template")
    body = {
        "name": name,
        "hypothesis": hypothesis,
        "objective": objective,
        "description": description,
        "tags": tag or [],
        **({} if grid is None else {"experiment_config": grid}),
        **({} if template is None else {"template": template}),
    }
    with service() as opened:
        experiment = opened.client.post(path_of("experiments"), body)
    if json:
        print_json(experiment)
    else:
        config = experiment["experiment_config"]
        cells = len(config["models"]) * len(config["benchmarks"])
        for values in config["parameters"].values():
            cells *= len(values)
        say(f"experiment {name!r}: {cells} cells; start it with: evalservice experiments start {experiment['id']}")


@app.command("start")
def start(
    reference: Reference,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave the runs to the service, or to `resume`.")] = False,
    json: Json = False,
) -> int:
    """Start the next numbered run and follow it. Cells that were measured before cost nothing.

    This process drives the cells one after the other, or with EVALSERVICE_URL the service does. Ctrl-C leaves: what was
    answered is kept, and `experiments resume` goes on. Exit code 1 when a cell failed.
    """
    with service() as opened:
        experiment = _find(opened.client, reference)
        run = opened.client.post(path_of("experiments", experiment["id"], "start"))
        shared = sum(cell["is_shared"] for cell in run["cells"])
        note(f"run {run['run_number']} of {experiment['name']!r}: {len(run['cells'])} cells, {shared} of them shared")
        return _followed(opened, experiment, [run], json, no_wait=no_wait)


@app.command("pause")
def pause(reference: Reference, json: Json = False) -> None:
    """Stop what the experiment has under way; what was answered is kept."""
    with service() as opened:
        experiment = opened.client.post(path_of("experiments", _find(opened.client, reference)["id"], "pause"))
    if json:
        print_json(experiment)
    else:
        say(f"experiment {experiment['name']!r} is paused; go on with: evalservice experiments resume {reference}")


@app.command("resume")
def resume(reference: Reference, json: Json = False) -> int:
    """Go on with a paused experiment, or with runs that were left, and follow them to their end."""
    with service() as opened:
        experiment = _find(opened.client, reference)
        if experiment["status"] == "paused":
            experiment = opened.client.post(path_of("experiments", experiment["id"], "resume"))
        runs = list(opened.client.items(path_of("experiments", experiment["id"], "runs")))
        return _followed(opened, experiment, [run for run in runs if run["status"] == "running"], json, no_wait=False)


@app.command("show")
def show(reference: Reference, run: Number = None, json: Json = False) -> None:
    """Show an experiment and a numbered run of it: every cell, how far it is, what it has found."""
    with service() as opened:
        experiment = _find(opened.client, reference)
        runs = list(opened.client.items(path_of("experiments", experiment["id"], "runs")))
    chosen = [each for each in runs if run in (None, each["run_number"])][:1]
    if run is not None and not chosen:
        raise NotFound("run", run, f"the experiment has {len(runs)} runs")
    if json:
        print_json({**experiment, "run": chosen[0] if chosen else None})
        return
    say(f"experiment {experiment['name']!r} is {experiment['status']}, with {experiment['total_runs']} runs")
    if experiment["hypothesis"]:
        say(f"  hypothesis: {experiment['hypothesis']}")
    for each in chosen:
        _show_run(each)


@app.command("list")
def list_(
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="draft, active, paused, archived.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List the experiments, the newest first; archived ones only with --status archived."""
    with service() as opened:
        items = list(opened.client.items(path_of("experiments"), limit, status=status))
    if json:
        print_json({"items": items})
        return
    print_table(
        ["ID", "NAME", "STATUS", "RUNS", "LAST RUN", "HYPOTHESIS"],
        [[i["id"], i["name"], i["status"], i["total_runs"], minute(i["last_run_at"]), i["hypothesis"]] for i in items],
    )


@app.command("report")
def report(
    reference: Reference,
    run: Number = None,
    form: Annotated[str, typer.Option("--format", metavar="F", help="markdown or html.")] = "markdown",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")] = None,
    json: Json = False,
) -> None:
    """Report a numbered run: scores by cell and by factor level, differences from the baseline with their plot, cost
    against quality with the Pareto front. Plots are inline SVG, every number of them is in a table as well."""
    from evalservice.comparisons.rendering import render
    from evalservice.comparisons.report_schemas import ReportRead
    from evalservice.interchange import write_whole

    if form not in ("markdown", "html"):
        raise InvalidInput("format", form, "accepted are markdown and html")
    with service() as opened:
        experiment = _find(opened.client, reference)
        found = opened.client.get(path_of("experiments", experiment["id"], "report"), run=run)
    if json:
        print_json(found)
        return
    text = render(ReportRead.model_validate(found), "html" if form == "html" else "markdown")
    if output is None:
        say(text)
    else:
        write_whole([text.encode()], output)
        note(f"report of run {found['run_number']} to {output}")


@templates.command("add")
def add_template(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the template.")],
    model: Models = None,
    benchmark: Benchmarks = None,
    parameter: Parameters = None,
    metric: Metric = None,
    test_cases: TestCases = None,
    alpha: Alpha = 0.05,
    max_concurrency: MaxConcurrency = None,
    no_share: NoShare = False,
    seed: Seed = 0,
    hypothesis: Hypothesis = "",
    objective: Objective = "",
    description: Description = "",
    tag: Tags = None,
    json: Json = False,
) -> None:
    """Make a template that `experiments create --template` takes its grid, hypothesis and tags from."""
    grid = _grid(model, benchmark, parameter, metric, test_cases, alpha, max_concurrency, no_share, seed)
    if grid is None:
        raise InvalidInput("--model", None, "given, with --benchmark")
    body = {"name": name, "hypothesis": hypothesis, "objective": objective, "description": description}
    with service() as opened:
        made = opened.client.post(
            path_of("experiment-templates"), {**body, "tags": tag or [], "experiment_config": grid}
        )
    if json:
        print_json(made)
    else:
        say(f"template {name!r}: use it with `evalservice experiments create … --template {name}`")


@templates.command("list")
def list_templates(json: Json = False) -> None:
    """List the templates, the newest first."""
    with service() as opened:
        items = list(opened.client.items(path_of("experiment-templates")))
    if json:
        print_json({"items": items})
    else:
        print_table(
            ["NAME", "HYPOTHESIS", "CREATED"], [[i["name"], i["hypothesis"], minute(i["created_at"])] for i in items]
        )


def _find(client: Client, reference: str) -> dict[str, Any]:
    return by_id_or_name(client, "experiments", "experiment", reference, "`evalservice experiments list` shows them")


def _grid(
    models: list[str] | None,
    benchmarks: list[str] | None,
    parameters: list[str] | None,
    metric: str | None,
    test_cases: int | None,
    alpha: float,
    max_concurrency: int | None,
    no_share: bool,
    seed: int,
) -> dict[str, Any] | None:
    """The grid that the options describe; None without models and benchmarks."""
    if not models and not benchmarks:
        return None
    given = {"metric": metric, "test_cases": test_cases, "max_concurrency": max_concurrency}
    return {
        "models": models or [],
        "benchmarks": benchmarks or [],
        "parameters": dict(_parameter(each) for each in parameters or ()),
        "significance_level": alpha,
        "share": not no_share,
        "seed": seed,
        **{key: value for key, value in given.items() if value is not None},
    }


def _parameter(given: str) -> tuple[str, list[Any]]:
    key, _, text = given.partition("=")
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        values = None
    if not key or not isinstance(values, list) or not values:
        raise InvalidInput("--parameter", given, "KEY=[…] with a JSON list of values, e.g. 'temperature=[0,0.7]'")
    return key, values


def _followed(
    opened: Service, experiment: dict[str, Any], runs: list[dict[str, Any]], json: bool, *, no_wait: bool
) -> int:
    from cluster.cli.experiments_follow import to_its_end

    ended = runs if no_wait else [to_its_end(opened, experiment["id"], run["run_number"]) for run in runs]
    if json:
        print_json({**experiment, "runs": ended})
    else:
        for run in ended:
            _show_run(run)
        say(f"  see `evalservice experiments report {experiment['name']}`" if ended else "nothing is under way")
    if no_wait:
        return 0
    if any(run["status"] == "running" for run in ended):
        note(f"left: go on with `evalservice experiments resume {experiment['id']}`")
        return 130
    return 0 if all(run["status"] == "completed" for run in ended) else 1


def _show_run(run: dict[str, Any]) -> None:
    seconds = f" in {run['duration_seconds']:.1f} s" if run["duration_seconds"] is not None else ""
    say(f"run {run['run_number']} is {run['status']}{seconds}")
    parameters = list(run["cells"][0]["parameters"]) if run["cells"] else []
    print_table(
        ["MODEL", "BENCHMARK", *(key.upper() for key in parameters), "STATUS", "DONE", "SHARED", "RESULT", "COST"],
        [
            [
                cell["model"],
                cell["benchmark"],
                *(str(cell["parameters"][key]) for key in parameters),
                cell["status"],
                f"{cell['completed_test_cases'] + cell['failed_test_cases']}/{cell['total_test_cases']}",
                "yes" if cell["is_shared"] else "",
                with_interval(next(iter(cell["aggregated_results"].values()), {})),
                money(cell["total_cost"]),
            ]
            for cell in run["cells"]
        ],
    )

"""`evalservice benchmarks`: register and list benchmarks; `standard` has those that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli import standard
from cluster.cli.common import Description, Json, Tags, body_of, json_object, put_away, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput

app = typer.Typer(help="Benchmarks: a dataset, a prompt, scorers.", no_args_is_help=True)
app.command("catalog")(standard.catalog)
app.command("install")(standard.install)


@app.command("add")
def add(
    file: Annotated[
        Path | None, typer.Argument(help="A benchmark as YAML; the options below are then not given.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="N")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="D", help="A registered dataset.")] = None,
    category: Annotated[
        str | None,
        typer.Option("--category", metavar="C", help="text-generation, code-generation, qa, summarization, …"),
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", metavar="S", help="A scorer's name; repeatable.")
    ] = None,
    scorer_params: Annotated[
        str | None, typer.Option("--scorer-params", metavar="JSON", help="Parameters of the (one) scorer.")
    ] = None,
    prompt_template: Annotated[
        str | None,
        typer.Option(
            "--prompt-template", metavar="T", help="Jinja over input, choices, metadata; default {{ input }}."
        ),
    ] = None,
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", metavar="T")] = None,
    primary_metric: Annotated[str | None, typer.Option("--primary-metric", metavar="M")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Completions per test case.")] = None,
    version: Annotated[str, typer.Option("--version", metavar="V")] = "1.0.0",
    description: Description = "",
    tag: Tags = None,
    json: Json = False,
) -> None:
    """Register a benchmark. Its prompt is tried on the dataset's first record.

    Examples:

      evalservice benchmarks add --name gsm8k --dataset gsm8k --category qa --scorer numeric_match

      evalservice benchmarks add benchmark.yaml
    """
    from evalservice.catalog.criteria import parse_criteria
    from evalservice.catalog.definitions import load_benchmark_yaml
    from evalservice.catalog.schemas import NewBenchmark, parse

    by_option = {
        "--name": name,
        "--dataset": dataset,
        "--category": category,
        "--scorer": scorer or None,
        "--scorer-params": scorer_params,
        "--prompt-template": prompt_template,
        "--system-prompt": system_prompt,
        "--primary-metric": primary_metric,
        "--epochs": epochs,
    }
    if file is not None:
        given = [option for option, value in by_option.items() if value is not None]
        if given:
            raise InvalidInput(given[0], "…", "either a FILE or options, not both")
        definition = load_benchmark_yaml(file)
        values: dict[str, Any] = {
            key: getattr(definition, key)
            for key in (
                "name",
                "dataset",
                "category",
                "description",
                "version",
                "scoring_methodology",
                "metadata",
                "tags",
                "criteria",
            )
        }
    else:
        for option in ("--name", "--dataset", "--category", "--scorer"):
            if by_option[option] is None:
                raise InvalidInput(option, None, "give a FILE.yaml, or --name, --dataset, --category and --scorer")
        criteria = parse_criteria(
            {
                "scorers": _scorers(scorer or [], scorer_params),
                **{
                    key: value
                    for key, value in (
                        ("prompt_template", prompt_template),
                        ("system_prompt", system_prompt),
                        ("primary_metric", primary_metric),
                        ("epochs", epochs),
                    )
                    if value is not None
                },
            }
        )
        values = {
            "name": name,
            "dataset": dataset,
            "category": category,
            "criteria": criteria,
            "description": description,
            "version": version,
            "tags": tuple(tag or ()),
        }
    new = parse(NewBenchmark, values)
    body = {**body_of(new), "criteria": new.criteria.as_json()}
    with service() as opened:
        benchmark = opened.client.post(path_of("benchmarks"), body)
    if json:
        print_json(benchmark)
    else:
        say(f"registered benchmark {benchmark['name']!r} ({benchmark['category']}) over dataset {new.dataset!r}")


def _scorers(names: list[str], params: str | None) -> list[Any]:
    parameters = json_object("scorer_params", params)
    if parameters and len(names) > 1:
        raise InvalidInput("scorer_params", params, "one --scorer; several scorers with parameters go in a YAML file")
    return [{"name": name, "params": parameters} if parameters else name for name in names]


@app.command("list")
def list_benchmarks(json: Json = False) -> None:
    """List the benchmarks, the newest first."""
    with service() as opened:
        benchmarks = list(opened.client.items(path_of("benchmarks")))
    if json:
        print_json({"items": benchmarks})
        return
    print_table(
        ["NAME", "VERSION", "CATEGORY", "DATASET", "SCORERS", "RUNS"],
        [
            [
                benchmark["name"],
                benchmark["version"],
                benchmark["category"],
                benchmark["dataset"],
                ", ".join(scorer["name"] for scorer in benchmark["evaluation_criteria"]["scorers"]),
                benchmark["total_evaluations"],
            ]
            for benchmark in benchmarks
        ],
    )


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name, name@version or id.")], json: Json = False) -> None:
    """Show a benchmark: dataset, prompt, scorers."""
    from evalservice.catalog.criteria_parts import abridged

    with service() as opened:
        benchmark = opened.client.get(path_of("benchmarks", name))
    if json:
        print_json(benchmark)
        return
    benchmark["evaluation_criteria"] = abridged(benchmark["evaluation_criteria"])
    for key, value in benchmark.items():
        say(f"{key:>20}  {'' if value is None else value}")


@app.command("archive")
def archive(name: Annotated[str, typer.Argument(help="Name, name@version or id.")], json: Json = False) -> None:
    """Take a benchmark out of lists and new runs; one that no run hangs on is deleted."""
    put_away("benchmark", name, json)

"""`evalservice datasets`: register and list datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.common import Description, Json, Tags, body_of, json_file, minute, put_away, sent, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

app = typer.Typer(
    help="Datasets: JSON, JSONL, CSV and Parquet files, validated and kept as snapshots.", no_args_is_help=True
)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What you will call it.")],
    file: Annotated[Path, typer.Argument(help="The file. It is read once and never again.")],
    file_format: Annotated[
        str | None, typer.Option("--format", metavar="F", help="json, jsonl, csv or parquet; else by the suffix.")
    ] = None,
    input_field: Annotated[
        str, typer.Option("--input-field", metavar="F", help="The question; may be a.dotted.path.")
    ] = "input",
    expected_field: Annotated[
        str, typer.Option("--expected-field", metavar="F", help="The reference answer.")
    ] = "expected_output",
    id_field: Annotated[str, typer.Option("--id-field", metavar="F")] = "id",
    choices_field: Annotated[str, typer.Option("--choices-field", metavar="F", help="A list of choices.")] = "choices",
    cluster_field: Annotated[
        str, typer.Option("--cluster-field", metavar="F", help="Groups dependent items, e.g. one passage's questions.")
    ] = "cluster",
    metadata_field: Annotated[str, typer.Option("--metadata-field", metavar="F")] = "metadata",
    input_schema: Annotated[
        Path | None, typer.Option("--input-schema", metavar="FILE", help="JSON Schema of the inputs.")
    ] = None,
    output_schema: Annotated[
        Path | None, typer.Option("--output-schema", metavar="FILE", help="JSON Schema of the expected outputs.")
    ] = None,
    description: Description = "",
    tag: Tags = None,
    json: Json = False,
) -> None:
    """Register a dataset: validate every record, then snapshot the file. One bad record refuses the file.

    Example: evalservice datasets add gsm8k test.jsonl --input-field question --expected-field answer
    """
    from evalservice.catalog.formats import guess_format
    from evalservice.catalog.schemas import DatasetBody, parse

    mapping = {
        "input": input_field,
        "expected": expected_field,
        "id": id_field,
        "choices": choices_field,
        "cluster": cluster_field,
        "metadata": metadata_field,
    }
    new = parse(
        DatasetBody,
        {
            "name": name,
            "description": description,
            "tags": tuple(tag or ()),
            "mapping": mapping,
            "input_schema": json_file("input_schema", input_schema),
            "output_schema": json_file("output_schema", output_schema),
            "file_format": file_format or guess_format(file),
            "source": str(file.absolute()),
        },
    )
    body = {**body_of(new), "mapping": mapping}
    with service() as opened:
        if opened.platform is not None:
            dataset = opened.client.post(path_of("datasets"), {**body, "file_path": str(file)})
        else:
            with sent(opened.client, file) as upload:
                dataset = opened.client.post(path_of("datasets"), {**body, "file_path": upload})
    if json:
        print_json(dataset)
    else:
        truth = "with" if dataset["has_ground_truth"] else "without"
        say(f"registered dataset {name!r}: {dataset['total_test_cases']} test cases {truth} expected outputs")


@app.command("list")
def list_datasets(json: Json = False) -> None:
    """List the datasets, the newest first."""
    with service() as opened:
        datasets = list(opened.client.items(path_of("datasets")))
    if json:
        print_json({"items": datasets})
        return
    print_table(
        ["NAME", "FORMAT", "TEST CASES", "EXPECTED", "CONTENT HASH", "CREATED"],
        [
            [
                dataset["name"],
                dataset["file_format"] or "inline",
                dataset["total_test_cases"],
                "yes" if dataset["has_ground_truth"] else "no",
                dataset["content_hash"][:12],
                minute(dataset["created_at"]),
            ]
            for dataset in datasets
        ],
    )


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name or id.")], json: Json = False) -> None:
    """Show a dataset and its first test case."""
    with service() as opened:
        dataset = opened.client.get(path_of("datasets", name))
        first = opened.client.get(path_of("datasets", dataset["id"], "test-cases"), limit=1)["items"]
    dataset["first_test_case"] = first[0] if first else None
    if json:
        print_json(dataset)
        return
    for key, value in dataset.items():
        say(f"{key:>18}  {'' if value is None else value}")


@app.command("archive")
def archive(name: Annotated[str, typer.Argument(help="Name or id.")], json: Json = False) -> None:
    """Take a dataset out of lists and new benchmarks; one that nothing hangs on is deleted."""
    put_away("dataset", name, json)

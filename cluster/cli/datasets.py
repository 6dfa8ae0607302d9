"""`evalservice datasets`: register and list datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.common import Description, Json, Tags, json_file, platform
from cluster.cli.output import print_json, print_table, say

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
    from evalservice.catalog.datasets import snapshot
    from evalservice.catalog.formats import guess_format, read_records
    from evalservice.catalog.mapping import FieldMapping
    from evalservice.catalog.schemas import NewDataset, parse
    from evalservice.catalog.service import add_dataset, refuse_taken_dataset

    mapping = FieldMapping(input_field, expected_field, id_field, choices_field, cluster_field, metadata_field)
    new = parse(
        NewDataset,
        {
            "name": name,
            "description": description,
            "tags": tuple(tag or ()),
            "mapping": mapping,
            "input_schema": json_file("input_schema", input_schema),
            "output_schema": json_file("output_schema", output_schema),
        },
    )
    chosen = file_format or guess_format(file)
    with platform() as opened:
        with opened.transaction() as session:
            refuse_taken_dataset(session, new.name)
        stored = snapshot(
            read_records(file, chosen),
            opened.settings.data_root_uri,
            opened.organization_id,
            mapping=mapping,
            input_schema=new.input_schema or None,
            output_schema=new.output_schema or None,
            source=str(file),
        )
        with opened.transaction() as session:
            dataset = add_dataset(
                session,
                opened.organization_id,
                new,
                stored,
                file_path=str(file.absolute()),
                file_format=chosen,
                user_id=opened.user_id,
            )
            document = describe(dataset)
    if json:
        print_json(document)
    else:
        truth = "with" if dataset.has_ground_truth else "without"
        say(f"registered dataset {dataset.name!r}: {dataset.total_test_cases} test cases {truth} expected outputs")


@app.command("list")
def list_datasets(json: Json = False) -> None:
    """List the datasets, the newest first."""
    from evalservice.catalog.service import listed
    from evalservice.tables import EvaluationDataset

    with platform() as opened, opened.transaction() as session:
        documents = [describe(dataset) for dataset in listed(session, EvaluationDataset)]
    if json:
        print_json({"items": documents})
        return
    print_table(
        ["NAME", "FORMAT", "TEST CASES", "EXPECTED", "CONTENT HASH", "CREATED"],
        [
            [
                d["name"],
                d["file_format"] or "inline",
                d["total_test_cases"],
                "yes" if d["has_ground_truth"] else "no",
                d["content_hash"][:12],
                d["created_at"].strftime("%Y-%m-%d %H:%M"),
            ]
            for d in documents
        ],
    )


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name or id.")], json: Json = False) -> None:
    """Show a dataset and its first test case."""
    from evalservice.catalog.blocks import Block, read_block
    from evalservice.catalog.snapshots import open_snapshot
    from evalservice.lookup import find
    from evalservice.tables import EvaluationDataset

    with platform() as opened, opened.transaction() as session:
        document = describe(find(session, EvaluationDataset, name, "dataset"))
    first = read_block(open_snapshot(document["snapshot_uri"]), Block(0, 1))[0]
    document["first_test_case"] = {
        "id": first.id,
        "input": first.input,
        "expected_output": first.expected_output,
        "choices": first.choices,
        "cluster": first.cluster,
        "metadata": dict(first.metadata),
    }
    if json:
        print_json(document)
        return
    for key, value in document.items():
        say(f"{key:>18}  {value}")


def describe(dataset: Any) -> dict[str, Any]:
    """A dataset as JSON, without its records."""
    names = [
        "id",
        "name",
        "description",
        "file_path",
        "file_format",
        "total_test_cases",
        "has_ground_truth",
        "content_hash",
        "snapshot_uri",
        "input_schema",
        "output_schema",
        "tags",
        "created_at",
    ]
    return {name: getattr(dataset, name) for name in names}

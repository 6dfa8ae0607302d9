"""`evalservice benchmarks catalog` and `install`: the standard benchmarks that come with the package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, owners_engine, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import Forbidden

if TYPE_CHECKING:
    from evalservice.catalog.standard.definition import StandardBenchmark
    from evalservice.settings import Settings


def catalog(
    name: Annotated[str | None, typer.Argument(help="One of them, in full; default: all, a line each.")] = None,
    json: Json = False,
) -> None:
    """List the standard benchmarks, or show one: its data, its prompt, how it is scored, what others report."""
    from evalservice.catalog.standard.definition import standard_benchmark, standard_benchmarks

    wanted = [standard_benchmark(name)] if name is not None else [*standard_benchmarks().values()]
    with service() as opened:
        public = [each for each in opened.client.items(path_of("benchmarks"), is_standard=True) if each["is_public"]]
    shown = [_line(each, [found for found in public if found["name"] == each.name]) for each in wanted]
    if name is not None:
        shown[0] |= _details(wanted[0])
        if json:
            print_json(shown[0])
        else:
            for key, value in shown[0].items():
                say(f"{key:>20}  {_plain(value)}")
        return
    if json:
        print_json({"items": shown})
        return
    print_table(
        ["NAME", "CATEGORY", "TEST CASES", "EXAMPLES", "PRIMARY METRIC", "DATA SET", "LICENCE", "INSTALLED"],
        [
            [
                each["name"],
                each["category"],
                each["test_cases"],
                each["few_shot"],
                each["primary_metric"],
                each["source"]["repository"],
                each["source"]["licence"],
                each["installed"][0] if each["installed"] else "",
            ]
            for each in shown
        ],
    )


def _line(definition: StandardBenchmark, installed: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": definition.name,
        "title": definition.title,
        "description": definition.description,
        "version": definition.version,
        "category": definition.category,
        "test_cases": definition.test_cases[0],
        "few_shot": definition.few_shot.count if definition.few_shot is not None else 0,
        "primary_metric": definition.primary_metric,
        "source": {**definition.source.model_dump(), "address": definition.source.address},
        "installed": [each["version"] for each in installed],
    }


def _details(definition: StandardBenchmark) -> dict[str, Any]:
    return {
        "methodology": definition.methodology,
        "reported": definition.reported,
        "layouts": [
            {"name": layout.name, "files": [*layout.files, *layout.few_shot_files], "fields": layout.fields}
            for layout in definition.layouts
        ],
        "few_shot_plan": definition.few_shot.model_dump() if definition.few_shot is not None else None,
        "evaluation_criteria": definition.evaluation_criteria.as_json(),
    }


def _plain(value: Any) -> str:
    return "" if value is None or value == [] else str(value)


def install(
    name: Annotated[str, typer.Argument(help="A name of `benchmarks catalog`.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="A file or folder as the data set is published; else a download."),
    ] = None,
    json: Json = False,
) -> None:
    """Install a standard benchmark, for every organization. It is the operator's to do.

    Needs the database owner's login (DATABASE_URL, or the embedded Postgres): no API key may publish benchmarks.
    Doing it again changes nothing; other data becomes another version beside the first.

    Example: evalservice benchmarks install gsm8k --from grade-school-math/grade_school_math/data
    """
    from cluster.runtime import read_settings
    from evalservice.catalog.standard.definition import standard_benchmark

    definition = standard_benchmark(name)
    settings = read_settings()
    if settings.url is not None:
        raise Forbidden(
            "standard benchmarks are the operator's: install them beside the service, with EVALSERVICE_URL unset and "
            "DATABASE_URL the database owner's login; no API key may publish them"
        )
    document = _installed(settings, definition, source)
    if document["warning"]:
        note(f"warning: {document['warning']}")
    if json:
        print_json(document)
        return
    done = "installed" if document["is_new"] else "already installed:"
    say(f"{done} {name!r} version {document['version']}: {document['test_cases']} test cases, public")


def _installed(settings: Settings, definition: StandardBenchmark, source: Path | None) -> dict[str, Any]:
    from evalservice.catalog.standard.hub import download
    from evalservice.catalog.standard.install import details_of, install, prepare
    from evalservice.database import transaction

    with owners_engine() as engine, tempfile.TemporaryDirectory(prefix="evalservice-") as folder:
        revision = None
        if source is None:
            source = Path(folder)
            revision = download(definition, source)
        prepared = prepare(definition, source, settings.data_root_uri)
        details = details_of(prepared, revision)
        with transaction(engine) as session:
            done = install(session, prepared, details)
    return {
        "id": str(done.benchmark_id),
        "name": definition.name,
        "version": done.version,
        "is_new": done.is_new,
        **details,
    }

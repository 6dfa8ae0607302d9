"""Bad input: one line on stderr that names the field, the value and what is accepted; and nothing half-written."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from evalservice.tables import metadata
from tests.provider import RunningProvider


@dataclass(frozen=True)
class Case:
    """A command that must be refused: its exit code, and what its error must say. `{…}` is filled in by `places`."""

    name: str
    command: str
    code: int
    says: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


MODEL = "models add new --platform openai --model-id x --base-url {url}"
BENCHMARK = "benchmarks add --name new --dataset sums --category qa --scorer numeric_match"
DATASET = "datasets add new {folder}"
CASES = [
    Case("unknown model", "run --model nobody --benchmark sums", 1, ("model: 'nobody'", "known are")),
    Case("unknown benchmark", "run --model good --benchmark nothing", 1, ("benchmark: 'nothing'", "known are sums")),
    Case("unknown platform", "models add new --platform bedrock --model-id x", 2, ("platform: 'bedrock'", "openai")),
    Case(
        "unknown scorer",
        "benchmarks add --name new --dataset sums --category qa --scorer vibes",
        2,
        ("scorers[0].name: 'vibes'", "exact_match"),
    ),
    Case("unknown parameter", BENCHMARK + ' --scorer-params {"tolerance":1}', 2, ("tolerance", "rel_tol")),
    Case("unknown dataset", BENCHMARK.replace(" sums ", " none "), 1, ("dataset: 'none'", "known are sums")),
    Case("unknown metric", f"{BENCHMARK} --primary-metric elo", 2, ("primary_metric: 'elo'", "numeric_match")),
    Case("key not set", f"{MODEL} --api-key-env NO_SUCH_KEY", 2, ("api_key_env: 'NO_SUCH_KEY'", "export")),
    Case("no key", "models add new --platform openai --model-id x", 2, ("api_key_env", "--api-key-env")),
    Case(
        "not a URL",
        "models add new --platform openai --model-id x --base-url ftp://x",
        2,
        ("base_url: 'ftp://x'", "http"),
    ),
    Case(
        "metadata address",
        "models add new --platform openai --model-id x --base-url http://169.254.169.254/v1",
        2,
        ("base_url: 'http://169.254.169.254/v1'",),
    ),
    Case("unreachable server", "run --model lonely --benchmark sums", 1, ("base_url: '{closed}'", "does not answer")),
    Case(
        "price is a word",
        f"{MODEL} --input-price cheap --output-price 1",
        2,
        ("input_price: 'cheap'", "US dollars", "number"),
    ),
    Case("price below zero", f"{MODEL} --input-price 1 --output-price=-1", 2, ("output_price: '-1'", "0 or more")),
    Case("misspelt setting", MODEL + ' --config {"temprature":0}', 2, ("config.temprature", "temperature")),
    Case("setting out of range", MODEL + ' --config {"temperature":3}', 2, ("config.temperature: 3", "2")),
    Case(
        "no key for Anthropic",
        "models add new --platform anthropic --model-id x",
        2,
        ("api_key_env", "https://api.anthropic.com needs a key"),
    ),
    Case(
        "setting of another platform",
        MODEL.replace("openai", "anthropic") + ' --config {"seed":1}',
        2,
        ("config.seed: 1", "platform 'anthropic' has no such parameter", "temperature"),
    ),
    Case(
        "setting out of a platform's range",
        MODEL.replace("openai", "anthropic") + ' --config {"temperature":1.5}',
        2,
        ("config.temperature: 1.5", "0 to 1"),
    ),
    Case("tool of no shape", MODEL + ' --config {"tools":[{"name":"f"}]}', 2, ("config.tools", "[0]", "function")),
    Case("demo without a model", "demo --base-url {url}", 2, ("--model-id",)),
    Case("demo without a server", "demo --model-id x", 2, ("--base-url",)),
    Case("config is no JSON", MODEL + " --config {", 2, ("config: '{'", "JSON object")),
    Case("name is taken", MODEL.replace("new", "good"), 1, ("model: 'good' version 1.0.0 exists",)),
    Case("file is missing", f"{DATASET}/none.jsonl", 2, ("none.jsonl", "file")),
    Case("unknown format", f"{DATASET}/sums.jsonl --format xml", 2, ("format: 'xml'", "jsonl")),
    Case("broken line", f"{DATASET}/broken.jsonl", 2, ("line 2", "broken.jsonl")),
    Case(
        "missing field",
        f"{DATASET}/sums.jsonl --input-field question",
        2,
        ("input_field: 'question'", "there are: input, expected_output"),
    ),
    Case("binary file", f"{DATASET}/junk.csv", 2, ("junk.csv",)),
    Case("not Parquet", f"{DATASET}/junk.parquet", 2, ("junk.parquet", "Parquet")),
    Case("nested too deep", f"{DATASET}/deep.jsonl", 2, ("line 1",)),
    Case("empty file", f"{DATASET}/empty.jsonl", 2, ("empty.jsonl",)),
    Case("YAML bomb", "benchmarks add {folder}/bomb.yaml", 2, ("bomb.yaml",)),
    Case("template raises", BENCHMARK + " --prompt-template {{metadata.none.at.all}}", 2, ("prompt_template",)),
    Case("template breaks out", BENCHMARK + " --prompt-template {{''.__class__.__mro__}}", 2, ("prompt_template",)),
    Case("disk is full", f"{DATASET}/large.jsonl", 1, ("cannot be written",)),
    Case("no data root", f"{DATASET}/sums.jsonl", 1, ("/proc/none",), {"EVALSERVICE_DATA_ROOT": "/proc/none"}),
    Case("schema is behind", "models list", 1, ("db upgrade",), {"DATABASE_URL": "{empty}"}),
    Case(
        "another database",
        "models list",
        2,
        ("DATABASE_URL: ", "postgresql://"),
        {"DATABASE_URL": "mysql://u:geheim@h/d"},
    ),
    Case(
        "database is away",
        "models list",
        1,
        ("127.0.0.1:{port}", "Connection refused"),
        {"DATABASE_URL": "postgresql://u:geheim@127.0.0.1:{port}/d"},
    ),
    Case(
        "another secret key",
        "run --model keyed --benchmark sums",
        1,
        ("cannot be decrypted", "EVALSERVICE_SECRET_KEY"),
        {"EVALSERVICE_SECRET_KEY": "another key than the first"},
    ),
    Case("no limit", "run --model good --benchmark sums --limit 0", 2, ("limit: 0", "greater than or equal to 1")),
    Case("unknown run", "runs show 00000000", 1, ("run: '00000000'", "runs list")),
    Case("unknown status", "runs list --status lost", 2, ("status: 'lost'", "pending")),
    Case("wrong and failed", "runs items 00000000 --wrong --failed", 2, ("--wrong",)),
]


@dataclass(frozen=True)
class Refused:
    """What the commands said, and what was stored before and after them."""

    ended: dict[str, Any]
    before: Any
    after: Any
    places: dict[str, str]


@pytest.fixture(scope="module")
def refused(
    shared_cli: Any,
    _provider: RunningProvider,
    postgres_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Refused]:
    """All the commands, run side by side on a database that has a model and a benchmark."""
    from tests.postgres import fresh_database

    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    with socket.socket() as closed, fresh_database(postgres_server) as empty:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        places = {
            "url": _provider.url,
            "folder": str(folder),
            "empty": empty,
            "port": str(port),
            "closed": f"http://127.0.0.1:{port}/v1",
        }
        model = ["models", "add", "--platform", "openai", "--base-url"]
        shared_cli.ok("datasets", "add", "sums", folder / "sums.jsonl")
        shared_cli.ok(*filled(BENCHMARK.replace("new", "sums"), places).split())
        shared_cli.ok(*model, places["closed"], "lonely", "--model-id", "lonely")
        shared_cli.ok(*model, _provider.url, "good", "--model-id", "good")
        shared_cli.ok(*model, _provider.url, "keyed", "--model-id", "k", "--api-key-env", "KEY", KEY="sk-geheim")
        before = stored(shared_cli)

        def run(case: Case) -> Any:
            environment = {name: filled(value, places) for name, value in case.environment.items()}
            command = filled(case.command, places).split()
            if case.name == "disk is full":
                return shared_cli.limited(*command, file_kilobytes=16)
            return shared_cli(*command, **environment)

        with ThreadPoolExecutor(3) as pool:
            ended = dict(zip([case.name for case in CASES], pool.map(run, CASES), strict=True))
        yield Refused(ended, before, stored(shared_cli), places)


def filled(text: str, places: dict[str, str]) -> str:
    """The text with its places filled in; other braces stay."""
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def write_files(folder: Path) -> None:
    """Good, broken and hostile files."""
    records = [json.dumps({"input": f"What is {n} + 1?", "expected_output": str(n + 1)}) for n in range(3)]
    (folder / "sums.jsonl").write_text("\n".join(records))
    (folder / "broken.jsonl").write_text("\n".join([records[0], '{"input": "What', records[2]]))
    (folder / "junk.csv").write_bytes(bytes(range(256)) * 8)
    (folder / "junk.parquet").write_bytes(b"PAR1" + bytes(range(256)))
    (folder / "deep.jsonl").write_text('{"input": ' + "[" * 100_000 + "]" * 100_000 + "}")
    (folder / "empty.jsonl").write_text("")
    large = [json.dumps({"input": f"{n * 7919 % 104729:x}" * 200, "expected_output": n}) for n in range(5000)]
    (folder / "large.jsonl").write_text("\n".join(large))
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (folder / "bomb.yaml").write_text("\n".join(lines))


def stored(cli: Any) -> tuple[dict[str, int], list[str]]:
    """How many rows each table has, and every file below the data root."""
    with psycopg.connect(cli.environment["DATABASE_URL"]) as connection:
        counts = {}
        for table in sorted(metadata.tables):
            row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert row is not None
            counts[table] = row[0]
    return counts, sorted(str(path) for path in (cli.home / "data").rglob("*"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_in_a_line_that_says_what_is_wrong(case: Case, refused: Refused) -> None:
    ended = refused.ended[case.name]
    assert (ended.code, ended.out) == (case.code, ""), ended.err
    assert "Traceback" not in ended.err
    first, *others = ended.err.splitlines()
    assert first.startswith("error: "), ended.err
    assert all(line.startswith("  ") for line in others), (
        ended.err
    )  # only the bad records of a file have lines of their own
    for words in case.says:
        assert filled(words, refused.places) in ended.err
    assert "geheim" not in ended.err


def test_nothing_is_half_written_by_what_was_refused(refused: Refused) -> None:
    assert refused.after == refused.before


def test_an_export_never_replaces_a_device_or_a_link(shared_cli: Any, tmp_path: Path) -> None:
    from evalservice.errors import InvalidInput
    from evalservice.interchange import write_whole

    with pytest.raises(InvalidInput, match="a regular file"):
        write_whole([], Path("/dev/null"))
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write_whole([], link)
    assert link.is_symlink()
    assert target.read_text() == ""


def test_secrets_in_the_wrong_place_are_refused_and_not_repeated(shared_cli: Any) -> None:
    add = ("models", "add", "leaky", "--platform", "openai", "--model-id", "leaky")
    for options in (
        ("--base-url", "http://localhost:1/v1?api_key=sk-SECRET"),
        ("--base-url", "http://user:sk-SECRET@localhost:1/v1"),
        ("--base-url", "http://localhost:1/v1", "--api-key-env", "sk-SECRET"),
    ):
        ended = shared_cli(*add, *options)
        assert ended.code == 2
        assert ended.err.startswith("error: ")
        assert "sk-SECRET" not in ended.err


def test_a_command_that_is_no_command_exits_with_2_and_says_so(shared_cli: Any) -> None:
    ended = shared_cli("modles", "list")
    assert (ended.code, ended.out) == (2, "")
    assert "modles" in ended.err
    assert "Traceback" not in ended.err

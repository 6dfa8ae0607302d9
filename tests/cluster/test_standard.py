"""`benchmarks catalog` and `install` as an operator meets them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from evalservice.catalog.standard.definition import standard_benchmarks
from tests.evalservice.catalog.standard_copies import COPIES, GSM8K, write
from tests.postgres import service_login


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """A copy of two records."""
    return write(tmp_path / "gsm8k", {"test.jsonl": GSM8K}) / "test.jsonl"


def rows(cli: Any, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(cli.environment["DATABASE_URL"]) as connection:
        return connection.execute(query.encode()).fetchall()


def kept(cli: Any) -> list[Path]:
    """The files of finished snapshots."""
    return [path for path in (cli.home / "data").rglob("index.json") if ".tmp-" not in str(path)]


def test_the_catalog_lists_every_benchmark_and_says_which_are_installed(cli: Any, gsm8k: Path) -> None:
    items = {item["name"]: item for item in cli.ok("benchmarks", "catalog")["items"]}
    assert {*items} == {*standard_benchmarks()}
    assert items["gsm8k"]["installed"] == []
    installed = cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)
    shown = cli.ok("benchmarks", "catalog", "gsm8k")
    assert shown["installed"] == [installed["version"]]
    assert (shown["few_shot"], shown["primary_metric"], shown["source"]["licence"]) == (0, "numeric_match", "MIT")
    assert shown["layouts"][0]["files"][0] == "test.jsonl"
    assert "lm-evaluation-harness" in shown["reported"]
    assert "gsm8k" in cli("benchmarks", "catalog").out
    unknown = cli("benchmarks", "catalog", "gsm9k")
    assert (unknown.code, "the catalog has arc-challenge" in unknown.err) == (1, True)


def test_an_installed_benchmark_is_public_and_says_where_it_came_from(cli: Any, gsm8k: Path) -> None:
    installed = cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k.parent)
    shown = cli.ok("benchmarks", "show", "gsm8k")
    assert (shown["is_standard"], shown["is_public"], shown["version"]) == (True, True, installed["version"])
    said = shown["metadata"]["standard"]
    assert (said["repository"], said["split"], said["files"], said["revision"]) == (
        "openai/gsm8k", "test", ["test.jsonl"], None,
    )  # fmt: skip
    dataset = cli.ok("datasets", "show", shown["dataset"])
    assert (dataset["content_hash"], dataset["total_test_cases"]) == (said["content_hash"], 2)
    assert str(gsm8k.parent) not in json.dumps([shown, dataset])


def test_installing_again_changes_nothing_and_other_data_is_another_version(cli: Any, gsm8k: Path) -> None:
    first = cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)
    before = rows(cli, "SELECT xmin, id, version FROM benchmark_suites")
    again = cli("benchmarks", "install", "gsm8k", "--from", gsm8k)
    assert (again.code, again.out.startswith("already installed: 'gsm8k'")) == (0, True)
    assert "warning: 2 test cases, where GSM8K has 1,319" in again.err
    assert rows(cli, "SELECT xmin, id, version FROM benchmark_suites") == before

    write(gsm8k.parent, {"test.jsonl": GSM8K[:1]})
    other = cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)
    assert (other["is_new"], other["version"] != first["version"]) == (True, True)
    assert cli.ok("benchmarks", "show", "gsm8k")["version"] == other["version"]
    old = cli.ok("benchmarks", "show", f"gsm8k@{first['version']}")
    assert (old["id"], cli.ok("datasets", "show", old["dataset"])["total_test_cases"]) == (first["id"], 2)


def test_two_who_install_at_once_install_it_once(cli: Any, gsm8k: Path) -> None:
    def installed(_: int) -> bool:
        return bool(cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)["is_new"])

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(installed, range(2))) == [False, True]
    assert rows(cli, "SELECT count(*) FROM benchmark_suites") == [(1,)]


def test_a_copy_in_the_wrong_layout_is_told_before_anything_is_written(cli: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "copy", {"test.jsonl": [{"prompt": "1 + 1?"}]}) / "test.jsonl"
    ended = cli("benchmarks", "install", "gsm8k", "--from", file)
    assert (ended.code, ended.out) == (2, "")
    assert "test.jsonl" in ended.err
    assert "question: missing; the record has prompt" in ended.err
    bad = write(tmp_path / "bad", {"test.jsonl": [*GSM8K, {"question": "1 + 1?", "answer": "2"}]})
    ended = cli("benchmarks", "install", "gsm8k", "--from", bad, "--json")
    assert (ended.code, ended.out) == (2, "")
    assert "line 3, answer: a text with #### is expected" in ended.err
    assert rows(cli, "SELECT count(*) FROM evaluation_datasets") == [(0,)]
    assert kept(cli) == []


def test_without_a_copy_and_without_the_library_it_says_what_to_fetch(cli: Any) -> None:
    ended = cli("benchmarks", "install", "gsm8k")
    assert ended.code in (1, 2)
    assert "https://huggingface.co/datasets/openai/gsm8k/tree/" in ended.err
    assert "--from FILE_OR_FOLDER" in ended.err


def test_only_the_operator_installs(cli: Any, gsm8k: Path) -> None:
    url = {"EVALSERVICE_URL": "http://127.0.0.1:1", "EVALSERVICE_API_KEY": "evs_x"}
    remote = cli("benchmarks", "install", "gsm8k", "--from", gsm8k, **url)
    assert (remote.code, "standard benchmarks are the operator's" in remote.err) == (1, True)
    login = {"DATABASE_URL": service_login(cli.environment["DATABASE_URL"])}
    service = cli("benchmarks", "install", "gsm8k", "--from", gsm8k, **login)
    assert (service.code, "the database owner's login" in service.err) == (1, True)
    assert rows(cli, "SELECT count(*) FROM benchmark_suites") == [(0,)]


def test_what_is_public_is_changed_over_no_api(cli: Any, gsm8k: Path) -> None:
    cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)
    dataset = cli.ok("benchmarks", "show", "gsm8k")["dataset"]
    for noun, name in (("benchmarks", "gsm8k"), ("datasets", dataset)):
        ended = cli(noun, "archive", name)
        assert (ended.code, "is public: only the operator changes it" in ended.err) == (1, True)


def test_an_own_benchmark_of_the_same_name_stays_what_the_name_means(cli: Any, gsm8k: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"input": "1 + 1?", "expected_output": 2}\n')
    cli.ok("datasets", "add", "own", tmp_path / "own.jsonl")
    cli.ok("benchmarks", "add", "--name", "gsm8k", "--dataset", "own", "--category", "qa", "--scorer", "numeric_match")
    installed = cli.ok("benchmarks", "install", "gsm8k", "--from", gsm8k)
    assert cli.ok("benchmarks", "show", "gsm8k")["dataset"] == "own"
    assert cli.ok("benchmarks", "show", f"gsm8k@{installed['version']}")["is_public"]


def test_an_install_that_is_killed_leaves_nothing_and_the_next_one_works(
    cli: Any, tmp_path: Path, kill: Any, eventually: Any
) -> None:
    records = [{"question": f"What is {n} + {n}? {'x' * 200}", "answer": f"#### {2 * n}"} for n in range(15_000)]
    folder = write(tmp_path / "copy", {"test.jsonl": records})
    process = cli.start("benchmarks", "install", "gsm8k", "--from", folder, "--json")
    eventually(lambda: [*(cli.home / "data").rglob(".tmp-*/*.parquet")] or process.poll() is not None, what="a shard")
    assert process.poll() is None, "it was too fast to be killed"
    kill(process)
    assert rows(cli, "SELECT count(*) FROM benchmark_suites") == [(0,)]
    assert rows(cli, "SELECT count(*) FROM evaluation_datasets") == [(0,)]
    assert kept(cli) == []
    assert cli.ok("benchmarks", "install", "gsm8k", "--from", folder)["test_cases"] == 15_000


def test_a_full_disk_is_told_and_leaves_nothing(cli: Any, tmp_path: Path) -> None:
    records = [{"question": f"What is {n}? {os.urandom(400).hex()}", "answer": f"#### {n}"} for n in range(2_000)]
    folder = write(tmp_path / "copy", {"test.jsonl": records})
    ended = cli.limited("benchmarks", "install", "gsm8k", "--from", folder, file_kilobytes=400)
    assert ended.code == 1, ended.err
    assert "data root" in ended.err
    assert rows(cli, "SELECT count(*) FROM evaluation_datasets") == [(0,)]
    assert kept(cli) == []


@pytest.mark.parametrize("name", ["mmlu", "squad"])
def test_nested_and_grouped_benchmarks_are_installed_too(name: str, cli: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / name, COPIES[name][0])
    installed = cli.ok("benchmarks", "install", name, "--from", folder)
    shown = cli.ok("benchmarks", "show", name)
    assert (shown["is_public"], installed["few_shot"]) == (True, 5 if name == "mmlu" else 0)

"""What commands do as a user meets them: Ctrl-C, the background, the demo, and every field that goes in comes out."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.provider import RunningProvider
from tests.receiver import running_receiver


def registered(cli: Any, provider: RunningProvider, folder: Path, count: int = 400) -> None:
    lines = [json.dumps({"input": f"What is {n} + 1?", "expected_output": n + 1}) for n in range(count)]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    cli.ok("datasets", "add", "sums", folder / "sums.jsonl")
    cli.ok("benchmarks", "add", "--name", "sums", "--dataset", "sums", "--category", "qa", "--scorer", "numeric_match")
    cli.ok("models", "add", "m", "--platform", "openai", "--model-id", "m", "--base-url", provider.url)


def test_ctrl_c_stops_sending_keeps_what_was_answered_and_a_resume_completes_it(
    cli: Any, provider: RunningProvider, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    registered(cli, provider, tmp_path)
    provider.control(latency=0.2)
    process = cli.start("run", "--model", "m", "--benchmark", "sums", "--max-concurrency", "8", "--json")
    eventually(lambda: provider.stats()["requests"] > 20, what="requests")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    run = json.loads(out)
    assert (process.returncode, run["status"]) == (1, "cancelled"), err
    assert run["completed_test_cases"] == provider.stats()["requests"] < 400
    provider.control(latency=0.0)
    resumed = cli.ok("runs", "resume", run["id"])
    assert (resumed["status"], resumed["completed_test_cases"]) == ("completed", 400)
    assert provider.stats()["requests"] == 400


def test_a_run_that_is_not_waited_for_goes_on_by_itself(
    ray_cli: Any, provider: RunningProvider, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    registered(ray_cli, provider, tmp_path, count=20)
    started = ray_cli.ok("run", "--model", "m", "--benchmark", "sums", "--no-wait")
    assert started["status"] == "pending"
    ended = eventually(
        lambda: (shown := ray_cli.ok("runs", "show", started["id"]))["status"] == "completed" and shown, what="the run"
    )
    assert ended["completed_test_cases"] == 20


def test_the_demo_asks_a_server_of_the_users_own(ray_cli: Any, provider: RunningProvider, database_url: str) -> None:
    shown = ray_cli.ok("demo", "--base-url", provider.url, "--model-id", "mine")
    assert [run["status"] for run in shown["runs"]] == ["completed"]
    assert shown["rows"] == 400
    assert [row["model"] for row in shown["leaderboard"]["items"]] == ["mine"]
    assert shown["leaderboard"]["items"][0]["value"] == 1.0
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT jsonb_array_length(test_cases), file_format FROM evaluation_datasets")
        assert stored.fetchall() == [(400, "")]


@pytest.fixture
def everything(cli: Any, provider: RunningProvider, tmp_path: Path) -> Any:
    """A model, a dataset and a benchmark with every field given."""
    (tmp_path / "d.csv").write_text("q,a\nWhat is 1 + 1?,2\n")
    (tmp_path / "in.json").write_text('{"type": "string"}')
    (tmp_path / "out.json").write_text('{"type": "string", "minLength": 1}')
    cli.ok(
        *("datasets", "add", "d", tmp_path / "d.csv", "--input-field", "q", "--expected-field", "a"),
        *("--input-schema", tmp_path / "in.json", "--output-schema", tmp_path / "out.json"),
        *("--description", "one sum", "--tag", "math"),
    )
    (tmp_path / "b.yaml").write_text(
        "name: b\ndataset: d\ncategory: qa\ndescription: sums\nversion: '2.0'\nscoring_methodology: by number\n"
        "tags: [math]\nmetadata: {owner: us}\nevaluation_criteria: {scorers: [numeric_match]}\n"
    )
    cli.ok("benchmarks", "add", tmp_path / "b.yaml")
    add = ("models", "add", "m", "--platform", "openai", "--base-url", provider.url, "--tag", "small")
    described = ("--display-name", "M", "--description", "a model", "--capability", "math")
    cli.ok(*add, *described, "--model-id", "m-1", "--version", "1", "--api-key-env", "KEY", KEY="sk-secret")
    cli.ok(*add, *described, "--model-id", "m-2", "--version", "2", "--parent", "m@1", "--config", '{"seed": 3}')
    return cli


def test_every_field_that_is_given_is_shown_again_and_no_key(everything: Any, tmp_path: Path) -> None:
    dataset = everything.ok("datasets", "show", "d")
    assert (dataset["description"], dataset["tags"], dataset["file_format"]) == ("one sum", ["math"], "csv")
    assert dataset["file_path"] == str(tmp_path / "d.csv")
    assert dataset["input_schema"] == {"type": "string"}
    assert dataset["output_schema"] == {"type": "string", "minLength": 1}
    benchmark = everything.ok("benchmarks", "show", "b")
    assert (benchmark["version"], benchmark["description"], benchmark["tags"]) == ("2.0", "sums", ["math"])
    assert benchmark["scoring_methodology"] == "by number"
    assert benchmark["metadata"] == {"owner": "us"}
    old, new = everything.ok("models", "show", "m@1"), everything.ok("models", "show", "m")
    assert (old["is_latest"], new["is_latest"], new["version"], new["parent"]) == (False, True, "2", old["id"])
    assert (new["display_name"], new["description"], new["tags"]) == ("M", "a model", ["small"])
    assert new["capabilities"] == ["math"]
    assert "temperature" in new["supported_configs"]
    assert (old["has_credential"], new["has_credential"]) == (True, False)
    assert "sk-secret" not in json.dumps([old, new])


def test_a_key_is_stored_for_one_origin_and_encrypted(
    everything: Any, provider: RunningProvider, database_url: str
) -> None:
    origin = provider.url.removesuffix("/v1")
    with psycopg.connect(database_url) as connection:
        [row] = connection.execute("SELECT name, origin, encrypted_secret FROM provider_credentials").fetchall()
    assert row[:2] == (f"m@{origin}", origin)
    assert b"sk-secret" not in row[2]


def test_a_runs_own_settings_and_its_provenance_are_shown(everything: Any, local_ray: str) -> None:
    command = ("run", "--model", "m", "--benchmark", "b", "--name", "first", "--config", '{"temperature": 0.5}')
    run = everything.ok(*command, "--limit", "1", "--priority", "3", RAY_ADDRESS=local_ray)
    shown = everything.ok("runs", "show", run["id"])
    assert (shown["name"], shown["priority"], shown["attempt"]) == ("first", 3, 1)
    assert shown["config"] == {"temperature": 0.5}
    assert shown["evaluation_config"] == {"limit": 1}
    assert shown["provenance"]["config"] == {"seed": 3, "temperature": 0.5}
    assert len(shown["configuration_hash"]) == 64
    assert shown["output_tokens"] > 0
    assert 0 < shown["duration_seconds"] < 120
    again = everything.ok(*command, "--limit", "1", RAY_ADDRESS=local_ray)
    assert everything.ok("runs", "show", again["id"])["configuration_hash"] == shown["configuration_hash"]


def test_a_run_that_is_worse_than_the_last_one_says_so_and_tells_the_webhooks(
    ray_cli: Any, provider: RunningProvider, tmp_path: Path
) -> None:
    registered(ray_cli, provider, tmp_path, count=60)
    with running_receiver() as receiver:
        assert ray_cli.ok("webhooks", "add", receiver.url)["secret"].startswith("whsec_")
        first = ray_cli.ok("run", "--model", "m", "--benchmark", "sums")
        provider.control(wrong=0.5)
        ended = ray_cli("run", "--model", "m", "--benchmark", "sums", "--json")
    worse, [(_, _, body)] = ended.json(), receiver.got
    assert "regression_alert" not in first
    assert (ended.code, worse["regression_alert"]["baseline_run_id"]) == (0, first["id"])
    assert "regressed: numeric_match" in ended.err
    assert json.loads(body)["data"] == worse["regression_alert"]

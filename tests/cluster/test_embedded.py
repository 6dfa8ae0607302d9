"""The embedded Postgres as commands share it, and what every command leaves on stdout and on disk."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.provider import RunningProvider

HOLD = """
import pathlib, sys
from cluster.embedded import EmbeddedPostgres
EmbeddedPostgres(pathlib.Path(sys.argv[1])).acquire()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def session(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the embedded Postgres until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def postmaster(home: Path) -> int | None:
    """The process id of the home's server, None when none runs."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    return pid if psutil.pid_exists(pid) else None


def test_first_commands_at_once_share_one_server_and_the_last_to_leave_stops_it(embedded_cli: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        commands = [pool.submit(embedded_cli, "models", "list", "--json") for _ in range(3)]
        ended = [command.result() for command in commands]
    assert [(each.code, each.json()) for each in ended] == [(0, {"items": []})] * 3
    assert postmaster(embedded_cli.home) is None


def test_the_server_survives_the_kill_of_its_starter_and_serves_the_next_command(embedded_cli: Any) -> None:
    with session(embedded_cli.home) as starter:
        server = postmaster(embedded_cli.home)
        os.kill(starter.pid, signal.SIGKILL)
        starter.wait()
        assert server is not None
        assert postmaster(embedded_cli.home) == server
        assert embedded_cli.ok("models", "list") == {"items": []}
    assert postmaster(embedded_cli.home) is None


def test_db_stop_refuses_while_a_command_uses_the_server_and_stops_it_afterwards(embedded_cli: Any) -> None:
    with session(embedded_cli.home) as user:
        server = postmaster(embedded_cli.home)
        refused = embedded_cli("db", "stop")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("error: the embedded Postgres is in use")
        assert postmaster(embedded_cli.home) == server
        assert embedded_cli.ok("db", "status")["running"] is True
        user.kill()
        user.wait()
        assert embedded_cli.ok("db", "stop") == {"stopped": True}
    assert postmaster(embedded_cli.home) is None
    assert embedded_cli.ok("db", "stop") == {"stopped": False}


def test_the_key_file_is_for_its_owner_alone_and_stays_the_same(embedded_cli: Any) -> None:
    embedded_cli.ok("db", "upgrade")
    key = embedded_cli.home / "secret.key"
    made = key.read_text()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(made.strip()) >= 32
    embedded_cli.ok("models", "list")
    assert key.read_text() == made


@pytest.fixture(scope="module")
def small(shared_cli: Any, _provider: RunningProvider, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A command line with a model and a benchmark of three sums."""
    _provider.reset()
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text(
        "".join(json.dumps({"input": f"What is {n} + 1?", "expected_output": n + 1}) + "\n" for n in range(3))
    )
    shared_cli.ok("datasets", "add", "sums", file)
    shared_cli.ok(
        "benchmarks", "add", "--name", "sums", "--dataset", "sums", "--category", "qa", "--scorer", "numeric_match"
    )
    shared_cli.ok("models", "add", "m", "--platform", "openai", "--model-id", "m", "--base-url", _provider.url)
    return shared_cli


def test_json_is_one_document_on_stdout_for_a_run_and_for_what_looks_at_it(small: Any, tmp_path: Path) -> None:
    run = small.ok("run", "--model", "m", "--benchmark", "sums")
    assert list(run) == [
        "id",
        "status",
        "total_test_cases",
        "completed_test_cases",
        "failed_test_cases",
        "duration_seconds",
        "input_tokens",
        "output_tokens",
        "total_cost",
        "aggregated_results",
    ]
    assert run["aggregated_results"]["numeric_match"]["value"] == 1.0
    export = tmp_path / "rows.parquet"
    commands: list[list[Any]] = [
        ["models", "list"],
        ["models", "show", "m"],
        ["datasets", "list"],
        ["datasets", "show", "sums"],
        ["benchmarks", "show", "sums"],
        ["runs", "list"],
        ["runs", "show", run["id"]],
        ["runs", "items", run["id"], "--wrong"],
        ["runs", "rescore", run["id"]],
        ["runs", "export", run["id"], "--format", "parquet", "--output", export],
        ["leaderboard", "sums"],
        ["db", "status"],
    ]
    ask: Callable[[list[Any]], Any] = lambda command: small.ok(*command)  # noqa: E731
    with ThreadPoolExecutor(3) as pool:
        documents = dict(zip([" ".join(map(str, c[:2])) for c in commands], pool.map(ask, commands), strict=True))
    assert documents["runs rescore"]["aggregated_results"] == run["aggregated_results"]
    assert documents["runs export"]["rows"] == 3
    assert documents["leaderboard sums"]["items"][0]["value"] == 1.0
    assert documents["runs items"]["items"] == []

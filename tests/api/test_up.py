"""`evalservice up` as a user starts it: the API on Ray Serve, runs as Ray jobs, a clean end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Cli, kill_family, new_home, wait_until
from tests.prometheus import discovered, scraped, total
from tests.provider import RunningProvider
from tests.ray_head import free_port
from tests.receiver import running_receiver


@dataclass(frozen=True)
class Up:
    """A service that runs, and what it said when it was ready."""

    process: subprocess.Popen[str]
    home: Path
    said: dict[str, Any]

    def client(self) -> httpx.Client:
        """A client of the first organization's owner."""
        headers = {"Authorization": f"Bearer {self.said['api_key']}"}
        return httpx.Client(base_url=self.said["url"], headers=headers, timeout=60)


def _no_ray() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 52365)) != 0


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    try:
        wait_until(_no_ray, 120)
    except AssertionError:
        pytest.skip("another Ray runs on this machine")
    with new_home() as home:
        process = Cli(home).start("up", "--port", free_port(), "--json")
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield Up(process, home, json.loads(line))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=90)
                except subprocess.TimeoutExpired:
                    kill_family(process)


def test_runs_that_are_asked_for_over_http_are_driven_as_ray_jobs(up: Up, provider: RunningProvider) -> None:
    with up.client() as client:
        assert client.get("/readyz").json()["parts"] == {"postgres": "ok", "migrations": "ok", "ray": "ok"}
        cases = [{"input": f"What is {i} plus {i}?", "expected_output": str(2 * i)} for i in range(50)]
        bodies: dict[str, dict[str, Any]] = {
            "datasets": {"name": "sums", "test_cases": cases},
            "models": {"name": "adder", "platform": "openai", "model_id": "adder", "base_url": provider.url},
            "benchmarks": {
                "name": "sums",
                "dataset": "sums",
                "category": "qa",
                "evaluation_criteria": {"scorers": ["numeric_match"]},
            },
        }
        for path, body in bodies.items():
            assert client.post(f"/v1/{path}", json=body).status_code == 201
        made = [client.post("/v1/evaluation-runs", json={"model": "adder", "benchmark": "sums"}) for _ in range(2)]
        paths = [f"/v1/evaluation-runs/{answer.json()['id']}" for answer in made]

        def ended() -> Any:
            found = [client.get(path).json() for path in paths]
            return found if all(run["status"] not in ("pending", "running") for run in found) else None

        runs = wait_until(ended, 240, what="the end of the runs")
        assert [run["status"] for run in runs] == ["completed"] * 2, [run["error_message"] for run in runs]
        assert runs[0]["aggregated_results"]["numeric_match"]["n"] == 50
        rows = client.get(f"{paths[0]}/results", params={"limit": 100}).json()["items"]
        assert [row["test_case_index"] for row in rows] == list(range(50))
        export = client.get(f"{paths[0]}/export", params={"format": "jsonl"})
        assert len(export.text.splitlines()) == 50
        assert client.get("/v1/leaderboards/sums").json()["items"][0]["model"] == "adder"

        def rolled_up() -> Any:
            return client.get("/v1/metric-aggregations", params={"period": "day"}).json()["items"]

        assert wait_until(rolled_up, 60, what="the rollup of the day")[0]["sample_count"] > 0


def test_what_the_proxy_answers_by_itself_is_a_problem(up: Up) -> None:
    newest = max(Path("/tmp/haproxy-serve").glob("*/500.http"), key=lambda file: file.stat().st_mtime)
    assert newest.stat().st_mtime > psutil.Process(up.process.pid).create_time()
    head, _, body = newest.read_text().partition("\n\n")
    assert head.startswith("HTTP/1.1 503")
    assert "application/problem+json" in head
    assert json.loads(body)["status"] == 503


def test_prometheus_hears_of_what_the_drivers_of_the_service_have_stored(up: Up) -> None:
    def told() -> bool:
        time.sleep(1)
        samples = scraped(*discovered(Path("/tmp/ray")))
        stored = total(samples, "ray_evalservice_test_cases_total", platform="openai", outcome="completed")
        return stored == 100 and total(samples, "ray_evalservice_runs_total", status="completed") == 2

    wait_until(told, 60, what="the metrics of the two runs above")


def test_the_command_line_follows_a_run_that_the_service_drives(up: Up, evalservice_home: Path) -> None:
    cli = Cli(evalservice_home, {"EVALSERVICE_URL": up.said["url"], "EVALSERVICE_API_KEY": up.said["api_key"]})
    run = cli.ok("run", "--model", "adder", "--benchmark", "sums", "--limit", 5)
    assert (run["status"], run["completed_test_cases"]) == ("completed", 5)
    assert len(cli.ok("runs", "items", run["id"], "--limit", 3)["items"]) == 3
    rescored = cli.ok("runs", "rescore", run["id"])
    assert rescored["aggregated_results"] == run["aggregated_results"]


def test_the_supervisor_finds_a_run_that_has_become_worse_and_tells_the_webhooks(
    up: Up, provider: RunningProvider
) -> None:
    cases = [{"input": f"What is {i} + 2?", "expected_output": str(i + 2)} for i in range(60)]
    model = {"name": "sliding", "platform": "openai", "model_id": "sliding", "base_url": provider.url}
    suite = {"name": "twos", "dataset": "twos", "category": "qa", "evaluation_criteria": {"scorers": ["numeric_match"]}}
    with up.client() as client, running_receiver() as receiver:
        assert client.post("/v1/datasets", json={"name": "twos", "test_cases": cases}).status_code == 201
        assert client.post("/v1/models", json=model).status_code == 201
        assert client.post("/v1/benchmarks", json=suite).status_code == 201
        assert client.post("/v1/webhooks", json={"url": receiver.url}).status_code == 201
        runs = []
        for wrong in (0.0, 0.5):
            provider.control(wrong=wrong)
            asked = client.post("/v1/evaluation-runs", json={"model": "sliding", "benchmark": "twos"}).json()
            path = f"/v1/evaluation-runs/{asked['id']}"
            wait_until(lambda path=path: client.get(path).json()["status"] == "completed", 120, what="the run's end")
            runs.append(asked["id"])
        wait_until(lambda: receiver.got, 20, what="the webhook's message")
        [alert] = client.get("/v1/regression-alerts", params={"model": "sliding"}).json()["items"]
    assert [alert["baseline_run_id"], alert["evaluation_run_id"]] == runs
    assert [json.loads(body)["data"] for _, _, body in receiver.got] == [alert]


def test_ctrl_c_leaves_nothing_behind(up: Up) -> None:
    family = psutil.Process(up.process.pid).children(recursive=True)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=120) == 0
    deadline = time.monotonic() + 30
    while left := [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{up.said['url']}/healthz")

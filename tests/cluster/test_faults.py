"""Runs survive what machines do: real processes are killed, a real Postgres is stopped, and the rows are the same."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.driver import Stop
from cluster.embedded import EmbeddedPostgres
from cluster.launch import run_claimed
from evalservice.settings import Settings
from tests.conftest import opened_bench
from tests.provider import RunningProvider
from tests.proxy import proxy_to

COUNT = 120
SAME = ("test_case_index", "input_data", "expected_output", "actual_output", "metrics", "score_details", "success")
RECORDS = [{"input": f"What is {n} * {n + 3}?", "expected_output": str(n * (n + 3))} for n in range(COUNT)]


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of the rows must not depend on what happened on the way."""
    return [{name: row[name] for name in SAME} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(bench: Any, _provider: RunningProvider) -> list[dict[str, Any]]:
    """The rows of a run to which nothing happens."""
    _provider.reset()
    _provider.control(wrong=0.25)
    run = bench.run(bench.model(_provider.url), bench.benchmark(RECORDS), max_concurrency=32)
    rows = same(bench.rows(run.id))
    assert len(rows) == run.completed_test_cases == COUNT
    return rows


def test_a_run_that_is_killed_is_resumed_to_the_same_rows_and_asks_for_nothing_that_was_stored(
    bench: Any,
    provider: RunningProvider,
    undisturbed: list[dict[str, Any]],
    kill: Callable[[Any], None],
    eventually: Any,
) -> None:
    provider.control(wrong=0.25, latency=0.3, jitter=0.5, faults=0.15)
    model, benchmark, cli = bench.model(provider.url), bench.benchmark(RECORDS), bench.cli_with_a_ray_of_its_own()
    moment = random.Random(20_260).randint(10, COUNT - 40)

    def stored() -> list[str]:
        """The prompts whose answers are stored."""
        rows = bench.execute(
            "SELECT input_data FROM evaluation_results JOIN evaluation_runs run ON run.id = evaluation_run_id "
            "JOIN evaluation_models model ON model.id = run.model_id WHERE success AND model.name = %s",
            model,
        )
        return [row["input_data"]["messages"][0]["content"] for row in rows]

    process = cli.start("run", "--model", model, "--benchmark", benchmark, "--max-concurrency", 16, "--json")
    eventually(lambda: len(stored()) >= moment or process.poll() is not None)
    kill(process)
    kept, asked = stored(), provider.sent(model)
    assert moment <= len(kept) < COUNT
    [run] = bench.execute("SELECT * FROM evaluation_runs ORDER BY created_at DESC LIMIT 1")
    assert run["status"] == "running"

    # The next driver comes from another machine of the cluster, as it were.
    resumed = bench.cli().ok("runs", "resume", run["id"])
    assert (resumed["status"], resumed["completed_test_cases"]) == ("completed", COUNT)
    assert same(bench.rows(run["id"])) == undisturbed
    again = provider.sent(model)
    assert {prompt: again[prompt] for prompt in kept} == {prompt: asked[prompt] for prompt in kept}


def test_a_killed_generation_actor_is_replaced_and_the_run_completes(
    bench: Any, provider: RunningProvider, undisturbed: list[dict[str, Any]], eventually: Any
) -> None:
    provider.control(wrong=0.25, latency=0.3)
    lease = bench.claimed(bench.model(provider.url), bench.benchmark(RECORDS), max_concurrency=16)
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: len(bench.rows(lease.run_id)) > 10)
        [actor] = [p for p in psutil.Process().children(recursive=True) if "MapBatches(Generate)" in title(p)]
        actor.send_signal(signal.SIGKILL)
        run = driving.result(timeout=120)
    rows = bench.rows(run.id)
    assert (run.status, run.failed_test_cases) == ("completed", 0)
    assert same(rows) == undisturbed


def title(process: psutil.Process) -> str:
    """What a process calls itself; "" when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_killed_scoring_actor_is_replaced_and_nothing_is_asked_again(
    bench: Any, provider: RunningProvider, undisturbed: list[dict[str, Any]], eventually: Any
) -> None:
    provider.control(wrong=0.25, latency=0.3)
    model = bench.model(provider.url)
    lease = bench.claimed(model, bench.benchmark(RECORDS), max_concurrency=16)
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: len(bench.rows(lease.run_id)) > 10)
        [actor] = [p for p in psutil.Process().children(recursive=True) if "MapBatches(Score)" in title(p)]
        actor.send_signal(signal.SIGKILL)
        run = driving.result(timeout=120)
    assert (run.status, run.failed_test_cases) == ("completed", 0)
    assert same(bench.rows(run.id)) == undisturbed
    assert set(provider.sent(model).values()) == {1}


def test_a_provider_that_nobody_can_reach_for_a_while_costs_no_test_case(
    bench: Any, provider: RunningProvider, undisturbed: list[dict[str, Any]], eventually: Any
) -> None:
    provider.control(wrong=0.25, latency=0.2)
    with proxy_to(provider.url.removesuffix("/v1")) as proxy:
        lease = bench.claimed(bench.model(f"{proxy.url}/v1"), bench.benchmark(RECORDS), max_concurrency=16)
        with ThreadPoolExecutor(1) as pool:
            driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
            eventually(lambda: len(bench.rows(lease.run_id)) > 10)
            proxy.close()
            time.sleep(2)
            proxy.open()
            run = driving.result(timeout=120)
    assert (run.status, run.failed_test_cases) == ("completed", 0)
    assert same(bench.rows(run.id)) == undisturbed


DEADLY = """
import os
from evalservice.scoring.numeric import NumericMatch


class Deadly(NumericMatch):
    name = "deadly"

    def score_items(self, items):
        if any("5 * 8" in item.text for item in items):
            os._exit(1)
        return super().score_items(items)
"""


def test_a_test_case_that_kills_whoever_handles_it_is_one_failed_row_and_the_others_are_fine(
    bench: Any, provider: RunningProvider, tmp_path: Path
) -> None:
    information = tmp_path / "deadly-1.0.dist-info"
    information.mkdir()
    (tmp_path / "deadly.py").write_text(DEADLY)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[evalservice.scorers]\ndeadly = deadly:Deadly\n")
    cli = bench.cli_with_a_ray_of_its_own(PYTHONPATH=str(tmp_path))
    model, dataset = bench.model(provider.url), bench.benchmark(RECORDS)
    cli.ok("benchmarks", "add", "--name", "deadly", "--dataset", dataset, "--category", "qa", "--scorer", "deadly")

    run = cli.ok("run", "--model", model, "--benchmark", "deadly", "--max-concurrency", 8, "--limit", 16)
    failed = [(row["test_case_index"], row["error_kind"]) for row in bench.rows(run["id"]) if not row["success"]]
    assert (run["status"], run["completed_test_cases"], run["failed_test_cases"]) == ("completed", 15, 1)
    assert failed == [(5, "worker_died")]
    assert run["aggregated_results"]["numeric_match"]["n"] == 15


def test_postgres_may_stop_and_start_during_a_run(
    bench: Any,
    evalservice_home: Path,
    provider: RunningProvider,
    undisturbed: list[dict[str, Any]],
    eventually: Any,
) -> None:
    from cluster.runtime import open_platform

    provider.control(wrong=0.25, latency=0.3)
    server = EmbeddedPostgres(evalservice_home)
    url = server.acquire()
    with (
        open_platform(Settings(home=evalservice_home, database_url=None, ray_address=None)) as platform,
        opened_bench(platform, url, bench.ray) as own,
    ):
        lease = own.claimed(own.model(provider.url), own.benchmark(RECORDS), max_concurrency=16)
        with ThreadPoolExecutor(1) as pool:
            driving = pool.submit(run_claimed, platform, lease, Stop(), lambda _: None)
            eventually(lambda: len(own.rows(lease.run_id)) > 10)
            stop_immediately(evalservice_home / "postgres", eventually)
            while_away = provider.stats()["requests"]
            eventually(lambda: provider.stats()["in_flight"] == 0)  # paused: what cannot be kept is not asked for
            assert provider.stats()["requests"] <= while_away + 2 * 16
            server.acquire()
            run = driving.result(timeout=120)
        rows = own.rows(run.id)
    server.release()
    assert (run.status, run.failed_test_cases) == ("completed", 0)
    assert same(rows) == undisturbed
    assert sum(provider.sent("model-1").values()) <= COUNT + 2 * 16


def test_while_a_stalled_postgres_stores_nothing_no_more_is_asked_than_may_be_lost(
    evalservice_home: Path, provider: RunningProvider, eventually: Any, local_ray: str
) -> None:
    from cluster.runtime import open_platform

    width, many = 8, 600
    records = [{"input": f"What is {n} + {n}?", "expected_output": str(2 * n)} for n in range(many)]
    provider.control(latency=0.05)
    server = EmbeddedPostgres(evalservice_home)
    url = server.acquire()
    with (
        open_platform(Settings(home=evalservice_home, database_url=None, ray_address=None)) as platform,
        opened_bench(platform, url, local_ray) as own,
    ):
        model = own.model(provider.url)
        lease = own.claimed(model, own.benchmark(records), max_concurrency=width)
        with ThreadPoolExecutor(1) as pool:
            driving = pool.submit(run_claimed, platform, lease, Stop(), lambda _: None)
            eventually(lambda: len(own.rows(lease.run_id)) > 10)
            stored = len(own.rows(lease.run_id))
            main = psutil.Process(int((evalservice_home / "postgres" / "postmaster.pid").read_text().splitlines()[0]))
            stalled = [main, *main.children(recursive=True)]
            for process in stalled:
                process.suspend()
            try:
                time.sleep(4)  # long enough for all of them
                sent = provider.stats()["requests"]
            finally:
                for process in stalled:
                    process.resume()
            run = driving.result(timeout=120)
        assert set(provider.sent(model).values()) == {1}
    server.release()
    assert run.completed_test_cases == many
    assert sent - stored <= width + 6 * width + 2 * width, "in flight, a block a task, and what was stored meanwhile"


def stop_immediately(data: Path, eventually: Any) -> None:
    """What `pg_ctl stop -m immediate` does: every backend ends at once, without a checkpoint."""
    pid = int((data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGQUIT)
    eventually(lambda: not psutil.pid_exists(pid))

"""Durable runs on a real Ray cluster with its dashboard: supervisors and drivers are killed, jobs are stopped."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from cluster.periodic import Periodic
from cluster.runtime import open_platform
from evalservice.runs.lifecycle import request_cancel
from evalservice.runs.queue import request_resume
from evalservice.settings import Settings
from tests.conftest import ROOT, Bench, clean_environment, kill_family, new_home, opened_bench, wait_until
from tests.postgres import fresh_database
from tests.provider import RunningProvider, running_provider
from tests.ray_head import RayHead, ray_head

COUNT = 60
RECORDS = [{"input": f"What is {n} + {7 * n}?", "expected_output": str(8 * n)} for n in range(COUNT)]
SUPERVISOR = """
import logging, signal, sys, threading
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from cluster.runtime import open_platform, read_settings, start_ray
from cluster.supervisor import Supervisor
from cluster.turns import TURN_SECONDS, take_turns
with open_platform(read_settings()) as platform:
    start_ray(platform.settings)
    supervisor = Supervisor(platform)
    supervisor.every(TURN_SECONDS, lambda: take_turns(platform))
    supervisor.start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    while not stopped.wait(0.5):
        supervisor.check()
    supervisor.stop_with_jobs()
"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of two CPUs whose nodes know the database, and supervisors in processes of their own."""

    bench: Bench
    head: RayHead

    def submit(self, provider: RunningProvider, count: int = 1, **options: Any) -> list[str]:
        """Pending runs of one model on one benchmark."""
        model, benchmark = self.bench.model(provider.url), self.bench.benchmark(RECORDS)
        return self.bench.pending(model, benchmark, count, **options)

    def run(self, run_id: str) -> dict[str, Any]:
        [row] = self.bench.execute("SELECT * FROM evaluation_runs WHERE id = %s", run_id)
        return row

    def ended(self, run_id: str, seconds: float = 90.0) -> dict[str, Any]:
        """The run, once it has ended."""
        wait_until(
            lambda: self.run(run_id)["status"] not in ("pending", "running"), seconds, what=f"the end of {run_id}"
        )
        return self.run(run_id)

    def storing(self, run_id: str) -> None:
        """Wait until the first rows of a run are stored."""
        slowly(lambda: self.run(run_id)["completed_test_cases"] > 0, what=f"the first row of {run_id}")

    def driver(self, run_id: str) -> psutil.Process:
        """The process that drives a run."""
        found = [p for p in psutil.process_iter(["cmdline"]) if _drives(p.info["cmdline"] or [], run_id)]
        assert len(found) == 1
        return found[0]

    @contextmanager
    def supervisor(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.head.logs / "supervisors.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR],
                cwd=ROOT,
                env=self.head.environment,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill_family(process)


def slowly(condition: Callable[[], Any], seconds: float = 60.0, *, what: str) -> Any:
    """`wait_until` that leaves the two CPUs to the runs."""

    def one_look() -> Any:
        time.sleep(0.25)
        return condition()

    return wait_until(one_look, seconds, what=what)


def _drives(command: list[str], run_id: str) -> bool:
    return command[1:4] == ["-m", "cluster.job", run_id]


@pytest.fixture(scope="module")
def cluster(postgres_server: str, template_database: str) -> Iterator[Cluster]:
    """As an operator starts it, with the database in the node's environment."""
    with new_home() as home, fresh_database(postgres_server, template=template_database) as url:
        environment = clean_environment(EVALSERVICE_HOME=str(home), DATABASE_URL=url)
        environment["EVALSERVICE_PRIVATE_ADDRESSES"] = "true"
        with (
            ray_head(home, environment) as head,
            open_platform(Settings(home=home, database_url=url, ray_address=head.address)) as platform,
            opened_bench(platform, url, head.address) as bench,
        ):
            yield Cluster(bench, head)


def test_a_run_is_a_job_with_its_names_and_its_log_and_survives_the_death_of_driver_and_supervisor(
    cluster: Cluster, provider: RunningProvider
) -> None:
    provider.control(latency=2.0, jitter=0.5)
    [run_id] = cluster.submit(provider, max_concurrency=4)
    with cluster.supervisor() as first:
        cluster.storing(run_id)
        job = cluster.head.api(f"/api/jobs/run-{run_id}-1")
        row = cluster.run(run_id)
        kill_family(first)
        cluster.driver(run_id).kill()
    kept = [RECORDS[r["test_case_index"]]["input"] for r in cluster.bench.rows(run_id)]
    provider.control(latency=0.01)
    with cluster.supervisor():
        ended = cluster.ended(run_id)
    assert job["status"] == "RUNNING"
    assert (job["metadata"]["run"], job["metadata"]["model"]) == (run_id, row["provenance"]["model"]["name"])
    assert "run_started" in cluster.head.api(f"/api/jobs/run-{run_id}-1/logs")["logs"]
    assert (ended["status"], ended["attempt"], ended["orphaned"]) == ("completed", 2, 1)
    assert [r["test_case_index"] for r in cluster.bench.rows(run_id)] == list(range(COUNT))
    assert 0 < len(kept) < COUNT
    sent = provider.sent(row["provenance"]["model"]["platform_model_id"])
    assert {sent[prompt] for prompt in kept} == {1}  # nothing that was stored is asked again


def test_a_driver_joins_its_supervisors_cluster_whichever_was_last_started_on_the_machine(
    cluster: Cluster, provider: RunningProvider
) -> None:
    provider.control(latency=0.01)
    last_started = cluster.head.logs / "ray_current_cluster"
    last_started.write_text("127.0.0.1:9")
    try:
        [run_id] = cluster.submit(provider)
        with cluster.supervisor():
            assert cluster.ended(run_id)["status"] == "completed"
    finally:
        last_started.write_text(cluster.head.address)


def test_a_driver_that_does_not_reach_ray_in_time_ends_so_that_the_run_is_started_again() -> None:
    waits = "import time; from cluster.job import under_way_within\nwith under_way_within(0.5): time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", waits], cwd=ROOT, timeout=30, check=False).returncode == 1


def test_a_job_that_is_stopped_in_the_dashboard_fails_its_run_and_the_run_can_be_resumed(
    cluster: Cluster, provider: RunningProvider
) -> None:
    provider.control(latency=2.0, jitter=0.5)
    [run_id] = cluster.submit(provider, max_concurrency=4)
    with cluster.supervisor():
        cluster.storing(run_id)
        cluster.head.api(f"/api/jobs/run-{run_id}-1/stop", "POST")
        stopped = cluster.ended(run_id, 20)
        provider.control(latency=0.01)
        with cluster.bench.platform.transaction() as session:
            request_resume(session, stopped["id"])
        ended = cluster.ended(run_id)
    assert (stopped["status"], stopped["error_message"]) == ("failed", "stopped in the Ray dashboard")
    assert stopped["completed_test_cases"] < COUNT
    assert (ended["status"], ended["attempt"], ended["error_message"]) == ("completed", 2, "")
    assert len(cluster.bench.rows(run_id)) == COUNT


def test_a_run_whose_drivers_keep_dying_fails_with_the_reason(cluster: Cluster, provider: RunningProvider) -> None:
    provider.control(latency=2.0, jitter=0.5)
    [run_id] = cluster.submit(provider, max_concurrency=4)
    with cluster.supervisor():
        cluster.storing(run_id)
        cluster.bench.execute("UPDATE evaluation_runs SET orphaned = 5 WHERE id = %s", run_id)  # dead five times before
        cluster.driver(run_id).kill()
        slowly(lambda: cluster.run(run_id)["claim_after"] is not None, what="that the death was noticed")
        cluster.bench.execute("UPDATE evaluation_runs SET claim_after = now() WHERE id = %s", run_id)  # no backoff here
        ended = cluster.ended(run_id)
    assert ended["status"] == "failed"
    assert ended["error_message"].startswith("its driver died 6 times, the last time after: ")
    assert '"attempt":"1"' in ended["error_message"]  # the end of the driver's log
    assert 0 < ended["completed_test_cases"] == len(cluster.bench.rows(run_id)) < COUNT


def test_a_run_that_needs_more_gpus_than_any_node_has_says_so_and_waits_until_it_is_cancelled(cluster: Cluster) -> None:
    engine = {"engine": {"tensor_parallel_size": 4}}
    large = cluster.bench.registered({"name": "large", "platform": "vllm", "model_id": "large", "config": engine})
    [run_id] = cluster.bench.pending(large, cluster.bench.benchmark(RECORDS))
    with cluster.supervisor():
        what = slowly(lambda: cluster.run(run_id)["metadata"].get("waiting_for"), what="that it is said")
        with cluster.bench.platform.transaction() as session:
            request_cancel(session, uuid.UUID(run_id))
        ended = cluster.ended(run_id)
    assert what == "4 GPUs on one node; the largest has 0"
    assert (ended["status"], ended["metadata"].get("waiting_for")) == ("cancelled", None)


def test_runs_that_are_given_back_with_their_jobs_go_on_under_the_next_supervisor(
    cluster: Cluster, provider: RunningProvider
) -> None:
    provider.control(latency=2.0, jitter=0.5)
    [run_id] = cluster.submit(provider, max_concurrency=4)
    with cluster.supervisor() as first:
        cluster.storing(run_id)
        first.terminate()
        first.wait(30)
    left = cluster.run(run_id)
    provider.control(latency=0.01)
    with cluster.supervisor():
        ended = cluster.ended(run_id)
    assert (left["status"], left["lease_owner"]) == ("running", None)
    assert (ended["status"], ended["orphaned"], ended["completed_test_cases"]) == ("completed", 0, COUNT)


def test_an_ab_test_whose_supervisor_is_killed_between_two_looks_is_decided_by_the_next(
    cluster: Cluster, provider: RunningProvider
) -> None:
    with running_provider("--wrong", "0.4", "--latency", "1.0") as worse:
        provider.control(latency=1.0)
        bench = cluster.bench
        models = [bench.model(each.url) for each in (provider, worse)]
        records = [{"input": f"What is {n} + {3 * n}?", "expected_output": str(4 * n)} for n in range(1000)]
        config = {"design": "sequential", "max_concurrency": 4}
        body = {"name": "t", "benchmark": bench.benchmark(records), "models": models, "test_config": config}
        test = bench.client.post("/v1/ab-tests", body)
        bench.client.post(f"/v1/ab-tests/{test['id']}/start")

        def looked() -> dict[str, Any]:
            found: dict[str, Any] = bench.client.get(f"/v1/ab-tests/{test['id']}")
            return found

        with cluster.supervisor() as first:
            slowly(lambda: looked()["results"]["test_cases"] > 0, 90, what="the first look")
            kill_family(first)
        before = looked()
        with cluster.supervisor():
            slowly(lambda: looked()["status"] != "running", 90, what="the end of the test")
    ended = looked()
    results = ended["results"]
    assert before["status"] == "running"
    assert (ended["status"], results["verdict"], results["leaders"]) == ("completed", "winner", ended["models"][:1])
    assert {run["status"] for run in ended["runs"]} == {"cancelled"}
    assert results["calls"]["made"] < 400 < results["calls"]["saved_by_stopping"]
    assert before["results"]["test_cases"] < results["test_cases"]


def test_eight_runs_at_once_on_two_cpus_finish_whatever_the_number_of_supervisors(
    cluster: Cluster, provider: RunningProvider
) -> None:
    run_ids = cluster.submit(provider, 8)
    with cluster.supervisor(), cluster.supervisor():
        ended = [cluster.ended(run_id, 240) for run_id in run_ids]
    assert [(run["status"], run["completed_test_cases"], run["attempt"]) for run in ended] == [
        ("completed", COUNT, 1)
    ] * 8


def test_a_chore_that_fails_is_logged_and_called_again(
    caplog: pytest.LogCaptureFixture, eventually: Callable[..., Any]
) -> None:
    calls: list[int] = []

    def chore() -> None:
        calls.append(len(calls))
        raise ValueError("not today")

    periodic = Periodic()
    periodic.add(0.01, chore)
    with caplog.at_level(logging.ERROR):
        periodic.start()
        eventually(lambda: len(calls) >= 3)
        periodic.stop()
    assert "chore_failed" in caplog.text

"""Twenty runs on a service whose parts are killed, one after the other, at random moments: nothing is lost.

make chaos            # ten minutes; EVALSERVICE_CHAOS=1, and EVALSERVICE_CHAOS_SEED to repeat the moments
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import yaml

from cluster.embedded import EmbeddedPostgres
from cluster.runtime import open_platform
from evalservice.organizations.members import first_key
from evalservice.settings import Settings
from tests.api.test_redeploy import Deployed
from tests.cluster.test_faults import stop_immediately
from tests.conftest import ROOT, clean_environment, new_home, wait_until
from tests.provider import RunningProvider
from tests.ray_head import free_port, ray_head, worker_node

pytestmark = pytest.mark.skipif(not os.environ.get("EVALSERVICE_CHAOS"), reason="takes ten minutes: make chaos")
RUNS, CASES, SLOTS = 20, 60, 4
PAUSE = (6.0, 14.0)
"""Seconds between two kills."""


def processes(words: str, database: str) -> list[psutil.Process]:
    """The processes with these words in their command line or title that have this service's database."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            named = words in " ".join(process.info["cmdline"] or [])
            if named and process.environ().get("DATABASE_URL") == database:
                found.append(process)
    return found


@dataclass
class Watcher:
    """A client that reads all the time. What it hears must be right, or an error that says so."""

    url: str
    key: str
    known: set[str]
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Watcher:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            try:
                headers = {"Authorization": f"Bearer {self.key}"}
                answer = httpx.get(f"{self.url}/v1/evaluation-runs?limit=100", headers=headers, timeout=30)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
                continue
            kind = answer.headers.get("Content-Type", "").partition(";")[0]
            self.answers[f"{answer.status_code} {kind}"] += 1
            if answer.status_code == 200:
                ids = {run["id"] for run in answer.json()["items"]}
                if not ids >= self.known:
                    self.wrong.append(f"{len(self.known - ids)} runs are missing")
            elif answer.status_code < 500:
                self.wrong.append(answer.text[:300])


@dataclass
class Service:
    """What is killed, and how it is asked."""

    deployed: Deployed
    postgres: EmbeddedPostgres
    database: str
    home: Path
    worker: Any

    def kill_driver(self) -> None:
        """One of the jobs that drive runs."""
        _kill(processes("-m cluster.job", self.database))

    def kill_supervisor(self) -> None:
        """The supervisor's replica."""
        _kill(processes("ServeReplica:evalservice:supervisor", self.database))

    def kill_replica(self) -> None:
        """One replica of the API."""
        _kill(processes("ServeReplica:evalservice:api", self.database))

    def kill_controller(self) -> None:
        """Serve's controller."""
        _kill(processes("ServeController", self.database))

    def kill_worker_node(self) -> None:
        """The second node with all that runs there; another one comes."""
        self.worker.__exit__(None, None, None)
        self.worker = worker_node(self.deployed.head)
        self.worker.__enter__()

    def restart_postgres(self) -> None:
        """Every connection ends at once."""
        stop_immediately(self.home / "postgres", wait_until)
        time.sleep(2)
        self.postgres.acquire()


def _kill(found: list[psutil.Process]) -> None:
    if found:
        random.choice(found).kill()


@pytest.fixture
def service() -> Iterator[Service]:
    config = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["applications"][0]["deployments"][0]["autoscaling_config"].update(min_replicas=2, max_replicas=2)
    with new_home() as home:
        postgres = EmbeddedPostgres(home)
        url = postgres.acquire()
        try:
            with open_platform(Settings(home=home)) as platform, platform.transaction() as session:
                key = first_key(session, platform.organization_id, platform.user_id, "test")
            environment = clean_environment(
                EVALSERVICE_HOME=str(home),
                DATABASE_URL=url,
                EVALSERVICE_MAX_CONCURRENT_RUNS=str(SLOTS),
                EVALSERVICE_PRIVATE_ADDRESSES="true",
                RAY_SERVE_ENABLE_HA_PROXY="1",
                RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
            )
            with ray_head(home, environment, '--resources={"service": 8}') as head:
                worker = worker_node(head)
                worker.__enter__()
                made = Service(Deployed(head, home, config, str(key)), postgres, url, home, worker)
                try:
                    made.deployed.deploy(config)
                    wait_until(made.deployed.ready, 180, what="the service")
                    yield made
                finally:
                    made.worker.__exit__(None, None, None)
        finally:
            postgres.release()


def test_every_run_completes_with_one_row_a_test_case_whatever_is_killed(
    service: Service, provider: RunningProvider
) -> None:
    seed = int(os.environ.get("EVALSERVICE_CHAOS_SEED") or time.time())
    rng = random.Random(seed)
    random.seed(seed)
    provider.control(latency=0.3)
    ids = _submitted(service, provider.url)
    kills: list[Callable[[], None]] = [
        service.kill_driver,
        service.kill_supervisor,
        service.kill_replica,
        service.kill_controller,
        service.kill_worker_node,
        service.restart_postgres,
    ]
    deadline = time.monotonic() + 1500
    done: list[str] = []
    with Watcher(service.deployed.url, service.deployed.key, ids) as watcher:
        while (left := _left(service.database)) and time.monotonic() < deadline:
            if left > 2 and len(done) < 3 * len(kills):
                kill = kills[len(done) % len(kills)]
                kill()
                done.append(kill.__name__)
                print(f"{time.monotonic():.0f} {kill.__name__}, {left} runs are left", flush=True)
            time.sleep(rng.uniform(*PAUSE))
    with psycopg.connect(service.database) as connection:
        ended = connection.execute("SELECT status, error_message, orphaned, attempt FROM evaluation_runs").fetchall()
        rows = connection.execute(
            "SELECT evaluation_run_id, count(*), count(DISTINCT test_case_index), bool_and(success) "
            "FROM evaluation_results GROUP BY 1"
        ).fetchall()
    print(f"seed {seed}; killed {Counter(done)}; heard {dict(watcher.answers)}; attempts {[r[3] for r in ended]}")
    assert {row[0] for row in ended} == {"completed"}, [row for row in ended if row[0] != "completed"]
    assert [row[1:] for row in rows] == [(CASES, CASES, True)] * RUNS
    assert watcher.wrong == []
    assert len(done) >= len(kills)


def _submitted(service: Service, provider: str) -> set[str]:
    headers = {"Authorization": f"Bearer {service.deployed.key}"}
    with httpx.Client(base_url=service.deployed.url, headers=headers, timeout=60) as client:
        cases = [{"input": f"What is {i} plus {i}?", "expected_output": str(2 * i)} for i in range(CASES)]
        benchmark = {"name": "b", "dataset": "d", "category": "qa", "evaluation_criteria": {"scorers": ["includes"]}}
        model = {"name": "m", "platform": "openai", "model_id": "m", "base_url": provider}
        for path, body in (
            ("datasets", {"name": "d", "test_cases": cases}),
            ("benchmarks", benchmark),
            ("models", model),
        ):
            answer = client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 201, answer.text
        asked = {"model": "m", "benchmark": "b", "max_concurrency": 4}
        return {client.post("/v1/evaluation-runs", json=asked).json()["id"] for _ in range(RUNS)}


def _left(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM evaluation_runs WHERE status IN ('pending', 'running')")
        return int(row.fetchone()[0])  # type: ignore[index]

"""Decisions while Postgres is away, while the process is killed, and while what they are made from changes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest

from cluster.embedded import EmbeddedPostgres
from cluster.runtime import open_platform
from evalservice.organizations.members import first_key
from evalservice.settings import Settings
from tests.api.conftest import created
from tests.cluster.test_faults import stop_immediately
from tests.conftest import clean_environment, new_home, wait_until
from tests.ray_head import free_port


@dataclass
class Here:
    """The API in a process that can be killed, its Postgres, and a key."""

    home: Path
    postgres: EmbeddedPostgres
    port: int
    key: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve, and answer."""
        environment = clean_environment(EVALSERVICE_HOME=str(self.home))
        command = [sys.executable, "-m", "tests.serving", str(self.port)]
        self.process = subprocess.Popen(command, env=environment)
        wait_until(self._answers, what="the API")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2, verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30, verify=False
        )

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(timeout=60)

    def logged(self) -> set[str]:
        """The ids of all stored decisions."""
        with psycopg.connect(self.postgres.acquire()) as connection:
            return {str(row[0]) for row in connection.execute("SELECT id FROM model_selection_logs")}


@pytest.fixture(scope="module")
def service() -> Iterator[Here]:
    """Three models of one price."""
    with new_home() as home:
        postgres = EmbeddedPostgres(home)
        postgres.acquire()
        with open_platform(Settings(home=home)) as platform, platform.transaction() as session:
            key = first_key(session, platform.organization_id, platform.user_id, "test")
        assert key is not None
        service = Here(home, postgres, free_port(), key)
        service.start()
        with service.client() as client:
            for name in ("one", "two", "three"):
                body = {"name": name, "platform": "openai", "model_id": name, "base_url": "https://llm.example.com/v1"}
                created(client, "/v1/models", {**body, "input_price": "1", "output_price": "1"})
        yield service
        if service.process is not None and service.process.poll() is None:
            service.kill(signal.SIGTERM)
        postgres.release()


@pytest.fixture
def here(service: Here) -> Here:
    """It runs, whatever a test has done to it."""
    service.postgres.acquire()
    if service.process is None or service.process.poll() is not None:
        service.start()
    return service


@dataclass
class Load:
    """Clients that ask for decisions without a pause; what they were answered, by when."""

    service: Here
    clients: int = 4
    durable_every: int = 5
    decisions: dict[str, tuple[float, bool]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    warned: int = 0

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        count = number
        while not self._stop.is_set():
            count += 1
            durable = self.durable_every and count % self.durable_every == 0
            try:
                with self.service.client() as client:
                    while not self._stop.is_set():
                        self._one(client, bool(durable))
                        count += 1
                        durable = self.durable_every and count % self.durable_every == 0
            except httpx.TransportError as error:
                self.problems[type(error).__name__] += 1
                self._stop.wait(0.3)

    def _one(self, client: httpx.Client, durable: bool) -> None:
        answer = client.post("/v1/selections", json={"use_case": "load", "durable": durable})
        if answer.status_code != 200:
            self.problems[f"{answer.status_code} {answer.json()['type'].rpartition('/')[2]}"] += 1
            return
        document = answer.json()
        assert document["selected"]["name"] in ("one", "two", "three")
        self.warned += bool(document["warnings"])
        self.decisions[document["id"]] = (time.monotonic(), durable)


def test_decisions_go_on_while_postgres_is_away_and_the_log_catches_up(here: Here) -> None:
    earlier = here.logged()
    with Load(here, durable_every=0) as load:
        wait_until(lambda: len(load.decisions) > 50, what="decisions")
        stop_immediately(here.home / "postgres", wait_until)
        before = len(load.decisions)
        time.sleep(8)
        assert len(load.decisions) > before + 50
        here.postgres.acquire()
        wait_until(lambda: len(load.decisions) > before + 200, what="decisions")
    assert not load.problems, load.problems
    wait_until(lambda: here.logged() >= set(load.decisions), what="the log to catch up")
    assert here.logged() - earlier == set(load.decisions)


def test_a_durable_decision_is_there_after_a_kill_and_of_the_others_at_most_a_moment_is_missing(here: Here) -> None:
    with Load(here) as load:
        wait_until(lambda: len(load.decisions) > 300, what="decisions")
        killed = time.monotonic()
        here.kill()
        time.sleep(0.5)  # until the last answer of the one that is dead is read
        dead = time.monotonic()
        here.start()
        wait_until(lambda: len(load.decisions) > 600, what="decisions after the kill")
    assert set(load.problems) <= {"ConnectError", "ReadError", "RemoteProtocolError"}, load.problems
    wait_until(lambda: here.logged() >= {key for key, (at, _) in load.decisions.items() if at > dead}, what="the log")
    lost = [load.decisions[key] for key in set(load.decisions) - here.logged()]
    assert not [at for at, durable in lost if durable]
    assert all(killed - 2.0 < at < dead for at, _ in lost)


def test_a_stop_stores_every_decision(here: Here) -> None:
    with here.client() as client:
        decided = {client.post("/v1/selections", json={}).json()["id"] for _ in range(100)}
    here.kill(signal.SIGTERM)
    here.start()
    assert here.logged() >= decided


def test_what_changes_is_decided_by_within_seconds_and_a_revoked_key_decides_nothing(here: Here) -> None:
    with here.client() as client:
        assert client.post("/v1/selections", json={}).status_code == 200
        for model in client.get("/v1/models").json()["items"]:
            if model["name"] != "three":
                assert client.patch(f"/v1/models/{model['id']}", json={"status": "archived"}).status_code == 200
        wait_until(
            lambda: len(client.post("/v1/selections", json={}).json()["candidates"]) == 1, 5, what="the new evidence"
        )
        own = created(client, "/v1/api-keys", {"name": "short-lived"})
        headers = {"Authorization": f"Bearer {own['key']}"}
        assert client.post("/v1/selections", json={}, headers=headers).status_code == 200
        assert client.delete(f"/v1/api-keys/{own['id']}").status_code < 300
        wait_until(
            lambda: client.post("/v1/selections", json={}, headers=headers).status_code == 401, 5, what="the refusal"
        )


def test_concurrent_outcomes_of_one_selection_make_one_row(here: Here) -> None:
    with here.client() as client:
        own = client.post("/v1/selections", json={"durable": True}).json()["id"]
        body = {"success": True, "latency_ms": 5.0}

        def report(_: int) -> int:
            return client.post(f"/v1/selections/{own}/outcome", json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(report, range(16))) == {200}

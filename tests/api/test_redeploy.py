"""deploy/serve.yaml on a cluster, and deployed again while clients ask: nobody notices, with a single replica."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.runtime import open_platform
from evalservice.organizations.members import first_key
from evalservice.settings import Settings
from tests.conftest import ROOT, clean_environment, new_home, wait_until
from tests.postgres import fresh_database
from tests.prometheus import discovered, scraped, total
from tests.ray_head import RayHead, free_port, ray_head


@dataclass(frozen=True)
class Deployed:
    """A cluster that serves deploy/serve.yaml, but for the port and the number of replicas."""

    head: RayHead
    folder: Path
    config: dict[str, Any]
    key: str

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.config['http_options']['port']}"

    def deploy(self, config: dict[str, Any]) -> None:
        """What an operator does."""
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [str(Path(sys.executable).parent / "serve"), "deploy", "--address", self.head.dashboard, str(path)]
        done = subprocess.run(command, env=self.head.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def replicas(self) -> dict[str, str]:
        """The API's replicas and their states."""
        time.sleep(0.5)
        application = self.head.api("/api/serve/applications/")["applications"]["evalservice"]
        found = application["deployments"].get("api", {}).get("replicas", [])
        return {replica["replica_id"]: replica["state"] for replica in found}

    def ready(self) -> bool:
        """What a load balancer asks."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, verify=False).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass
class Clients:
    """Threads that ask without a pause: over connections that are kept, and over a new one each time."""

    deployed: Deployed
    failures: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def __enter__(self) -> Clients:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (True, True, False)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kept: bool) -> None:
        headers = {"Authorization": f"Bearer {self.deployed.key}"} | ({} if kept else {"Connection": "close"})
        with httpx.Client(base_url=self.deployed.url, headers=headers, timeout=30) as client:
            while not self._stop.wait(0.02):
                started = time.monotonic()
                try:
                    answer = client.get("/v1/models")
                    self.answers[str(answer.status_code)] += 1
                    if answer.status_code != 200:
                        self.failures.append(answer.text[:300])
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                self.slowest = max(self.slowest, time.monotonic() - started)


@pytest.fixture(scope="module")
def deployed(postgres_server: str, template_database: str) -> Iterator[Deployed]:
    config = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["applications"][0]["deployments"][0]["autoscaling_config"].update(min_replicas=1, max_replicas=1)
    with new_home() as home, fresh_database(postgres_server, template=template_database) as url:
        with open_platform(Settings(home=home, database_url=url)) as platform, platform.transaction() as session:
            key = first_key(session, platform.organization_id, platform.user_id, "test")
        environment = clean_environment(
            EVALSERVICE_HOME=str(home),
            DATABASE_URL=url,
            RAY_SERVE_ENABLE_HA_PROXY="1",
            RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
            # 30 by default, for balancers before HAProxy. In that time a new replica starts whoever stops first.
            RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="1",
        )
        with ray_head(home, environment, '--resources={"service": 8}') as head:
            found = Deployed(head, home, config, str(key))
            found.deploy(config)
            wait_until(found.ready, 120, what=f"the first deployment of {config}")
            yield found


def test_a_redeploy_of_a_single_replica_fails_no_request_and_keeps_none_waiting(deployed: Deployed) -> None:
    before = deployed.replicas()
    changed = copy.deepcopy(deployed.config)
    [application] = changed["applications"]
    application["runtime_env"]["env_vars"]["EVALSERVICE_RELEASE"] = "2"
    with Clients(deployed) as clients:
        wait_until(lambda: sum(clients.answers.values()) > 20, what="answers before")
        deployed.deploy(changed)

        def replaced() -> bool:
            now = deployed.replicas()
            return list(now.values()) == ["RUNNING"] and not now.keys() & before.keys()

        wait_until(replaced, 180, what="a new replica in the old one's place")
        asked = sum(clients.answers.values())
        wait_until(lambda: sum(clients.answers.values()) > asked + 50, what="answers after")
    assert clients.failures == []
    assert set(clients.answers) == {"200"}
    assert clients.slowest < 5  # nobody waited until a replica had started: 0.6 s, against 12 s without a surge


def test_the_deployed_service_tells_prometheus_of_its_requests_and_of_its_queue(deployed: Deployed) -> None:
    headers = {"Authorization": f"Bearer {deployed.key}"}
    assert httpx.get(f"{deployed.url}/v1/models", headers=headers).status_code == 200

    def told() -> bool:
        time.sleep(1)
        samples = scraped(*discovered(deployed.head.logs))
        asked = {"method": "GET", "route": "/v1/models"}
        return bool(
            total(samples, "ray_evalservice_api_requests_total", **asked, status="200")
            and total(samples, "ray_evalservice_api_request_seconds_count", **asked)
            and {"ray_evalservice_queue_length", "ray_evalservice_queue_age_seconds"} <= samples.keys()
        )

    wait_until(told, 120, what="the service's metrics")


def test_replicas_log_requests_as_json(deployed: Deployed) -> None:
    headers = {"Authorization": f"Bearer {deployed.key}", "X-Request-Id": "looked-for"}
    assert httpx.get(f"{deployed.url}/v1/models", headers=headers).status_code == 200

    def found() -> list[dict[str, Any]]:
        time.sleep(0.5)
        logs = (deployed.head.logs / "session_latest" / "logs").glob("worker-*.err")
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        return [json.loads(line) for line in lines if '"looked-for"' in line]

    [line] = wait_until(found, 30, what="the line of the request")
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/models", 200)
    assert line["organization_id"]

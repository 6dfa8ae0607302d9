"""A Ray cluster of one node as an operator starts it: `ray start --head`, with a token and the dashboard."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import RAY_AUTH, kill_family, wait_until


@dataclass(frozen=True)
class RayHead:
    """Where it answers, the environment of a program that uses it, and a folder with its logs."""

    address: str
    dashboard: str
    environment: dict[str, str]
    logs: Path

    def api(self, path: str, method: str = "GET") -> Any:
        """What the dashboard asks of Ray."""
        headers = {"X-Ray-Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.dashboard + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def ray_head(home: Path, environment: dict[str, str], *options: str) -> Iterator[RayHead]:
    """Two CPUs, until the block ends. Its ports are its own: another Ray may run on this machine."""
    port, dashboard = free_port(), free_port()
    logs = Path(tempfile.mkdtemp(prefix="es-ray-"))
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"),
        *("--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={logs}"),
        *("--object-store-memory=200000000", "--disable-usage-stats", *options),
    ]
    own = {**environment, **RAY_AUTH, "RAY_worker_niceness": "5"}
    try:
        with (logs / "head.log").open("wb") as log:
            head = subprocess.Popen(command, cwd=home, env=own, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: _started(logs / "head.log") or head.poll() is not None, 180, what="the start of Ray")
            assert head.poll() is None, (logs / "head.log").read_text()
            address = f"127.0.0.1:{port}"
            yield RayHead(address, f"http://127.0.0.1:{dashboard}", {**own, "RAY_ADDRESS": address}, logs)
        finally:
            kill_family(head)
    finally:
        shutil.rmtree(logs, ignore_errors=True)


@contextmanager
def worker_node(head: RayHead) -> Iterator[subprocess.Popen[bytes]]:
    """A second node of the cluster, on this machine."""
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--block", f"--address={head.address}", "--num-cpus=2"),
        *(f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1"),
        *("--object-store-memory=200000000", "--disable-usage-stats"),
    ]
    log = (head.logs / "worker.log").open("ab")
    process = subprocess.Popen(command, env=head.environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        kill_family(process)


def _started(log: Path) -> bool:
    time.sleep(0.25)  # leaves the CPUs to Ray
    return b"ray stop" in log.read_bytes()

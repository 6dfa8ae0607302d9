"""The service: an authenticated read against a no-op of the same replica, and many runs at once against few.

    python -m tests.perf.service [reads] [runs] [--runs 64]

reads: a model by id, under row-level security, against `/healthz`; goals are a p50 of at most 4 times and a throughput
of at least 0.25 of the no-op's. runs: submitted at once they may take 1.3 times their total work on the same slots,
which is what as many take that fill the slots once, times how often they fill them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import SecretStr

from evalservice.client import Client
from tests.conftest import Cli
from tests.perf.bench import server, table
from tests.ray_head import free_port

ONE_BY_ONE, AT_ONCE, IN_FLIGHT = 500, 4000, 16
CASES = 50
SLOTS = 4


@dataclass(frozen=True)
class Up:
    """A running service."""

    url: str
    key: str

    def client(self) -> Client:
        """A client of the owner."""
        return Client(self.url, SecretStr(self.key))


@contextlib.contextmanager
def up(**environment: str) -> Iterator[Up]:
    """`evalservice up` on a fresh home and a free port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="evalservice-perf-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        process = Cli(home, environment).start("up", "--port", port, "--json")
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            yield Up(said["url"], said["api_key"])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
            stop = Cli(home).start("db", "stop")
            stop.communicate()


async def measured(url: str, headers: dict[str, str], count: int, in_flight: int) -> tuple[list[float], float]:
    """Each request's seconds, sorted, and requests per second."""
    seconds: list[float] = []
    numbers = iter(range(count))
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for _ in numbers:
                started = time.perf_counter()
                async with session.get(url) as answer:
                    await answer.read()
                    assert answer.status == 200, answer.status
                seconds.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return sorted(seconds), count / (time.perf_counter() - started)


def load(url: str, key: str, count: int, in_flight: int) -> tuple[float, float]:
    """(p50 in ms, requests per second), measured by a process of its own."""
    arguments = [sys.executable, "-m", "tests.perf.service", "load", url, key, str(count), str(in_flight)]
    p50, rate = json.loads(subprocess.run(arguments, stdout=subprocess.PIPE, check=True).stdout)
    return p50, rate


def reads() -> None:
    """The read of a model against a no-op, and what the read's time is made of."""
    with up() as service, service.client() as client:
        body = {"name": "m", "platform": "openai", "model_id": "m", "base_url": "http://127.0.0.1:9/v1"}
        model = client.post("/v1/models", body)
        key = client.post("/v1/api-keys", {"name": "reader", "scopes": ["read"]})["key"]
        paths = {"no-op (/healthz)": "/healthz", "read a model": f"/v1/models/{model['id']}"}
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
        for _ in range(4):
            for name, path in paths.items():
                p50, _ = load(service.url + path, key, ONE_BY_ONE, 1)
                _, rate = load(service.url + path, key, AT_ONCE, IN_FLIGHT)
                figures[name].append((p50, rate))
    rows = []
    base = figures["no-op (/healthz)"][1:]
    for name, found in figures.items():
        kept = found[1:]  # the first round warms up
        p50, rate = statistics.median(p for p, _ in kept), statistics.median(r for _, r in kept)
        slower = statistics.median(a[0] / b[0] for a, b in zip(kept, base, strict=True))
        share = statistics.median(a[1] / b[1] for a, b in zip(kept, base, strict=True))
        rows.append([name, f"{p50:.2f}", f"{slower:.2f}", f"{rate:.0f}", f"{share:.2f}"])
    table(
        f"API on Serve, {ONE_BY_ONE} requests one by one, then {AT_ONCE} with {IN_FLIGHT} in flight",
        ["what", "p50 ms", "ratio (goal 4)", "per second", "ratio (goal 0.25)"],
        rows,
    )


def runs(count: int) -> None:
    """`count` runs at once against SLOTS at once, on a service with SLOTS slots."""
    with (
        server(0.05) as port,
        up(EVALSERVICE_MAX_CONCURRENT_RUNS=str(SLOTS)) as service,
        service.client() as client,
    ):
        cases = [{"input": f"Case {i}: what is {i} plus {i}?", "expected_output": str(2 * i)} for i in range(CASES)]
        client.post("/v1/datasets", {"name": "d", "test_cases": cases})
        benchmark = {"name": "b", "dataset": "d", "category": "qa", "criteria": {"scorers": ["numeric_match"]}}
        client.post("/v1/benchmarks", benchmark)
        model = {"name": "m", "platform": "openai", "model_id": "m", "base_url": f"http://127.0.0.1:{port}/v1"}
        client.post("/v1/models", model)
        batch(client, SLOTS)  # warms up
        few, _ = batch(client, SLOTS)
        many, waited = batch(client, count)
        again, _ = batch(client, SLOTS)
    work = (few + again) / 2 * count / SLOTS
    table(
        f"{count} runs of {CASES} test cases submitted at once, {SLOTS} slots",
        ["what", "seconds", "ratio (goal 1.3)"],
        [
            [f"{SLOTS} runs fill the slots once", f"{few:.1f}, {again:.1f}", ""],
            [f"total work of {count} on {SLOTS} slots", f"{work:.0f}", "1"],
            [f"{count} at once", f"{many:.0f}", f"{many / work:.2f}"],
            ["the last to start waited", f"{waited:.0f}", ""],
        ],
    )


def batch(client: Client, count: int) -> tuple[float, float]:
    """Submit so many runs; (seconds until all are completed, seconds until the last one started)."""
    started = time.perf_counter()
    ids = {client.post("/v1/evaluation-runs", {"model": "m", "benchmark": "b"})["id"] for _ in range(count)}
    while True:
        found: list[dict[str, Any]] = [run for run in client.items("/v1/evaluation-runs", count) if run["id"] in ids]
        ended = [run for run in found if run["status"] not in ("pending", "running")]
        if len(ended) == count:
            break
        time.sleep(0.5)
    seconds = time.perf_counter() - started
    assert {run["status"] for run in found} == {"completed"}, [run["error_message"] for run in found]
    moments = sorted(run["started_at"] for run in found)
    first = min(run["created_at"] for run in found)
    return seconds, _seconds_between(first, moments[-1])


def _seconds_between(first: str, last: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["reads", "runs"], default=["reads", "runs"])
    parser.add_argument("--runs", type=int, default=64)
    given = parser.parse_args(arguments)
    if "reads" in given.what:
        reads()
    if "runs" in given.what:
        runs(given.runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        import uvloop

        _, _, url, key, count, in_flight = sys.argv
        taken, rate = uvloop.run(measured(url, {"Authorization": f"Bearer {key}"}, int(count), int(in_flight)))
        print(json.dumps([statistics.median(taken) * 1000, rate]))
    else:
        main()

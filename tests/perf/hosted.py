"""Hosted runs: steady rate against a bare aiohttp client, time to the first stored result, the driver's memory.

python -m tests.perf.hosted
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.perf.bench import ROOT, Bench, bench, server, table

CASES = 40_000
IN_FLIGHT = 1024
LATENCY = 0.2


def bare_rate(port: int, count: int) -> float:
    """Requests per second of a bare aiohttp client, in a process of its own as the run's actors are."""
    arguments = [sys.executable, "-m", "tests.perf.hosted", "bare", str(port), str(count)]
    return float(subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


async def _bare(port: int, count: int) -> float:
    import aiohttp

    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for i in numbers:
                body = {"model": "m", "messages": [{"role": "user", "content": f"Case {i}: what is {i} plus {i}?"}]}
                async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as answer:
                    _ = json.loads(await answer.read())["choices"][0]["message"]["content"]

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return count / (time.perf_counter() - started)


def steady_rate(opened: Bench, run_id: str) -> float:
    """Rows per second between the 10th and the 90th percentile of `executed_at`."""
    rows = opened.query(
        "SELECT extract(epoch FROM executed_at) FROM evaluation_results WHERE evaluation_run_id = %s ORDER BY 1", run_id
    )
    moments = [float(moment) for (moment,) in rows]
    low, high = moments[len(moments) // 10], moments[len(moments) * 9 // 10]
    return 0.8 * len(moments) / (high - low)


def run(opened: Bench, model: str, benchmark: str, **environment: str) -> tuple[dict[str, object], float, float]:
    """Run to the end: (the run's document, seconds to the first stored row, the driver's peak memory in MiB)."""
    arguments = ["run", "--model", model, "--benchmark", benchmark, "--max-concurrency", str(IN_FLIGHT)]
    before = opened.query("SELECT count(*) FROM evaluation_results")[0][0]
    started = time.perf_counter()
    process = opened.start(*arguments, **environment)
    first, peak = 0.0, 0.0
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        if not first and opened.query("SELECT count(*) FROM evaluation_results")[0][0] > before:
            first = time.perf_counter() - started
        try:
            peak = max(peak, driver.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1 if not first else 0.5)
    assert process.stdout is not None
    return json.loads(process.stdout.read()), first, peak


def main() -> None:
    with bench() as opened:
        with server(LATENCY) as port:
            bare = bare_rate(port, CASES // 2)
            opened.sums("sums", CASES)
            document, first, _ = run(opened, opened.model(port), "sums")
            steady = steady_rate(opened, str(document["id"]))
        table(
            f"Hosted, {CASES} test cases, {LATENCY * 1000:.0f} ms, {IN_FLIGHT} in flight, scored and written",
            ["what", "per second", "ratio"],
            [
                ["bare aiohttp client", f"{bare:.0f}", "1"],
                ["evalservice run, steady", f"{steady:.0f}", f"{steady / bare:.2f}"],
            ],
        )
        rows = [["the command, local Ray", f"{first:.1f}", "15"]]
        with server(LATENCY) as port, running_cluster() as address:
            opened.sums("few", 1000)
            _, there, _ = run(opened, opened.model(port), "few", RAY_ADDRESS=address)
            rows.append(["the command, a cluster that runs", f"{there:.1f}", "6"])
        table("First stored result", ["from", "seconds", "goal"], rows)
        memory(opened)


@contextlib.contextmanager
def running_cluster() -> Iterator[str]:
    """A Ray cluster of this one machine; gives its address."""
    ray = str(Path(sys.executable).with_name("ray"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start = [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([ray, "stop", "--force"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def memory(opened: Bench) -> None:
    """The driver's peak memory for 10,000 and for 200,000 test cases."""
    rows = []
    with server(0.05) as port:
        model = opened.model(port)
        for count in (10_000, 200_000):
            opened.sums(f"sums-{count}", count)
            _, _, peak = run(opened, model, f"sums-{count}")
            rows.append([count, f"{peak:.0f}", f"{peak / float(rows[0][1]) if rows else 1:.2f}"])
    table("Driver memory", ["test cases", "peak MiB", "ratio"], rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        import uvloop

        print(uvloop.run(_bare(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()

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
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.perf.bench import ROOT, Bench, bench, python_with, server, table
from tests.perf.inspecting import VERSIONS as INSPECT

CASES = 40_000
IN_FLIGHT = 1024
LATENCY = 0.2
INSPECTED = 2_000
LIMITED = ["--input-price", "1", "--output-price", "2", "--config", '{"max_tokens":64,"requests_per_minute":1e7}']
"""A model with a budget to keep and a limit that is never reached: what they cost is in the figures."""


def bare_rate(port: int, count: int) -> tuple[float, float]:
    """Requests per second of a bare aiohttp client, in a process of its own as the run's actors are, and the
    processor's seconds that it took for each."""
    arguments = [sys.executable, "-m", "tests.perf.hosted", "bare", str(port), str(count)]
    rate, cpu = json.loads(subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return rate, cpu / count


def inspect_rate(port: int) -> float:
    """Inspect AI's samples per second, its start and its log included."""
    script = str(Path(__file__).with_name("inspecting.py"))
    command = [str(python_with("inspect", INSPECT)), script, f"http://127.0.0.1:{port}/v1", str(INSPECTED)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd="/")
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["samples"] / found["seconds"])


@contextlib.contextmanager
def machine_cpu(*others: psutil.Process) -> Iterator[Callable[[], float]]:
    """The processor's seconds of all that ran in the block but these others; the machine has nothing else to do."""

    def busy() -> float:
        times = psutil.cpu_times()
        return float(times.user + times.system - sum(sum(other.cpu_times()[:2]) for other in others))

    before = busy()
    yield lambda: busy() - before


async def _bare(port: int, count: int) -> list[float]:
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
        return [count / (time.perf_counter() - started), time.process_time()]


def steady_rate(opened: Bench, run_id: str) -> float:
    """Rows per second between the 10th and the 90th percentile of `executed_at`."""
    rows = opened.query(
        "SELECT extract(epoch FROM executed_at) FROM evaluation_results WHERE evaluation_run_id = %s ORDER BY 1", run_id
    )
    moments = [float(moment) for (moment,) in rows]
    low, high = moments[len(moments) // 10], moments[len(moments) * 9 // 10]
    return 0.8 * len(moments) / (high - low)


def run(
    opened: Bench, model: str, benchmark: str, *options: str, **environment: str
) -> tuple[dict[str, object], float, float]:
    """Run to the end: (the run's document, seconds to the first stored row, the driver's peak memory in MiB)."""
    arguments = ["run", "--model", model, "--benchmark", benchmark, "--max-concurrency", str(IN_FLIGHT), *options]
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
            [served] = [p for p in psutil.Process().children() if "server.py" in " ".join(p.cmdline())]
            opened.sums("sums", CASES)
            model = opened.model(port, *LIMITED)
            bare, bare_cpu = bare_rate(port, CASES // 2)
            with machine_cpu(served) as used:
                document, first, _ = run(opened, model, "sums", "--max-cost", "1000")
                cpu = used() / CASES
            steady = steady_rate(opened, str(document["id"]))
            again, _ = bare_rate(port, CASES // 2)
            bare = (bare + again) / 2
            inspected = inspect_rate(port)
        table(
            f"Hosted, {CASES} test cases, {LATENCY * 1000:.0f} ms, {IN_FLIGHT} at once, limiter and budget on",
            ["what", "per second", "of the bare client's", "CPU ms", "of the bare client's", "of Inspect AI's"],
            [
                ["bare aiohttp client", f"{bare:.0f}", "1", f"{bare_cpu * 1000:.2f}", "1", f"{bare / inspected:.0f}"],
                [f"Inspect AI ({INSPECT[0]})", f"{inspected:.0f}", f"{inspected / bare:.3f}", "", "", "1"],
                [
                    "evalservice run, steady",
                    f"{steady:.0f}",
                    f"{steady / bare:.2f} (goal 0.7)",
                    f"{cpu * 1000:.2f}",
                    f"{cpu / bare_cpu:.1f} (goal 5)",
                    f"{steady / inspected:.0f} (goal 15)",
                ],
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

        print(json.dumps(uvloop.run(_bare(int(sys.argv[2]), int(sys.argv[3])))))
    else:
        main()

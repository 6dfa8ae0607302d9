"""A provider's limits are kept by all actors of all runs together, and whatever holds them may be killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from cluster.driver import Stop
from cluster.launch import run_claimed
from cluster.limiting import find_limiter
from tests.provider import RunningProvider

RECORDS = [{"input": f"What is {n} + {n}?", "expected_output": str(2 * n)} for n in range(60)]
LIMIT = 1_200
"""Requests a minute: twenty a second."""


def both(bench: Any, leases: list[Any]) -> list[Any]:
    """Drive runs at the same time; gives them ended."""
    with ThreadPoolExecutor(len(leases)) as pool:
        return list(pool.map(lambda lease: run_claimed(bench.platform, lease, Stop(), lambda _: None), leases))


def test_a_limit_per_minute_is_never_exceeded(bench: Any, provider: RunningProvider) -> None:
    provider.control(requests_per_minute=50)
    model = bench.model(provider.url, config={"requests_per_minute": 3_000})
    run = bench.run(model, bench.benchmark(RECORDS[:50]))
    assert run.completed_test_cases == 50
    assert provider.stats()["refused"] == 0


def test_two_runs_on_one_credential_share_its_limit_fairly(bench: Any, provider: RunningProvider) -> None:
    model = bench.model(provider.url, config={"requests_per_minute": LIMIT})
    benchmark = bench.benchmark(RECORDS)
    leases = [bench.claimed(model, benchmark) for _ in range(2)]
    ended = both(bench, leases)
    assert [run.completed_test_cases for run in ended] == [60, 60]
    rows = [[row["executed_at"] for row in bench.rows(lease.run_id)] for lease in leases]
    begin, end = max(min(times) for times in rows), min(max(times) for times in rows)
    seconds = (end - begin).total_seconds()
    counts = [sum(begin <= at <= end for at in times) for times in rows]
    assert sum(counts) <= LIMIT / 60 * seconds + 20
    assert min(counts) >= 0.6 * max(counts), "both had their part while both were there"


def test_the_limit_of_a_credential_is_kept_over_all_its_models(bench: Any, provider: RunningProvider) -> None:
    credential = bench.client.post(
        "/v1/provider-credentials",
        {"name": "shared", "base_url": provider.url, "secret": "sk-1", "requests_per_minute": LIMIT},
    )
    changed = bench.client.patch(f"/v1/provider-credentials/{credential['id']}", {"tokens_per_minute": 10**6})
    assert (changed["requests_per_minute"], changed["tokens_per_minute"]) == (LIMIT, 10**6)
    models = [bench.model(provider.url, credential_id=credential["id"]) for _ in range(2)]
    leases = [bench.claimed(model, bench.benchmark(RECORDS)) for model in models]
    ended = both(bench, leases)
    assert [run.completed_test_cases for run in ended] == [60, 60]
    times = sorted(row["executed_at"] for lease in leases for row in bench.rows(lease.run_id))
    assert len(times) <= LIMIT / 60 * (times[-1] - times[0]).total_seconds() + LIMIT / 60


def test_what_a_provider_names_as_its_limit_is_kept_without_being_configured(
    bench: Any, provider: RunningProvider
) -> None:
    provider.control(requests_per_minute=3_000, announced=True)
    started = time.monotonic()
    run = bench.run(bench.model(provider.url), bench.benchmark(RECORDS * 5), max_concurrency=32)
    assert run.completed_test_cases == 300
    assert time.monotonic() - started > 4.0, "fifty a second"


def test_after_a_retry_after_nobody_asks_until_it_is_over(bench: Any, provider: RunningProvider) -> None:
    model, benchmark = bench.model(provider.url), bench.benchmark(RECORDS)
    provider.control(storm_seconds=20.0, retry_after=3.0, latency=0.3)
    lease = bench.claimed(model, benchmark, max_concurrency=16)
    thread = threading.Thread(target=run_claimed, args=(bench.platform, lease, Stop(), lambda _: None))
    thread.start()
    while provider.stats()["requests"] < 16:
        time.sleep(0.02)
    time.sleep(0.5)
    asked = provider.stats()["requests"]
    time.sleep(2.0)
    assert provider.stats()["requests"] == asked, "three seconds were asked for"
    provider.control(storm_seconds=0.0, latency=0.0)
    thread.join()
    assert len(bench.rows(lease.run_id)) == len(RECORDS)


def test_a_limiter_that_is_killed_comes_back_and_the_limit_holds(bench: Any, provider: RunningProvider) -> None:
    provider.control(requests_per_minute=1_000)
    model = bench.model(provider.url, config={"requests_per_minute": 600})
    lease = bench.claimed(model, bench.benchmark(RECORDS))
    thread = threading.Thread(target=run_claimed, args=(bench.platform, lease, Stop(), lambda _: None))
    thread.start()
    while provider.stats()["requests"] < 15:
        time.sleep(0.02)
    find_limiter()
    killed = [p for p in psutil.process_iter(["cmdline"]) if "Limiter" in " ".join(p.info["cmdline"] or ())]
    assert killed
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    thread.join()
    rows = bench.rows(lease.run_id)
    assert [row["success"] for row in rows] == [True] * len(RECORDS)
    assert provider.stats()["refused"] == 0
    assert set(provider.sent(model).values()) == {1}
    seconds = (max(r["executed_at"] for r in rows) - min(r["executed_at"] for r in rows)).total_seconds()
    assert len(rows) <= 600 / 60 * seconds + 10


def test_a_run_says_what_it_waits_for_and_can_be_cancelled_meanwhile(
    bench: Any, provider: RunningProvider, eventually: Any
) -> None:
    model = bench.model(provider.url, config={"requests_per_minute": 1})
    lease = bench.claimed(model, bench.benchmark(RECORDS[:3]))
    path = f"/v1/evaluation-runs/{lease.run_id}"
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: "requests_per_minute" in bench.client.get(path)["waiting_for"])
        bench.client.post(f"{path}/cancel")
        run = driving.result(timeout=60)
    assert (run.status, run.completed_test_cases) == ("cancelled", 1)
    assert bench.client.get(path)["waiting_for"] == ""

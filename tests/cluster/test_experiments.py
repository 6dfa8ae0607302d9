"""An experiment from the command line, with real runs on Ray: it is left, goes on, and costs nothing again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.test_commands import registered
from tests.provider import RunningProvider


def test_an_experiment_that_is_left_goes_on_and_a_second_run_of_it_asks_nothing(
    ray_cli: Any, provider: RunningProvider, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    registered(ray_cli, provider, tmp_path, count=60)
    provider.control(latency=0.5)
    grid = ("--model", "m", "--benchmark", "sums", "--parameter", "temperature=[0,1]", "--max-concurrency", "8")
    ray_cli.ok("experiments", "create", "heat", *grid)
    process = ray_cli.start("experiments", "start", "heat", "--json")
    eventually(lambda: provider.stats()["requests"] > 2, what="requests")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "go on with `evalservice experiments resume" in err) == (130, True), err
    provider.control(latency=0.01)
    [run] = ray_cli.ok("experiments", "resume", "heat")["runs"]
    assert (run["status"], [cell["completed_test_cases"] for cell in run["cells"]]) == ("completed", [60, 60])
    assert provider.stats()["requests"] == 120
    [again] = ray_cli.ok("experiments", "start", "heat")["runs"]
    assert (again["run_number"], again["status"], provider.stats()["requests"]) == (2, "completed", 120)
    [found] = ray_cli.ok("experiments", "report", "heat")["benchmarks"]
    assert ([cell["value"] for cell in found["cells"]], found["differences"][0]["better"]) == ([1.0, 1.0], None)

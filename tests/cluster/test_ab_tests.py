"""An A/B test from the command line, with real runs of two models on Ray."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.provider import RunningProvider, running_provider

COUNT = 600


@pytest.fixture(scope="module")
def worse() -> Iterator[RunningProvider]:
    """A provider that answers half of the sums wrongly."""
    with running_provider("--wrong", "0.5") as running:
        yield running


@pytest.fixture
def ready(ray_cli: Any, provider: RunningProvider, worse: RunningProvider, tmp_path: Path) -> Any:
    """The command line, with two models, a benchmark and the draft of a test."""
    lines = [json.dumps({"input": f"What is {n} + 1?", "expected_output": n + 1}) for n in range(COUNT)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    ray_cli.ok("datasets", "add", "sums", tmp_path / "sums.jsonl")
    ray_cli.ok(
        "benchmarks", "add", "--name", "sums", "--dataset", "sums", "--category", "qa", "--scorer", "numeric_match"
    )
    for name, each in (("good", provider), ("bad", worse)):
        ray_cli.ok("models", "add", name, "--platform", "openai", "--model-id", name, "--base-url", each.url)
        each.control(latency=0.5)
    models = ("--benchmark", "sums", "--model", "good", "--model", "bad", "--max-concurrency", "8")
    ray_cli.ok("abtests", "create", "t", *models, "--design", "sequential", "--effect", "0.1")
    return ray_cli


def test_a_test_that_is_left_goes_on_and_once_it_is_decided_asks_no_more(
    ready: Any, provider: RunningProvider, worse: RunningProvider, eventually: Callable[..., Any]
) -> None:
    process = ready.start("abtests", "start", "t", "--json")
    eventually(lambda: min(each.stats()["requests"] for each in (provider, worse)) > 20, what="requests")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "go on with `evalservice abtests start" in err) == (130, True), out + err
    left = ready.ok("abtests", "show", "t")
    assert (left["status"], {run["status"] for run in left["runs"]}) == ("running", {"running"})
    assert all(run["completed_test_cases"] > 0 for run in left["runs"])
    ended = ready("abtests", "start", "t", "--gate", "--json")
    test = ended.json()
    results = test["results"]
    assert (ended.code, test["status"], results["verdict"]) == (0, "completed", "winner"), ended.err
    assert "bad has lost after" in ended.err
    asked = provider.stats()["requests"] + worse.stats()["requests"]
    made = results["calls"]["made"]
    assert made <= asked <= made + 2 * 8  # what is in flight when it is left may be asked again
    assert results["calls"]["saved_by_stopping"] == 2 * test["plan"]["test_cases"] - made > 0
    assert {run["status"] for run in test["runs"]} == {"cancelled"}

"""What a routing decision takes in this process, against LiteLLM's Router and ParetoBandit in the same run.

python -m tests.perf.selecting
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from uuid_utils.compat import uuid7

from evalservice.selection.answers import answer_json, candidates_json
from evalservice.selection.deciding import Decision, PolicyVersion, decide
from evalservice.selection.decisions import Record, Who
from evalservice.selection.explaining import explanation
from evalservice.selection.policy_parameters import parameters_of
from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import ModelCard, Snapshot
from tests.perf.bench import python_with, table
from tests.perf.peers import VERSIONS

ROUNDS = 5
WEIGHTED = PolicyVersion("weighted", "weighted", parameters_of("weighted", {}).model_dump())
WHO = Who(uuid.uuid4(), uuid.uuid4())


def a_snapshot(models: int, benchmarks: int = 0) -> Snapshot:
    """Evidence of every kind for so many models."""
    rng = np.random.default_rng(0)
    cards = tuple(
        ModelCard(
            str(uuid.UUID(int=i)), f"model-{i}", "1.0.0", "openai", "active", frozenset({"text-generation"}),
            frozenset(), b'{"model_id":"%d","platform":"openai","base_url":"https://llm.example.com/v1"}' % i,
        )
        for i in range(models)
    )  # fmt: skip
    shape = (1 + benchmarks, models)
    return Snapshot(
        version="v", read_at=time.time(), models=cards,
        targets={"": 0, **{f"benchmark:b{i}": 1 + i for i in range(benchmarks)}},
        quality=rng.uniform(0.4, 0.95, shape), quality_sd=np.full(shape, 0.02), quality_n=np.full(shape, 500.0),
        cost=rng.lognormal(-8, 1, models), cost_per_1k=rng.lognormal(-7, 1, models),
        latency=rng.lognormal(6, 0.5, (3, models)),
        error_rate=rng.uniform(0, 0.05, models), outcomes=np.full(models, 100.0),
        newest=np.full(models, time.time()), breakers=("closed",) * models,
    )  # fmt: skip


def some_requests() -> list[SelectionRequest]:
    """A hundred with four constraints each, no two alike."""
    return [
        SelectionRequest.model_validate(
            {
                "required_capabilities": ["text-generation"],
                "constraints": {
                    "max_cost": 0.0008 + number / 1e5,
                    "max_p95_latency_ms": 900 + number,
                    "max_error_rate": 0.045,
                    "min_quality": {"value": 0.5},
                },
            }
        )
        for number in range(100)
    ]


def timed(call: Callable[[int], object], count: int) -> list[float]:
    """Seconds of each call, which is given its number."""
    found = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        found.append(time.perf_counter() - started)
    return found


def logged(snapshot: Snapshot, request: SelectionRequest, number: int) -> Record:
    """A decision with its explanation and the record that the log keeps."""
    decision = decide(snapshot, request, WEIGHTED, seed=number, now=time.time())
    return Record(uuid7(), WHO, decision, explanation(decision), False, "here", number)


def answered(snapshot: Snapshot, request: SelectionRequest, number: int) -> bytes:
    """The same, and the response's bytes, which the record shares."""
    record = logged(snapshot, request, number)
    decision: Decision = record.decision
    return answer_json(decision, str(record.id), record.explanation, candidates_json(decision), ())


def _nth(work: Any, snapshot: Snapshot, requests: list[SelectionRequest], number: int) -> object:
    return work(snapshot, requests[number % len(requests)], number)


def peers(count: int) -> dict[str, list[float]]:
    """What the others take, in an environment of their own."""
    python = python_with("peers", VERSIONS)
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run([str(python), str(script), str(count)], check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_process() -> None:
    """Decisions over 50 and 1,000 candidates."""
    requests = some_requests()
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):  # in turns, so that all see the same machine
        for name, seconds in peers(50).items():
            found.setdefault(name, []).extend(seconds)
        for models, count in ((50, 2000), (1000, 200)):
            snapshot = a_snapshot(models)
            for name, work in (("decision", logged), ("with bytes", answered)):
                timed(partial(_nth, work, snapshot, requests), 20)
                seconds = timed(partial(_nth, work, snapshot, requests), count)
                found.setdefault(f"{name}, {models}", []).extend(seconds)
    p50 = {name: float(np.median(values)) for name, values in found.items()}
    ours = p50["decision, 50"]
    goals = {
        "decision, 50": f"{ours / p50['litellm']:.3f} of LiteLLM (goal 0.05), "
        f"{ours / p50['paretobandit']:.2f} of ParetoBandit (goal 0.33)",
        "with bytes, 50": f"{p50['with bytes, 50'] / ours:.2f} of the decision (goal 2)",
        "decision, 1000": f"{p50['decision, 1000'] / 1000 / (ours / 50):.2f} of it per candidate (goal 1)",
        "with bytes, 1000": f"{p50['with bytes, 1000'] / 20 / p50['with bytes, 50']:.2f} per candidate (goal 1)",
    }
    table(
        "a decision in process: four constraints, explanation, log record",
        ["what", "p50 µs", "p99 µs", "ratio"],
        [
            [name, f"{p50[name] * 1e6:.0f}", f"{np.quantile(values, 0.99) * 1e6:.0f}", goals.get(name, "")]
            for name, values in found.items()
        ],
    )


def beside_a_refresh() -> None:
    """How long decisions are held up while another thread reads a snapshot of 1,000 models × 50 benchmarks."""
    from tests.perf.evidence import refreshing

    requests = some_requests()
    snapshot = a_snapshot(50)
    work = partial(_nth, answered, snapshot, requests)
    alone = timed(work, 3000)
    with refreshing() as refreshes:
        beside = timed(work, 3000)
        seconds = refreshes()
    table(
        "decisions beside a refresh of 1,000 models × 50 benchmarks",
        ["what", "p50 µs", "p99 µs", "longest ms", "goal"],
        [
            ["alone", *(_figures(alone)), ""],
            ["beside", *(_figures(beside)), "longest at most 5 ms above"],
            ["a refresh", "", "", f"{np.median(seconds) * 1e3:.0f}", ""],
        ],
    )


def _figures(values: list[float]) -> list[str]:
    return [
        f"{np.median(values) * 1e6:.0f}",
        f"{np.quantile(values, 0.99) * 1e6:.0f}",
        f"{max(values) * 1e3:.1f}",
    ]


def main() -> None:
    """Both."""
    in_process()
    beside_a_refresh()


if __name__ == "__main__":
    main()

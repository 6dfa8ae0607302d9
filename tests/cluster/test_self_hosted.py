"""Runs of self-hosted models: weights loaded by our own actors, real engines, on the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.arithmetic import held_out_problems
from evalservice.errors import EngineUnavailable, InvalidInput

CHECKPOINTS = Path(__file__).parents[2] / "cluster/demo/checkpoints"
SAMPLING = {"temperature": 0, "max_tokens": 16}


def self_hosted(bench: Any, platform: str, checkpoint: str, **values: Any) -> str:
    """Register a checkpoint of the demo; gives the model's name."""
    name = f"{platform}-{checkpoint}-{len(values)}"
    model = {"name": name, "version": name, "platform": platform, "model_id": str(CHECKPOINTS / checkpoint)}
    return str(bench.registered({**model, **values}))


@pytest.mark.parametrize(
    "platform",
    [
        pytest.param(
            "vllm",
            marks=[
                pytest.mark.vllm,
                pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
            ],
        ),
        pytest.param(
            "transformers",
            marks=pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
        ),
    ],
)
def test_a_run_through_a_real_engine_stores_what_the_model_can_do(bench: Any, platform: str) -> None:
    benchmark = bench.benchmark(held_out_problems(300), sampling=SAMPLING)
    run = bench.run(self_hosted(bench, platform, "arithmetic-late"), benchmark)
    assert (run.status, run.completed_test_cases, run.failed_test_cases) == ("completed", 300, 0)
    assert run.aggregated_results["numeric_match"]["value"] > 0.9
    assert run.total_cost is None
    rows = bench.rows(run.id)
    assert [row["test_case_index"] for row in rows] == list(range(300))
    assert all(row["latency_ms"] > 0 and row["output_tokens"] > 0 for row in rows)


def test_an_engine_option_that_does_not_exist_is_refused_before_anything_is_written(bench: Any) -> None:
    benchmark = bench.benchmark(held_out_problems(3))
    model = self_hosted(bench, "transformers", "arithmetic-early", config={"engine": {"batchsize": 3}})
    with pytest.raises(InvalidInput, match=r"engine\.batchsize: 3 is not valid.*did you mean batch_size"):
        bench.run(model, benchmark)
    assert bench.execute(
        "SELECT count(*) FROM evaluation_runs r JOIN evaluation_models m ON m.id = r.model_id WHERE m.name = %s", model
    ) == [{"count": 0}]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_an_engine_that_is_not_installed_says_how_to_get_it(bench: Any) -> None:
    benchmark = bench.benchmark(held_out_problems(3))
    with pytest.raises(EngineUnavailable, match="pip install"):
        bench.run(self_hosted(bench, "vllm", "arithmetic-early"), benchmark)

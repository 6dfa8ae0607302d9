"""Runs on a cluster with GPUs: the engine's actor reserves one and computes on it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.arithmetic import held_out_problems
from tests.gpu.test_transformers import LATE, has_cuda

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason="torch or transformers is not installed",
)


def run_on(device: str, cli: Any, folder: Path, **environment: str) -> Any:
    """A run of the demo's better checkpoint; gives its document. A device that is not there fails every item."""
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(case) + "\n" for case in held_out_problems(400)))
    cli.ok("datasets", "add", "arithmetic", file)
    benchmark = ("--name", "arithmetic", "--dataset", "arithmetic", "--category", "qa", "--scorer", "numeric_match")
    cli.ok("benchmarks", "add", *benchmark)
    config = json.dumps({"engine": {"device": device}})
    cli.ok("models", "add", "late", "--platform", "transformers", "--model-id", LATE, "--config", config)
    sampling = json.dumps({"temperature": 0, "max_tokens": 16})
    return cli.ok("run", "--model", "late", "--benchmark", "arithmetic", "--config", sampling, **environment)


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="no CUDA device, or torch is not installed")
def test_a_run_of_a_transformers_model_computes_on_the_gpu(embedded_cli: Any, tmp_path: Path) -> None:
    run = run_on("cuda", embedded_cli, tmp_path)
    assert (run["status"], run["completed_test_cases"], run["failed_test_cases"]) == ("completed", 400, 0)
    assert run["aggregated_results"]["numeric_match"]["value"] >= 0.95


@needs_transformers
def test_a_run_whose_engine_reserves_a_gpu_is_accepted_by_ray(embedded_cli: Any, tmp_path: Path) -> None:
    run = run_on("cpu", embedded_cli, tmp_path, RAY_OVERRIDE_RESOURCES='{"GPU": 1}')
    assert (run["status"], run["completed_test_cases"], run["failed_test_cases"]) == ("completed", 400, 0)

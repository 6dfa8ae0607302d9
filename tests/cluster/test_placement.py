"""Where engines over several GPUs go: the arithmetic, and Ray's placement on two nodes whose GPUs are made up."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.plan import RunPlan
from cluster import pipeline
from cluster.placement import Demand, demand_of
from evalservice.errors import ClusterUnavailable, InvalidInput

ROOT = Path(__file__).parents[2]


def plan(**engine: Any) -> RunPlan:
    criteria = {"scorers": [{"name": "exact_match"}]}
    return RunPlan("r", "t", "", criteria, "vllm", "m", concurrency=1, config={"engine": engine})


@pytest.mark.parametrize(
    ("demand", "nodes", "spread", "room"),
    [
        (Demand(), (1,), "node", 1),
        (Demand(4), (8, 8), "node", 4),
        (Demand(4), (3, 7, 8), "node", 3),  # what is left over on a node is no room
        (Demand(4, 2), (8, 8), "node", 2),
        (Demand(8, 2), (8, 8), "nodes", 1),
        (Demand(4, 2), (4, 4, 4, 4), "nodes", 2),
        (Demand(4, 3), (8, 4), "nodes", 1),
        (Demand(4, 2), (6, 3), None, 0),  # nine GPUs, but one stage of four would be torn apart
        (Demand(4, 2, "ray"), (6, 3), "nodes", 1),  # unless that is wanted
        (Demand(16), (8, 8), None, 0),
        (Demand(16, 1, "ray"), (8, 8), "nodes", 1),
        (Demand(4, 2, "mp"), (4, 4), None, 0),
        (Demand(2, 1, "ray"), (8,), "nodes", 4),
        (Demand(), (), None, 0),
    ],
)
def test_an_engine_goes_on_one_node_where_it_fits_and_over_nodes_stage_by_stage(
    demand: Demand, nodes: tuple[float, ...], spread: str | None, room: int
) -> None:
    assert (demand.spread(nodes), demand.room(nodes)) == (spread, room)


def test_a_placement_group_has_a_bundle_for_each_gpu_and_room_for_the_engines_actor() -> None:
    assert Demand(2, 2).bundles(0.05) == [{"GPU": 1, "CPU": 0.05}, {"GPU": 1}, {"GPU": 1}, {"GPU": 1}]


@pytest.mark.parametrize(
    ("demand", "bundles", "strategy", "said"),
    [
        (Demand(4), [{"GPU": 4}], "STRICT_PACK", "4 GPUs on one node; the largest has 2, all 2 together 4"),
        (Demand(4, 2), [{"GPU": 4}] * 2, "PACK", "8 GPUs on one node, or 4 GPUs for each of 2 stages"),
        (Demand(4, 2, "ray"), [{"GPU": 1}] * 8, "PACK", "8 GPUs, on any nodes"),
    ],
)
def test_what_is_asked_of_an_autoscaler_is_what_is_said_to_be_waited_for(
    demand: Demand, bundles: list[dict[str, float]], strategy: str, said: str
) -> None:
    assert demand.request() == (bundles, strategy)
    assert demand.lacking((2, 2)).startswith(said)


def test_a_model_that_never_fits_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "gpu_nodes", lambda: [4.0, 2.0])
    with pytest.raises(ClusterUnavailable) as raised:
        pipeline.refuse_impossible_gpus(plan(tensor_parallel_size=4, pipeline_parallel_size=2))
    assert raised.value.message == (
        "the model needs 8 GPUs on one node, or 4 GPUs for each of 2 stages; the largest has 4, all 2 together 6 "
        "(engine.tensor_parallel_size 4, engine.pipeline_parallel_size 2)"
    )
    assert pipeline.refuse_impossible_gpus(plan(tensor_parallel_size=4)) == "node"
    assert pipeline.refuse_impossible_gpus(plan(tensor_parallel_size=2, pipeline_parallel_size=3)) == "nodes"


def test_sizes_that_are_no_sizes_are_named() -> None:
    assert demand_of(plan(tensor_parallel_size=None)) == Demand()
    with pytest.raises(InvalidInput, match="pipeline_parallel_size: 0"):
        demand_of(plan(pipeline_parallel_size=0))


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `tests.cluster.two_nodes` saw."""
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "tests.cluster.two_nodes", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "seen.json").read_text())


def test_each_worker_gets_its_gpu_and_the_next_engine_waits_until_they_are_given_back(two_nodes: Any) -> None:
    assert two_nodes["spread"] == [2, 2]
    assert two_nodes["second_waits"]
    assert two_nodes["states"] == ["CREATED", "PENDING"]
    assert two_nodes["second_started"] == 4


def test_a_run_over_nodes_ends_and_gives_its_places_back(two_nodes: Any) -> None:
    assert len(two_nodes["errors"]) == 2
    assert two_nodes["groups_left"] == []


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_an_engine_over_nodes_is_told_to_start_its_workers_as_ray_actors(two_nodes: Any) -> None:
    if importlib.util.find_spec("torch") is None or torch_has_cuda():
        pytest.skip("only a build that has no Ray executor says that it was asked for it")
    assert "does not support ray" in two_nodes["errors"][0]


def torch_has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def test_a_run_that_waits_for_nodes_says_so_until_they_come(two_nodes: Any) -> None:
    assert two_nodes["told"][0] == (
        "8 GPUs on one node, or 4 GPUs for each of 2 stages; the largest has 2, all 2 together 4"
    )
    assert two_nodes["told"][-1] == ""

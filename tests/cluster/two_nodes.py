"""A program of its own, since a process has one Ray: engines over two nodes whose GPUs are made up.

python -m tests.cluster.two_nodes FOLDER writes what it saw to FOLDER/seen.json: standard output is Ray's as well.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from actors.plan import RunPlan
from actors.signal import RunSignal
from cluster.driver import Stop
from cluster.pipeline import scored_rows
from cluster.placement import Demand, Places
from cluster.waiting import wait_for_gpus
from evalservice.catalog.blocks import plan_blocks
from evalservice.catalog.datasets import snapshot
from tests.engines import LATE


@ray.remote(num_cpus=0, num_gpus=1)
class Worker:
    def where(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


@ray.remote(num_cpus=0.05)
class Engine:
    """Starts its workers as vLLM's Ray executor does: one for each bundle of the group that it lives in."""

    def start(self, count: int) -> list[str]:
        group = ray.util.get_current_placement_group()
        assert group is not None
        assert [bundle["GPU"] for bundle in group.bundle_specs] == [1] * count
        self.workers = [Worker.remote() for _ in range(count)]
        return list(ray.get([worker.where.remote() for worker in self.workers]))


def placed() -> dict[str, Any]:
    """Two engines of four GPUs: the first spreads over both nodes, the second starts when it has gone."""
    places, more = Places(Demand(2, 2), 0.05), Places(Demand(2, 2), 0.05)
    first = Engine.options(scheduling_strategy=places.strategy()).remote()
    spread = sorted(Counter(ray.get(first.start.remote(4), timeout=60)).values())
    second = Engine.options(scheduling_strategy=more.strategy()).remote()
    started = second.start.remote(4)
    waits = ray.wait([started], timeout=2)[0] == []
    states = sorted(group["state"] for group in placement_group_table().values())
    places.close()
    after = len(ray.get(started, timeout=60))
    more.close()
    return {"spread": spread, "second_waits": waits, "states": states, "second_started": after}


def plan(uri: str, **engine: Any) -> RunPlan:
    criteria = {"scorers": [{"name": "exact_match"}]}
    return RunPlan("r", "t", uri, criteria, "vllm", LATE, concurrency=1, config={"engine": engine}, total=2)


def ran(folder: str) -> dict[str, Any]:
    """A run whose engine wants both nodes, through the pipeline: what its items say, and what is left afterwards."""
    stored = snapshot(enumerate([{"input": "1 + 1?", "expected_output": "2"}] * 2, 1), folder, uuid.uuid4())
    signal = ray.remote(RunSignal).options(num_cpus=0, max_concurrency=1000).remote()
    given = plan(stored.uri, tensor_parallel_size=2, pipeline_parallel_size=2)
    [table] = scored_rows(given, plan_blocks(2, 256), signal)
    left = [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
    return {"errors": table.column("error_message").to_pylist(), "groups_left": left}


def waited(nodes: Cluster) -> list[str]:
    """What is said while two stages of four GPUs wait for nodes that have them."""
    told: list[str] = []
    thread = threading.Thread(
        target=wait_for_gpus, args=(plan("", tensor_parallel_size=4, pipeline_parallel_size=2), Stop(), told.append)
    )
    thread.start()
    while not told:
        time.sleep(0.1)
    for _ in range(2):
        nodes.add_node(num_cpus=0, num_gpus=4)
    thread.join(30)
    return told


def main() -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2})
    nodes.add_node(num_cpus=0, num_gpus=2)
    ray.init(address=nodes.address)
    try:
        seen = {**placed(), **ran(sys.argv[1]), "told": waited(nodes)}
        (Path(sys.argv[1]) / "seen.json").write_text(json.dumps(seen))
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main()

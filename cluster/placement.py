"""Where one engine of a run finds its GPUs: all on one node, or one for each worker over several nodes.

    Demand(tensor=8, pipeline=2) on nodes of (8, 8)  ->  over nodes: 16 bundles of one GPU, packed
    Demand(tensor=4, pipeline=2) on nodes of (8, 8)  ->  one node, where vLLM's own processes share 8 GPUs

On one node the engine's actor reserves the GPUs itself. Over nodes it lives in a placement group of one bundle a GPU,
and vLLM's Ray executor puts a worker into each: the form that vLLM's `initialize_ray_cluster` asks for. Stages of a
pipeline are spread, the GPUs of one stage are not, unless the model says `distributed_executor_backend: ray`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engines.vllm_options import gpus_needed
from actors.plan import RunPlan
from evalservice.catalog.model_config import ModelConfig

Spread = Literal["node", "nodes"]


@dataclass(frozen=True, slots=True)
class Demand:
    """GPUs of one engine: `tensor` for each of `pipeline` stages. executor: what the model insists on, or ""."""

    tensor: int = 1
    pipeline: int = 1
    executor: str = ""

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline

    def spread(self, nodes: Sequence[float]) -> Spread | None:
        """How the engine fits on nodes with so many GPUs, taken or not; None where it does not."""
        if self.executor != "ray" and self.gpus <= max(nodes, default=0):
            return "node"
        return "nodes" if self.executor != "mp" and self.room(nodes) else None

    def room(self, nodes: Sequence[float]) -> int:
        """How many such engines the nodes can have at once."""
        if self.executor == "ray":
            return int(sum(nodes)) // self.gpus
        on_one = sum(int(node // self.gpus) for node in nodes)
        if on_one or self.executor == "mp" or self.pipeline == 1:
            return on_one
        return sum(int(node // self.tensor) for node in nodes) // self.pipeline

    def bundles(self, cpus: float) -> list[dict[str, float]]:
        """One GPU each, as vLLM wants them; the first also holds the engine's actor, which needs so many CPUs."""
        return [{"GPU": 1, "CPU": cpus}, *[{"GPU": 1.0}] * (self.gpus - 1)]

    def request(self) -> tuple[list[dict[str, float]], str]:
        """Bundles and strategy that make an autoscaling cluster add what is lacking."""
        if self.executor == "ray":
            return [{"GPU": 1}] * self.gpus, "PACK"
        if self.executor == "mp" or self.pipeline == 1:
            return [{"GPU": self.gpus}], "STRICT_PACK"
        return [{"GPU": self.tensor}] * self.pipeline, "PACK"

    def lacking(self, nodes: Sequence[float]) -> str:
        """What is needed and what there is, in numbers."""
        if self.executor == "ray":
            needed = f"{_gpus(self.gpus)}, on any nodes"
        elif self.executor == "mp" or self.pipeline == 1:
            needed = f"{_gpus(self.gpus)} on one node"
        else:
            needed = f"{_gpus(self.gpus)} on one node, or {_gpus(self.tensor)} for each of {self.pipeline} stages"
        if len(nodes) > 1:
            return f"{needed}; the largest has {max(nodes):g}, all {len(nodes)} together {sum(nodes):g}"
        return f"{needed}; the largest has {max(nodes, default=0):g}"


def demand_of(plan: RunPlan) -> Demand | None:
    """What one engine of the run asks for; None for a hosted model, which has none."""
    if not plan.self_hosted:
        return None
    engine: Mapping[str, Any] = ModelConfig.model_validate(plan.config).engine or {}
    gpus_needed(engine)  # checks the sizes
    sizes = (engine.get("tensor_parallel_size") or 1, engine.get("pipeline_parallel_size") or 1)
    return Demand(*sizes, engine.get("distributed_executor_backend") or "")


def gpu_nodes() -> list[float]:
    """GPUs of each living node that has any, taken or not."""
    return [gpus for node in ray.nodes() if node["Alive"] and (gpus := float(node["Resources"].get("GPU", 0.0)))]


class Places:
    """Placement groups for engines over nodes: one for each actor that is started, all given back together."""

    def __init__(self, demand: Demand, cpus: float) -> None:
        self._bundles = demand.bundles(cpus)
        self._groups: list[PlacementGroup] = []

    def strategy(self) -> PlacementGroupSchedulingStrategy:
        """The place of one more actor, and of the workers that it starts. Nothing waits here until there is room."""
        group = placement_group(self._bundles, strategy="PACK")
        self._groups.append(group)
        return PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )

    def close(self) -> None:
        """Remove the groups, and with them whoever still lives there."""
        while self._groups:
            remove_placement_group(self._groups.pop())


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count != 1 else ''}"

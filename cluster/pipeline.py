"""A run as a Ray Data graph, on one screen: blocks → generate → score → result rows.

Each block is one task; many are in flight, so a slow item holds back only its own block. A block whose actor dies is
tried `RETRIES` times more and then left out; what was left out is split and tried alone, until the one test case that
kills its actor is a failed row.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from actors.blocks import SCORED, failed_row, generated_table
from actors.generate import Generate, block_batch
from actors.plan import RunPlan
from actors.score import Score
from cluster.limiting import find_limiter
from cluster.placement import Places, Spread, demand_of, gpu_nodes
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.snapshots import open_snapshot
from evalservice.errors import ClusterUnavailable, RunFailed
from evalservice.records import ItemError

RETRIES = 3
MOST_DEADLY = 3
"""So many blocks in a row may each kill their actor before the fault is the actors' and not the test cases'."""
POLL_SECONDS = 0.5
ACTOR_CPUS = 0.05
"""What an actor reserves: little, because it waits most of the time, and because actors of several runs must all find
their place on a small machine. They are spread over nodes instead."""
WRITTEN_OFF_SECONDS = 60.0
"""When nothing came for so long, what was answered is lost: with the scoring actors that it killed."""
REQUESTS_PER_ACTOR = 1024
ACTORS_PER_CPU = 4

log = logging.getLogger(__name__)


def scored_rows(plan: RunPlan, blocks: Sequence[Block], signal: Any) -> Iterator[pa.Table]:
    """Result rows (schema `SCORED`) of every test case of `blocks`, as they are finished, in tables of up to a block.

    A test case is missing only when the run was stopped before it was answered.
    """
    plan = replace(plan, actors=_hosted_actors(plan))
    spread = refuse_impossible_gpus(plan)
    if spread == "nodes":
        plan = _with_ray_executor(plan)
    missing = list(blocks)
    seen = np.zeros(max((block.stop for block in blocks), default=0), dtype=np.bool_)
    alone = False
    while missing:
        rows = 0
        for table in _execute(plan, missing, signal, spread, alone=alone):
            seen[table.column("test_case_index").to_numpy()] = True
            rows += len(table)
            if len(table):
                yield table
        if ray.get(signal.stopped.remote()):
            return
        lost = [block for block in missing if not all(seen[index] for index in block.indices())]
        if not lost:
            return
        if alone and not rows and len(missing) > MOST_DEADLY:
            raise RunFailed("every worker that is started fails or dies: see the Ray logs of its actors")
        log.warning("blocks_lost", extra={"run_id": plan.run_id, "blocks": len(lost)})
        deadly = [block for block in lost if len(block) == 1] if alone else []
        if deadly:
            yield _worker_died(plan, deadly)
        missing = [half for block in lost if block not in deadly for half in _halves(block, seen, split=alone)]
        alone = True


def _execute(
    plan: RunPlan, blocks: Sequence[Block], signal: Any, spread: Spread | None, *, alone: bool
) -> Iterator[pa.Table]:
    """One pass over the blocks. alone: one block at a time and no second try, to find out which one is deadly.

    A thread of its own walks through the graph. Once the run was stopped and all that was answered is here, the rest
    of the graph (blocks that are passed on empty) is left to that thread.
    """
    demand = demand_of(plan)
    places = Places(demand, ACTOR_CPUS) if demand and spread == "nodes" else None
    generate, tasks = _generation_pool(plan, alone=alone)
    graph = _graph(plan, blocks, signal, places, generate, tasks, retries=0 if alone else RETRIES)
    ray.get(signal.start_pass.remote(tasks * plan.block_rows))
    tables: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4)
    left = threading.Event()
    threading.Thread(target=_walk, args=(graph, tables, left, places), name="pipeline", daemon=True).start()
    _, received = ray.get(signal.outstanding.remote())
    idle_since = time.monotonic()
    try:
        while True:
            try:
                table = tables.get(timeout=POLL_SECONDS)
                idle_since = time.monotonic()
            except queue.Empty:
                table = SCORED.empty_table()
                if time.monotonic() - idle_since > WRITTEN_OFF_SECONDS:
                    signal.write_off.remote()
                    idle_since = time.monotonic()
            if isinstance(table, BaseException):
                raise table
            if table is None:
                return
            if len(table) == 0 and _all_here(signal, received):
                return
            received += len(table)
            yield table
            if len(table):
                signal.stored.remote(len(table))
                idle_since = time.monotonic()
    finally:
        left.set()


def _walk(
    graph: Dataset,
    tables: queue.Queue[pa.Table | BaseException | None],
    left: threading.Event,
    places: Places | None,
) -> None:
    end: BaseException | None = None
    try:
        for table in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            _put(tables, table, left)
    except BaseException as error:
        end = error
    if places is not None:
        places.close()
    _put(tables, end, left)


def _put(
    tables: queue.Queue[pa.Table | BaseException | None], item: pa.Table | BaseException | None, left: threading.Event
) -> None:
    while not left.is_set():
        try:
            tables.put(item, timeout=POLL_SECONDS)
        except queue.Full:
            continue
        return


def _all_here(signal: Any, received: int) -> bool:
    """Whether the run was stopped, no request is under way any more, and every answered row has arrived."""
    if not ray.get(signal.stopped.remote()):
        return False
    under_way, generated = ray.get(signal.outstanding.remote())
    return bool(under_way <= 0 and received >= generated)


def _graph(
    plan: RunPlan,
    blocks: Sequence[Block],
    signal: Any,
    places: Places | None,
    generate: ActorPoolStrategy,
    tasks: int,
    *,
    retries: int,
) -> Dataset:
    context = DataContext.get_current()
    context.max_errored_blocks = -1  # a block whose actor died is left out, the others go on
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what was lost is found by counting, and logged below
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # a thread a block, in actors that need the time for their work
    context.execution_options.preserve_order = False
    # For good, because several runs of one process may be here at once.
    warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated", DeprecationWarning)
    return (
        ray.data.from_items(block_batch(blocks), override_num_blocks=len(blocks))
        .map_batches(
            Generate,
            batch_size=1,  # a row is a block of ours; with a GPU asked for, Ray wants it said
            fn_constructor_args=(plan, signal, find_limiter),
            compute=generate,
            num_cpus=ACTOR_CPUS,
            num_gpus=None if places else _gpus(plan) or None,
            ray_remote_args_fn=lambda: {
                "max_task_retries": retries,
                "max_restarts": -1,
                "scheduling_strategy": places.strategy() if places else "SPREAD",
            },
        )
        .map_batches(
            Score,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(plan.criteria,),
            compute=ActorPoolStrategy(min_size=1, max_size=_most_scorers(tasks)),
            num_cpus=ACTOR_CPUS,
            ray_remote_args_fn=lambda: {"max_task_retries": retries, "max_restarts": -1},
        )
    )


def _generation_pool(plan: RunPlan, *, alone: bool) -> tuple[ActorPoolStrategy, int]:
    """The pool of generation actors, and how many blocks are in flight over all of it."""
    if alone:
        return ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1, max_concurrent_calls_per_actor=1), 1
    if plan.self_hosted:
        demand, nodes = demand_of(plan), gpu_nodes()
        most = max(1, demand.room(nodes)) if demand and nodes else 1
        return ActorPoolStrategy(
            min_size=1, max_size=most, max_tasks_in_flight_per_actor=4, max_concurrent_calls_per_actor=4
        ), 4 * most
    actors = plan.actors
    share = math.ceil(plan.concurrency / actors)
    tasks = 6 * math.ceil(share / plan.block_rows)  # a sixth is sent, the others are there before they can be
    return ActorPoolStrategy(
        size=actors, max_tasks_in_flight_per_actor=tasks, max_concurrent_calls_per_actor=tasks
    ), tasks * actors


def _most_scorers(tasks: int) -> int:
    """How many scoring actors there may be: more are started only where scoring is what a run waits for."""
    return max(1, min(int(ray.cluster_resources().get("CPU", 1.0) / 2), math.ceil(tasks / 6)))


def _hosted_actors(plan: RunPlan) -> int:
    """How many generation actors share a hosted run's concurrency: no more than the cluster has room for."""
    room = max(1, int(ray.cluster_resources().get("CPU", 1.0) * ACTORS_PER_CPU))
    return max(1, min(room, math.ceil(plan.concurrency / REQUESTS_PER_ACTOR)))


def refuse_impossible_gpus(plan: RunPlan) -> Spread | None:
    """How an engine of the run is spread over GPUs, None where it needs none. Raises ClusterUnavailable.

    What no node and no nodes together can hold is refused at once: it would wait for ever.
    """
    demand, nodes = demand_of(plan), gpu_nodes()
    if demand is None or (not nodes and demand.executor != "ray"):
        return None
    spread = demand.spread(nodes)
    if spread is None:
        raise ClusterUnavailable(
            f"the model needs {demand.lacking(nodes)} (engine.tensor_parallel_size {demand.tensor}, "
            f"engine.pipeline_parallel_size {demand.pipeline})"
        )
    return spread


def _gpus(plan: RunPlan) -> int:
    """GPUs of one engine; 0 on a cluster without any, whose engines run on CPUs."""
    demand = demand_of(plan)
    return demand.gpus if demand and gpu_nodes() else 0


def _with_ray_executor(plan: RunPlan) -> RunPlan:
    """The plan of an engine over several nodes: vLLM starts its workers as Ray actors."""
    engine = {**(plan.config.get("engine") or {}), "distributed_executor_backend": "ray"}
    return replace(plan, config={**plan.config, "engine": engine})


def _halves(block: Block, seen: npt.NDArray[np.bool_], *, split: bool) -> list[Block]:
    left = [index for index in block.indices() if not seen[index]]
    middle = len(left) // 2
    parts = [left[:middle], left[middle:]] if split else [left]
    return [Block(part[0], part[-1] + 1, tuple(part)) for part in parts if part]


def _worker_died(plan: RunPlan, blocks: Sequence[Block]) -> pa.Table:
    """Failed rows for test cases that kill whoever handles them. Not retryable: they would kill again."""
    snapshot = open_snapshot(plan.snapshot_uri)
    error = ItemError(
        "worker_died", "the worker failed or died each time that it handled this test case", retryable=False
    )
    rows = [failed_row(case, error) for block in blocks for case in read_block(snapshot, block)]
    scored: pa.Table = Score(plan.criteria)(generated_table(rows))
    return scored.select(SCORED.names)

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
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from actors.blocks import SCORED, failed_row, generated_table
from actors.generate import Generate, actors_for, block_batch
from actors.plan import RunPlan
from actors.score import Score
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.snapshots import open_snapshot
from evalservice.records import ItemError

RETRIES = 3
POLL_SECONDS = 0.5
ACTOR_CPUS = 0.25

log = logging.getLogger(__name__)


def scored_rows(plan: RunPlan, blocks: Sequence[Block], signal: Any) -> Iterator[pa.Table]:
    """Result rows (schema `SCORED`) of every test case of `blocks`, as they are finished, in tables of up to a block.

    A test case is missing only when the run was stopped before it was answered.
    """
    missing = list(blocks)
    alone = False
    while missing:
        seen: set[int] = set()
        for table in _execute(plan, missing, signal, alone=alone):
            seen.update(table.column("test_case_index").to_pylist())
            if len(table):
                yield table
        if ray.get(signal.stopped.remote()):
            return
        lost = [block for block in missing if not seen.issuperset(block.indices())]
        if not lost:
            return
        log.warning("blocks_lost run=%s blocks=%d", plan.run_id, len(lost))
        deadly = [block for block in lost if len(block) == 1] if alone else []
        if deadly:
            yield _worker_died(plan, deadly)
        missing = [half for block in lost if block not in deadly for half in _halves(block, seen, split=alone)]
        alone = True


def _execute(plan: RunPlan, blocks: Sequence[Block], signal: Any, *, alone: bool) -> Iterator[pa.Table]:
    """One pass over the blocks. alone: one block at a time and no second try, to find out which one is deadly.

    A thread of its own walks through the graph. Once the run was stopped and all that was answered is here, the rest
    of the graph (blocks that are passed on empty) is left to that thread.
    """
    graph = _graph(plan, blocks, signal, alone=alone)
    tables: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4)
    left = threading.Event()
    threading.Thread(target=_walk, args=(graph, tables, left), name="pipeline", daemon=True).start()
    _, received = ray.get(signal.outstanding.remote())
    try:
        while True:
            try:
                table = tables.get(timeout=POLL_SECONDS)
            except queue.Empty:
                table = SCORED.empty_table()
            if isinstance(table, BaseException):
                raise table
            if table is None:
                return
            if len(table) == 0 and _all_here(signal, received):
                return
            received += len(table)
            yield table
    finally:
        left.set()


def _walk(graph: Dataset, tables: queue.Queue[pa.Table | BaseException | None], left: threading.Event) -> None:
    end: BaseException | None = None
    try:
        for table in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            _put(tables, table, left)
    except BaseException as error:
        end = error
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


def _graph(plan: RunPlan, blocks: Sequence[Block], signal: Any, *, alone: bool) -> Dataset:
    context = DataContext.get_current()
    context.max_errored_blocks = -1  # a block whose actor died is left out, the others go on
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what was lost is found by counting, and logged below
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    retries = 0 if alone else RETRIES
    generate, tasks = _generation_pool(plan, alone=alone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return (
            ray.data.from_items(block_batch(blocks), override_num_blocks=len(blocks))
            .map_batches(
                Generate,
                batch_size=None,
                fn_constructor_args=(plan, signal),
                compute=generate,
                num_cpus=ACTOR_CPUS,
                num_gpus=_gpus(plan) or None,
                ray_remote_args_fn=lambda: {"max_task_retries": retries, "max_restarts": -1},
            )
            .map_batches(
                Score,
                batch_size=None,
                batch_format="pyarrow",
                fn_constructor_args=(plan.criteria,),
                compute=ActorPoolStrategy(min_size=1, max_size=max(1, math.ceil(tasks / 16))),
                num_cpus=ACTOR_CPUS,
                ray_remote_args_fn=lambda: {"max_task_retries": retries, "max_restarts": -1},
            )
        )


def _generation_pool(plan: RunPlan, *, alone: bool) -> tuple[ActorPoolStrategy, int]:
    """The pool of generation actors, and how many blocks are in flight over all of it."""
    if alone:
        return ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1, max_concurrent_calls_per_actor=1), 1
    if plan.self_hosted:
        gpus = _gpus(plan)
        most = max(1, int(ray.cluster_resources().get("GPU", 0.0) // gpus)) if gpus else 1
        return ActorPoolStrategy(
            min_size=1, max_size=most, max_tasks_in_flight_per_actor=4, max_concurrent_calls_per_actor=4
        ), 4 * most
    actors = actors_for(plan)
    share = math.ceil(plan.concurrency / actors)
    tasks = 2 * math.ceil(share / plan.block_rows)  # half of them are sent, half are ready to take their place
    return ActorPoolStrategy(
        size=actors, max_tasks_in_flight_per_actor=tasks, max_concurrent_calls_per_actor=tasks
    ), tasks * actors


def _gpus(plan: RunPlan) -> int:
    if not plan.self_hosted or not ray.cluster_resources().get("GPU"):
        return 0
    from actors.engines.vllm import gpus_needed

    return gpus_needed(ModelConfig.model_validate(plan.config).engine or {})


def _halves(block: Block, seen: set[int], *, split: bool) -> list[Block]:
    left = [index for index in block.indices() if index not in seen]
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

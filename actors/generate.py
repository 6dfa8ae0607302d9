"""The stage that asks the model: blocks of test cases in, blocks of completions out."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import ray

from actors.backend import Backend
from actors.blocks import GENERATED, failed_row, generated_row, generated_table
from actors.garbage import collect_rarely
from actors.plan import RunPlan
from actors.signal import Follower
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.prompts import PromptError, PromptRenderer
from evalservice.catalog.snapshots import open_snapshot
from evalservice.errors import EngineUnavailable, EvalserviceError, InvalidInput
from evalservice.records import ChatRequest, Completion, ItemError, TestCase

log = logging.getLogger(__name__)


class Generate:
    """A callable for Ray Data: holds one backend (the model is loaded once an actor) and answers block after block."""

    def __init__(self, plan: RunPlan, signal: Any | None = None) -> None:
        _use_uvloop()
        self._plan = plan
        self._criteria = EvaluationCriteria.model_validate(plan.criteria)
        self._renderer = PromptRenderer(self._criteria)
        self._likelihood = self._criteria.likelihood
        self._sampling = ModelConfig.model_validate(plan.config).sampling()
        self._snapshot = open_snapshot(plan.snapshot_uri)
        self._signal = signal
        self._follower: Follower | None = None
        self._backend = make_backend(plan) if signal is None or not plan.self_hosted else _loaded(plan, signal)
        collect_rarely()

    async def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """`batch["block"]`: what `block_batch` wrote. A row comes out for each test case that was or cannot be sent."""
        if self._follower is None:
            self._follower = Follower(self._signal)
        self._follower.start()
        await self._follower.go.wait()
        if self._signal is not None:
            self._signal.began.remote()
        try:
            tables = [await self._block(_block(str(text)), self._follower.stop) for text in batch["block"]]
        except EvalserviceError as error:  # it concerns the run, not an item of it
            if self._signal is None:
                raise
            await self._signal.fail.remote(error.message)
            tables = []
        answered = pa.concat_tables(tables) if tables else GENERATED.empty_table()
        if self._signal is not None:
            self._signal.ended.remote(len(answered))
        return answered

    async def _block(self, block: Block, stop: asyncio.Event) -> pa.Table:
        if stop.is_set():
            return GENERATED.empty_table()
        cases = read_block(self._snapshot, block)
        rows: list[dict[str, Any]] = []
        prompts: list[tuple[TestCase, tuple[Mapping[str, Any], ...]]] = []
        requests: list[ChatRequest] = []
        epochs = self._criteria.epochs
        for case in cases:
            try:
                messages = tuple(self._renderer.render(case))
                requests += self._requests(case, messages)
                prompts.append((case, messages))
            except (PromptError, InvalidInput) as error:
                rows.append(failed_row(case, ItemError("prompt_error", error.message, retryable=False)))
        answers = await self._answers(requests, stop)
        for position, (case, messages) in enumerate(prompts):
            samples = answers[position * epochs : (position + 1) * epochs]
            complete = [sample for sample in samples if sample is not None]
            if len(complete) == epochs:  # else the run was stopped before all of the item was answered
                rows.append(generated_row(case, messages, complete))
        return generated_table(rows)

    def _requests(self, case: TestCase, messages: tuple[Mapping[str, Any], ...]) -> list[ChatRequest]:
        if self._likelihood is not None:
            return [self._likelihood.request(messages, case.choices)]
        return [ChatRequest(messages, self._sampling_of(epoch)) for epoch in range(self._criteria.epochs)]

    async def _answers(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        try:
            return await self._backend.complete(requests, stop)
        except EngineUnavailable as error:
            # The engine died under way. So does this actor: Ray starts another and gives it the same block.
            log.error("engine_died", extra={"run_id": self._plan.run_id, "error": error.message})
            os._exit(1)

    def _sampling_of(self, epoch: int) -> dict[str, Any]:
        seed = self._sampling.get("seed", self._plan.seed)
        return self._sampling if seed is None else {**self._sampling, "seed": seed + epoch}


DEADLY_LOADS = 3
"""So many times the process may die while it loads the model; a lack of memory is then the likeliest reason."""


def _loaded(plan: RunPlan, signal: Any) -> Backend:
    """The engine's backend, unless loading it has killed this actor too often: Ray would start it again for ever."""
    actor = ray.get_runtime_context().get_actor_id()
    if ray.get(signal.loading.remote(actor)) >= DEADLY_LOADS:
        return Broken(
            f"the process died {DEADLY_LOADS} times while it loaded model {plan.model_id}: the machine has too little "
            f"memory for it, or the engine crashes (the Ray logs of actor {actor} say more)"
        )
    backend = make_backend(plan)
    ray.get(signal.loaded.remote(actor))
    return backend


class Broken:
    """The backend of a model that cannot be served: every request has the same error."""

    def __init__(self, reason: str) -> None:
        self._error = ItemError("engine_error", reason, retryable=True)

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        return [Completion(error=self._error) for _ in requests]

    async def aclose(self) -> None:
        """Nothing to release."""


def make_backend(plan: RunPlan) -> Backend:
    """The backend of a plan's platform. An engine that does not start answers every item with the reason."""
    config = ModelConfig.model_validate(plan.config)
    if plan.self_hosted:
        try:
            return _engine(plan, config)
        except EvalserviceError as error:
            return Broken(error.message)
    from actors.providers import wire_format
    from actors.providers.hosted import DEFAULT_TIMEOUT, Endpoint, HostedBackend
    from actors.providers.retry import DEFAULT_ATTEMPTS, Backoff

    wire = wire_format(plan.platform)
    endpoint = Endpoint(
        base_url=plan.base_url or wire.default_base_url,
        model_id=plan.model_id,
        api_key=plan.api_key,
        price=plan.price,
        concurrency=math.ceil(plan.concurrency / plan.actors),
        timeout=config.timeout_seconds or DEFAULT_TIMEOUT,
        backoff=Backoff(attempts=config.max_attempts or DEFAULT_ATTEMPTS),
        private_addresses=plan.private_addresses,
    )
    return HostedBackend(wire, endpoint)


def _engine(plan: RunPlan, config: ModelConfig) -> Backend:
    engine = dict(config.engine or {})
    if plan.platform == "vllm":
        from actors.engines.vllm import VllmBackend

        return VllmBackend(plan.model_id, engine, plan.trusted)
    from actors.engines.transformers import TransformersBackend

    return TransformersBackend(plan.model_id, engine, plan.trusted)


def _use_uvloop() -> None:
    """The event loop that Ray Data makes for this actor a moment later shall be uvloop's, twice as fast."""
    try:
        import uvloop
    except ImportError:  # Windows
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def block_batch(blocks: Sequence[Block]) -> list[dict[str, str]]:
    """Rows for Ray Data: `{"block": JSON}`, what `Generate` takes."""
    return [{"block": orjson.dumps([block.start, block.stop, block.only]).decode()} for block in blocks]


def _block(text: str) -> Block:
    start, stop, only = orjson.loads(text)
    return Block(start, stop, None if only is None else tuple(only))

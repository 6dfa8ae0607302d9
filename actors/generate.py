"""The stage that asks the model: blocks of test cases in, blocks of completions out."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import ray

from actors.backend import Backend
from actors.blocks import GENERATED, failed_row, generated_row, generated_table
from actors.cache import StoredCompletion, cache_key
from actors.garbage import collect_rarely
from actors.plan import RunPlan
from actors.signal import Follower
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.content import refuse_system_messages
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.prompts import PromptError, PromptRenderer
from evalservice.catalog.snapshots import open_snapshot
from evalservice.errors import EngineUnavailable, EvalserviceError, InvalidInput
from evalservice.records import ChatRequest, Completion, ItemError, TestCase

log = logging.getLogger(__name__)


class Generate:
    """A callable for Ray Data: holds one backend (the model is loaded once an actor) and answers block after block."""

    def __init__(self, plan: RunPlan, signal: Any | None = None, find_limiter: Callable[[], Any] | None = None) -> None:
        _use_uvloop()
        self._plan = plan
        self._criteria = EvaluationCriteria.model_validate(plan.criteria)
        self._renderer = PromptRenderer(self._criteria)
        self._likelihood = self._criteria.likelihood
        config = ModelConfig.model_validate(plan.config)
        self._sampling = config.sampling()
        self._has_system_prompt = config.system_prompt is not False
        self._snapshot = open_snapshot(plan.snapshot_uri)
        self._signal = signal
        self._follower = Follower(signal)
        self._door = asyncio.Lock()
        if signal is None or not plan.self_hosted:
            self._backend = make_backend(plan, signal, find_limiter, self._follower.go)
        else:
            self._backend = _loaded(plan, signal)
        collect_rarely()

    async def __call__(self, batch: Mapping[str, Sequence[Any]]) -> pa.Table:
        """`batch["block"]`: what `block_batch` wrote. A row comes out for each test case that was or cannot be sent."""
        self._follower.start()
        await self._follower.go.wait()
        blocks = [_block(str(text)) for text in batch["block"]]
        if not await self._begun(blocks[0].start, sum(map(len, blocks))):
            return GENERATED.empty_table()
        answered = GENERATED.empty_table()
        try:
            answered = pa.concat_tables([await self._block(block, self._follower.stop) for block in blocks])
        except EvalserviceError as error:  # it concerns the run, not an item of it
            if self._signal is None:
                raise
            await self._signal.fail.remote(error.message)
        finally:  # after a fault of ours, too: else the block would keep its room
            if self._signal is not None:
                self._signal.ended.remote(blocks[0].start, len(answered))
        return answered

    async def _begun(self, block: int, rows: int) -> bool:
        """Wait until the run has room for these rows, one block of this actor after the other; False when it ends."""
        if self._signal is None:
            return True
        try:
            async with self._door:
                return bool(await self._signal.begin.remote(block, rows))
        except ray.exceptions.RayError:  # its driver has gone
            return False

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
                messages = self._renderer.render(case)
                if not self._has_system_prompt:
                    refuse_system_messages(messages)
                requests += self._requests(case, messages)
                prompts.append((case, messages))
            except (PromptError, InvalidInput) as error:
                rows.append(failed_row(case, ItemError("prompt_error", error.message, retryable=False)))
        keys = [cache_key(self._plan, request, position % epochs) for position, request in enumerate(requests)]
        answers = await self._answers_or_stored(requests, keys, stop)
        for position, (case, messages) in enumerate(prompts):
            of_case = slice(position * epochs, (position + 1) * epochs)
            complete = [sample for sample in answers[of_case] if sample is not None]
            if len(complete) == epochs:  # else the run was stopped before all of the item was answered
                reusable = keys[of_case] if any(key is not None for key in keys[of_case]) else None
                rows.append(generated_row(case, messages, complete, reusable))
        return generated_table(rows)

    def _requests(self, case: TestCase, messages: tuple[Mapping[str, Any], ...]) -> list[ChatRequest]:
        if self._likelihood is not None:
            return [self._likelihood.request(messages, case.choices)]
        return [ChatRequest(messages, self._sampling_of(epoch)) for epoch in range(self._criteria.epochs)]

    async def _answers_or_stored(
        self, requests: Sequence[ChatRequest], keys: Sequence[bytes | None], stop: asyncio.Event
    ) -> list[Completion | None]:
        """The answers, in order; of the backend only those that no stored completion gives."""
        wanted = [key for key in keys if key is not None]
        if not wanted or self._signal is None:
            return await self._answers(requests, stop)
        stored = await self._stored(wanted, stop)
        if stored is None:
            return [None] * len(requests)
        found = [stored.get(key) if key is not None else None for key in keys]
        missing = [request for request, completion in zip(requests, found, strict=True) if completion is None]
        asked = iter(await self._answers(missing, stop) if missing else ())
        return [next(asked) if completion is None else completion.completion() for completion in found]

    async def _stored(self, keys: Sequence[bytes], stop: asyncio.Event) -> Mapping[bytes, StoredCompletion] | None:
        """What the driver finds under these keys; None when the run was stopped before it was found."""
        assert self._signal is not None
        asking: asyncio.Future[Any] = asyncio.wrap_future(self._signal.ask.remote("completions", keys).future())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                found: Mapping[bytes, StoredCompletion] = asking.result()
                return found
        except Exception as error:  # the driver answers no more, and stops the run; until then nothing may be asked
            log.warning("completions_not_found", extra={"run_id": self._plan.run_id, "error": type(error).__name__})
            await stop.wait()
        finally:
            stopped.cancel()
            asking.cancel()
        return None

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


def make_backend(
    plan: RunPlan,
    signal: Any | None = None,
    find_limiter: Callable[[], Any] | None = None,
    go: asyncio.Event | None = None,
) -> Backend:
    """The backend of a plan's platform. An engine that does not start answers every item with the reason.

    signal: where the driver is asked for money. find_limiter: gives the cluster's limiter. go: not set while the run is
    paused.
    """
    config = ModelConfig.model_validate(plan.config)
    if plan.self_hosted:
        try:
            return _engine(plan, config)
        except EvalserviceError as error:
            return Broken(error.message)
    from actors.gate import Gate
    from actors.limiter import Membership
    from actors.providers import wire_format
    from actors.providers.hosted import DEFAULT_TIMEOUT, Endpoint, HostedBackend
    from actors.providers.retry import DEFAULT_ATTEMPTS, Backoff
    from actors.purse import Purse

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
    member = Membership(
        plan.credential, plan.model_id, plan.run_id, endpoint.concurrency, plan.credential_limits, plan.model_limits
    )
    purse = Purse(lambda ask: signal.ask.remote("money", ask)) if plan.budgeted and signal is not None else None
    if signal is None:
        return HostedBackend(wire, endpoint, gate=Gate(member, find_limiter, purse), go=go)
    actor = uuid.uuid4().hex
    gate = Gate(member, find_limiter, purse, on_standstill=lambda what: signal.waits.remote(actor, what))
    return HostedBackend(wire, endpoint, gate=gate, go=go)


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

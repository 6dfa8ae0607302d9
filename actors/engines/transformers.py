"""transformers behind the port: any device, batches of similar length padded on the left, one thread that generates.

The engine for a model that vLLM does not run or a device that it does not know. Sampling is done here rather than by
`generate`, so that every row has a noise of its own: a seeded request gets the same answer in any batch, on any device.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from actors.engines.common import (
    check_keys,
    check_model_path,
    engine_failed,
    failed,
    is_out_of_memory,
    model_defaults,
    not_loaded,
    one_line,
    rendered,
    sampling_from,
)
from actors.engines.sampling import Ending, Job, Sampler
from evalservice.errors import EngineUnavailable, InvalidInput
from evalservice.records import ChatRequest, Completion

HINT = "pip install 'evalservice[transformers]'"
OPTIONS = ("attn_implementation", "batch_size", "device", "dtype", "max_model_len", "revision")
OPERATORS_OPTIONS = ("model", "trust_remote_code")
DTYPES = ("auto", "float32", "bfloat16", "float16")
UNBOUNDED = 10**9


@dataclass(frozen=True, slots=True)
class Options:
    """The engine options of one model.

    device: auto is cuda, then mps, then cpu. dtype: auto is float32 on a CPU, else the checkpoint's own. batch_size:
    unset it is 128 on a CUDA device, else 32.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    max_model_len: int | None = None
    revision: str | None = None
    attn_implementation: str | None = None


def check_engine(engine: Mapping[str, Any]) -> Options:
    """The options, or InvalidInput naming the one that is wrong. Imports nothing of torch."""
    check_keys(engine, OPTIONS, OPERATORS_OPTIONS)
    options = Options(**engine)
    if options.dtype not in DTYPES:
        raise InvalidInput("engine.dtype", options.dtype, f"one of {', '.join(DTYPES)}")
    for name, size in (("batch_size", options.batch_size), ("max_model_len", options.max_model_len)):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InvalidInput(f"engine.{name}", size, "an integer, at least 1")
    for name, text in (("device", options.device), ("revision", options.revision)):
        if text is not None and (not isinstance(text, str) or not text):
            raise InvalidInput(f"engine.{name}", text, "a non-empty string")
    return options


class TransformersBackend:
    """See `actors.backend.Backend`. `complete` raises EngineUnavailable only when the device itself is lost.

    model: folder or hub name. engine: see `Options`.
    """

    def __init__(self, model: str, engine: Mapping[str, Any] | None = None) -> None:
        options = check_engine(engine or {})
        self._torch, transformers = _import_engine()
        check_model_path(model)
        self.model = model
        try:
            self._device = _device(self._torch, options.device)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=options.revision)
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                model,
                revision=options.revision,
                attn_implementation=options.attn_implementation,
                dtype=_dtype(self._torch, options.dtype, self._device),
            )
            self._model.to(self._device).eval()
        except Exception as error:  # whatever a loader raises, the user needs the model's name and one line
            raise not_loaded("transformers", model, error) from error
        config = self._model.config
        self._context = min(_context(config, self._tokenizer), options.max_model_len or UNBOUNDED)
        self._batch_size = options.batch_size or (128 if self._device.startswith("cuda") else 32)
        self._most_tokens = UNBOUNDED
        self._last_tokens: dict[tuple[str, ...], dict[int, bool]] = {}
        self._absolute_positions = not any(
            hasattr(config, n) for n in ("rope_theta", "rope_parameters", "rope_scaling")
        )
        generation = self._model.generation_config
        self._defaults = model_defaults(generation.to_diff_dict())
        self._ends = _as_list(generation.eos_token_id) or _as_list(self._tokenizer.eos_token_id)
        pad = self._tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else (self._ends or [0])[0]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """See `Backend.complete`; stopped between batches. Batches of several calls take turns."""
        results: list[Completion | None] = [None] * len(requests)
        if not requests or stop.is_set():
            return results
        run = asyncio.get_running_loop().run_in_executor
        jobs = []
        for index, prepared in enumerate(await run(self._thread, self._prepared, requests, stop)):
            if isinstance(prepared, Job):
                jobs.append(replace(prepared, index=index))
            else:
                results[index] = prepared
        for batch in self._batches(jobs):
            if stop.is_set():
                break
            answers = await run(self._thread, self._answered, batch)
            for job, answer in zip(batch, answers, strict=True):
                results[job.index] = answer
        return results

    async def aclose(self) -> None:
        """Wait for the batch under way and give the model's memory back."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self.__dict__.pop("_model", None)
        self._free()

    # What follows runs in the engine's thread.

    def _prepared(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Job | Completion | None]:
        return [None if stop.is_set() else self._job(request) for request in requests]

    def _job(self, request: ChatRequest) -> Job | Completion:
        try:
            sampling = sampling_from(request.sampling, self._defaults)
        except InvalidInput as error:
            return failed(self.model, "bad_request", error.message)
        tokens = rendered(self._tokenizer, self.model, request.messages, self._context)
        if isinstance(tokens, Completion):
            return tokens
        room = self._context - len(tokens)
        return Job(0, tokens, sampling, min(sampling.max_tokens or room, room))

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs of equal sampling but for the seed, longest first so that a lack of memory shows at once.

        What had no room in memory is not tried again: later batches are smaller than it was.
        """
        groups: dict[Any, list[Job]] = {}
        for job in jobs:
            limit = job.limit if self._absolute_positions else None
            groups.setdefault((replace(job.sampling, seed=None), limit), []).append(job)
        for group in groups.values():
            group.sort(key=lambda job: len(job.tokens), reverse=True)
            start = 0
            while start < len(group):
                size = min(self._batch_size, max(1, self._most_tokens // _tokens_of(group[start])))
                yield group[start : start + size]
                start += size

    def _answered(self, batch: Sequence[Job]) -> list[Completion]:
        """The batch's completions; if it fails its halves are tried, so that only the culprit fails."""
        started = time.perf_counter()
        try:
            rows, stopped = self._generate(batch)
        except Exception as error:
            self._prove_alive(error)
            if len(batch) == 1:
                return [engine_failed(self.model, error)]
            if is_out_of_memory(error):
                self._most_tokens = min(self._most_tokens, max(map(_tokens_of, batch)) * len(batch) // 2)
        else:
            latency_ms, now = (time.perf_counter() - started) * 1000.0, datetime.now(UTC)
            return [
                replace(self._completion(job, row, at), latency_ms=latency_ms, executed_at=now)
                for job, row, at in zip(batch, rows, stopped, strict=True)
            ]
        self._free()  # not sooner: the error holds the frames of `generate`, and they the memory of the whole batch
        middle = len(batch) // 2
        return [*self._answered(batch[:middle]), *self._answered(batch[middle:])]

    def _prove_alive(self, error: Exception) -> None:
        """Raise EngineUnavailable if the device answers nothing any more, as after an error inside a CUDA kernel."""
        if is_out_of_memory(error):
            return
        try:
            self._torch.ones(1, device=self._device).item()
        except Exception:
            raise EngineUnavailable(f"the engine of model {self.model} failed: {one_line(error)}") from error

    def _free(self) -> None:
        gc.collect()
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    def _generate(self, batch: Sequence[Job]) -> tuple[list[list[int]], list[int | None]]:
        """New token ids of every row, and the length at which a stop string appeared."""
        torch = self._torch
        width = max(len(job.tokens) for job in batch)
        padding = [width - len(job.tokens) for job in batch]
        rows = [[self._pad] * n + job.tokens for n, job in zip(padding, batch, strict=True)]
        mask = [[0] * n + [1] * len(job.tokens) for n, job in zip(padding, batch, strict=True)]
        ids = torch.tensor(rows, device=self._device)
        attention = torch.tensor(mask, device=self._device)
        stops = batch[0].sampling.stop
        lasts = self._last_tokens.setdefault(stops, {}) if stops else {}
        ending = Ending(torch, self._tokenizer.decode, width, batch, self._device, lasts)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=attention,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(job.limit for job in batch),
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
                logits_processor=[Sampler(torch, batch, attention, self._ends)],
                stopping_criteria=[ending],
                **NEUTRAL,
            )
        return output[:, width:].tolist(), ending.lengths

    def _completion(self, job: Job, row: list[int], stopped: int | None) -> Completion:
        ended = next((n for n, token in enumerate(row) if token in self._ends), None)
        length = min(job.limit, len(row), UNBOUNDED if ended is None else ended + 1, stopped or UNBOUNDED)
        text = self._tokenizer.decode(row[:length], skip_special_tokens=True)
        cuts = [at for at in (text.find(s) for s in job.sampling.stop) if at >= 0]
        finished = bool(cuts) or (ended is not None and ended < length)
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            finish_reason="stop" if finished else "length",
            input_tokens=len(job.tokens),
            output_tokens=length,
            model=self.model,
        )


NEUTRAL: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
"""What `generate` is told, whatever the model's generation config says: `Sampler` does it all."""


def _import_engine() -> tuple[Any, Any]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import torch
        import transformers

        _ = transformers.AutoModelForCausalLM
    except ModuleNotFoundError as error:
        if error.name in ("torch", "transformers"):
            raise EngineUnavailable(f"{error.name} is not installed: {HINT}") from None
        raise EngineUnavailable(f"transformers does not import: {one_line(error)}") from error
    except Exception as error:  # a broken binary wheel raises whatever its loader raises
        raise EngineUnavailable(f"transformers does not import: {one_line(error)}") from error
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def _device(torch: Any, wanted: str) -> str:
    if wanted != "auto":
        return str(torch.device(wanted))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(torch: Any, wanted: str, device: str) -> Any:
    if wanted == "auto":
        return torch.float32 if device == "cpu" else "auto"
    return getattr(torch, wanted)


def _context(config: Any, tokenizer: Any) -> int:
    """Tokens that prompt and answer may have together."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    named = (
        getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    )
    return min(next((n for n in named if isinstance(n, int)), UNBOUNDED), int(tokenizer.model_max_length))


def _tokens_of(job: Job) -> int:
    """The most tokens that a row's place in memory is needed for."""
    return len(job.tokens) + job.limit


def _as_list(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)

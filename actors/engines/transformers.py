"""transformers behind the port: any device, batches of similar length padded on the left, one thread that generates.

The engine for a model that vLLM does not run or a device that it does not know. Sampling is done here rather than by
`generate`, so that every row draws from a generator of its own: a seeded request gets the same answer in any batch.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from actors.engines.common import (
    Sampling,
    check_keys,
    check_model_path,
    engine_failed,
    failed,
    model_defaults,
    not_loaded,
    one_line,
    rendered,
    sampling_from,
)
from evalservice.errors import EngineUnavailable, InvalidInput
from evalservice.records import ChatRequest, Completion

HINT = "pip install 'evalservice[transformers]'"
OPTIONS = ("attn_implementation", "batch_size", "device", "dtype", "max_model_len", "revision")
OPERATORS_OPTIONS = ("model", "trust_remote_code")
DTYPES = ("auto", "float32", "bfloat16", "float16")
UNBOUNDED = 10**9


@dataclass(frozen=True, slots=True)
class Options:
    """The engine options of one model. device: auto is cuda, then mps, then cpu. dtype: auto is float32 on a CPU."""

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
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


@dataclass(slots=True)
class _Job:
    """One request ready to generate: its place in the call, its prompt, how many tokens it may have."""

    index: int
    tokens: list[int]
    sampling: Sampling
    limit: int


class TransformersBackend:
    """See `actors.backend.Backend`. model: folder or hub name. engine: see `Options`."""

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
        self._batch_size = options.batch_size
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
            if isinstance(prepared, _Job):
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
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    # What follows runs in the engine's thread.

    def _prepared(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[_Job | Completion | None]:
        return [None if stop.is_set() else self._job(request) for request in requests]

    def _job(self, request: ChatRequest) -> _Job | Completion:
        try:
            sampling = sampling_from(request.sampling, self._defaults)
        except InvalidInput as error:
            return failed(self.model, "bad_request", error.message)
        tokens = rendered(self._tokenizer, self.model, request.messages, self._context)
        if isinstance(tokens, Completion):
            return tokens
        room = self._context - len(tokens)
        return _Job(0, tokens, sampling, min(sampling.max_tokens or room, room))

    def _batches(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        """Jobs of equal sampling but for the seed, longest first so that a lack of memory shows at once."""
        groups: dict[Any, list[_Job]] = {}
        for job in jobs:
            limit = job.limit if self._absolute_positions else None
            groups.setdefault((replace(job.sampling, seed=None), limit), []).append(job)
        for group in groups.values():
            group.sort(key=lambda job: len(job.tokens), reverse=True)
            for start in range(0, len(group), self._batch_size):
                yield group[start : start + self._batch_size]

    def _answered(self, batch: Sequence[_Job]) -> list[Completion]:
        """The batch's completions; if it fails its halves are tried, so that only the culprit fails."""
        started = time.perf_counter()
        try:
            rows, stopped = self._generate(batch)
        except Exception as error:
            if len(batch) == 1:
                return [engine_failed(self.model, error)]
            middle = len(batch) // 2
            return [*self._answered(batch[:middle]), *self._answered(batch[middle:])]
        latency_ms, now = (time.perf_counter() - started) * 1000.0, datetime.now(UTC)
        return [
            replace(self._completion(job, row, at), latency_ms=latency_ms, executed_at=now)
            for job, row, at in zip(batch, rows, stopped, strict=True)
        ]

    def _generate(self, batch: Sequence[_Job]) -> tuple[list[list[int]], list[int | None]]:
        """New token ids of every row, and the length at which a stop string appeared."""
        torch = self._torch
        width = max(len(job.tokens) for job in batch)
        padding = [width - len(job.tokens) for job in batch]
        rows = [[self._pad] * n + job.tokens for n, job in zip(padding, batch, strict=True)]
        mask = [[0] * n + [1] * len(job.tokens) for n, job in zip(padding, batch, strict=True)]
        ids = torch.tensor(rows, device=self._device)
        attention = torch.tensor(mask, device=self._device)
        ending = _Ending(torch, self._tokenizer.decode, width, batch)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=attention,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max(job.limit for job in batch),
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
                logits_processor=[_Sampler(torch, batch, attention, self._ends)],
                stopping_criteria=[ending],
                **NEUTRAL,
            )
        return output[:, width:].tolist(), ending.lengths

    def _completion(self, job: _Job, row: list[int], stopped: int | None) -> Completion:
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
"""What `generate` is told, whatever the model's generation config says: `_Sampler` does it all."""


class _Sampler:
    """A logits processor that leaves the token to be chosen as the largest: penalties, filters, a row's own noise.

    Adding Gumbel noise to log probabilities and taking the largest is the same as drawing from them.
    """

    def __init__(self, torch: Any, batch: Sequence[_Job], attention: Any, ends: Sequence[int]) -> None:
        self._torch, self._attention, self._ends = torch, attention, list(ends)
        self._sampling = batch[0].sampling
        self._width = attention.shape[1]
        self._generators = [
            torch.Generator().manual_seed(_fresh_seed() if job.sampling.seed is None else job.sampling.seed)
            for job in batch
        ]

    def __call__(self, ids: Any, scores: Any) -> Any:
        sampling = self._sampling
        scores = self._penalised(ids, scores.float())
        if ids.shape[1] - self._width < sampling.min_tokens and self._ends:
            scores[:, self._ends] = -float("inf")
        return scores if sampling.greedy else self._noisy(self._filtered(scores / sampling.temperature))

    def _penalised(self, ids: Any, scores: Any) -> Any:
        torch, sampling = self._torch, self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros_like(scores)
            seen.scatter_add_(1, ids[:, : self._width], self._attention.to(scores.dtype))
            seen.scatter_add_(1, ids[:, self._width :], torch.ones_like(ids[:, self._width :], dtype=scores.dtype))
            penalty = sampling.repetition_penalty
            scores = torch.where(seen > 0, torch.where(scores > 0, scores / penalty, scores * penalty), scores)
        if sampling.presence_penalty or sampling.frequency_penalty:
            new = ids[:, self._width :]
            counts = torch.zeros_like(scores).scatter_add_(1, new, torch.ones_like(new, dtype=scores.dtype))
            scores = scores - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
        return scores

    def _filtered(self, scores: Any) -> Any:
        torch, sampling, none = self._torch, self._sampling, -float("inf")
        if 0 < sampling.top_k < scores.shape[1]:
            scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], none)
        if sampling.min_p > 0:
            shares = scores.softmax(-1)
            scores = scores.masked_fill(shares < sampling.min_p * shares.amax(-1, keepdim=True), none)
        if sampling.top_p < 1:
            ordered, order = scores.sort(descending=True)
            shares = ordered.softmax(-1)
            dropped = torch.zeros_like(scores, dtype=torch.bool)
            dropped.scatter_(1, order, shares.cumsum(-1) - shares >= sampling.top_p)
            scores = scores.masked_fill(dropped, none)
        return scores

    def _noisy(self, scores: Any) -> Any:
        torch = self._torch
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators])
        return scores - noise.to(scores.device).log()


class _Ending:
    """A stopping criterion that ends a row at its own limit or at a stop string, and remembers where."""

    def __init__(self, torch: Any, decode: Callable[..., str], width: int, batch: Sequence[_Job]) -> None:
        self._torch, self._decode, self._width = torch, decode, width
        self._stops = batch[0].sampling.stop
        self._tail = 4 * max((len(stop) for stop in self._stops), default=0) + 4
        self._limits = torch.tensor([job.limit for job in batch])
        self.lengths: list[int | None] = [None] * len(batch)

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        new = ids[:, self._width :]
        done = self._limits.to(ids.device) <= new.shape[1]
        if self._stops:
            for row, tokens in enumerate(new[:, -self._tail :].tolist()):
                if self.lengths[row] is None and any(s in self._decode(tokens) for s in self._stops):
                    self.lengths[row] = new.shape[1]
            found = [length is not None for length in self.lengths]
            done = done | self._torch.tensor(found, device=ids.device)
        return done


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


def _as_list(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _fresh_seed() -> int:
    return random.SystemRandom().getrandbits(63)

"""transformers behind the port: any device, batches of similar length padded on the left, one thread that generates.

The engine for a model that vLLM does not run or a device that it does not know. Sampling is done here rather than by
`generate`, so that every row has a noise of its own: a seeded request gets the same answer in any batch, on any device.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from actors.engines.checkpoints import check_adapter, check_model_path
from actors.engines.common import (
    CHAT_TEMPLATE,
    LORA,
    check_keys,
    check_values,
    engine_failed,
    failed,
    integer,
    is_out_of_memory,
    model_defaults,
    not_loaded,
    one_line,
    one_of,
    sampling_from,
    text,
)
from actors.engines.forward import Row, log_likelihoods
from actors.engines.prompting import Prompter, likelihood_of
from actors.engines.sampling import Ending, Job, Sampler
from evalservice.errors import EngineUnavailable, InvalidInput
from evalservice.records import ChatRequest, Completion

HINT = "pip install 'evalservice[transformers]'"
OPTIONS = {
    "attn_implementation": text(),
    "batch_size": integer(1),
    "chat_template": CHAT_TEMPLATE,
    "device": text(),
    "dtype": one_of("auto", "float32", "bfloat16", "float16"),
    "lora": LORA,
    "max_model_len": integer(1),
    "revision": text(),
    "trust_remote_code": one_of(True, False),
}
OPERATORS_OPTIONS = {"model", "trust_remote_code"}
UNBOUNDED = 10**9

Unit = TypeVar("Unit", Job, Row)


@dataclass(frozen=True, slots=True)
class Options:
    """The engine options of one model.

    device: auto is cuda, then mps, then cpu. dtype: auto is float32 on a CPU, else the checkpoint's own. batch_size:
    unset it is 128 on a CUDA device, else 32. chat_template: instead of the tokenizer's own. lora: an adapter's folder.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    max_model_len: int | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    chat_template: str | None = None
    lora: str | None = None
    trust_remote_code: bool = False


def check_engine(engine: Mapping[str, Any], trusted: Collection[str] = ()) -> Options:
    """The options, or InvalidInput naming the one that is wrong. Imports nothing of torch.

    trusted: operator's options that are allowed all the same.
    """
    check_keys(engine, OPTIONS, OPERATORS_OPTIONS - set(trusted))
    check_values(engine, OPTIONS)
    return Options(**{name: value for name, value in engine.items() if value is not None})


class TransformersBackend:
    """See `actors.backend.Backend`. `complete` raises EngineUnavailable only when the device itself is lost.

    model: folder or hub name. engine: see `Options`.
    """

    def __init__(self, model: str, engine: Mapping[str, Any] | None = None, trusted: Collection[str] = ()) -> None:
        options = check_engine(engine or {}, trusted)
        self._torch, transformers = _import_engine()
        check_model_path(model)
        adapter = check_adapter(options.lora, model) if options.lora else None
        if adapter is not None:
            _require_peft()
        self.model = model
        try:
            self._device = _device(self._torch, options.device)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                model, revision=options.revision, trust_remote_code=options.trust_remote_code
            )
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                model,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                attn_implementation=options.attn_implementation,
                dtype=_dtype(self._torch, options.dtype, self._device),
            )
            if adapter is not None:
                self._model.load_adapter(str(adapter.folder))
            self._model.to(self._device).eval()
        except Exception as error:  # whatever a loader raises, the user needs the model's name and one line
            raise not_loaded("transformers", model, error) from error
        config = self._model.config
        self._context = min(_context(config, self._tokenizer), options.max_model_len or UNBOUNDED)
        self._prompter = Prompter(self._tokenizer, model, self._context, options.chat_template)
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
        jobs: list[Job] = []
        rows: dict[int, list[Row]] = {}
        for index, prepared in enumerate(await run(self._thread, self._prepared, requests, stop)):
            if isinstance(prepared, Job):
                jobs.append(replace(prepared, index=index))
            elif isinstance(prepared, list):
                rows[index] = [replace(row, index=index) for row in prepared]
            else:
                results[index] = prepared
        for batch in self._batches(jobs):
            if stop.is_set():
                break
            answers = await run(self._thread, self._answered, batch)
            for job, answer in zip(batch, answers, strict=True):
                results[job.index] = answer
        found: dict[int, Completion] = {}
        for scored in self._in_batches([row for each in rows.values() for row in each]):
            if stop.is_set():
                break
            values = await run(self._thread, self._scored, scored)
            found.update({id(row): value for row, value in zip(scored, values, strict=True)})
        for index, own in rows.items():
            parts = [found[id(row)] for row in own if id(row) in found]
            if len(parts) == len(own):
                results[index] = self._joined(requests[index], own, parts)
        return results

    def _joined(self, request: ChatRequest, rows: Sequence[Row], parts: Sequence[Completion]) -> Completion:
        """The completion of a request from those of its continuations, each with its own log likelihood."""
        wrong = next((part for part in parts if part.error is not None), None)
        if wrong is not None:
            return wrong
        logprobs = [sum(part.log_likelihoods or ()) for part in parts]
        latency_ms = sum(part.latency_ms or 0.0 for part in parts)
        completion = likelihood_of(self.model, request, [row.continued for row in rows], logprobs)
        return replace(completion, latency_ms=latency_ms, executed_at=parts[-1].executed_at)

    async def aclose(self) -> None:
        """Wait for the batch under way and give the model's memory back."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self.__dict__.pop("_model", None)
        self._free()

    # What follows runs in the engine's thread.

    def _prepared(
        self, requests: Sequence[ChatRequest], stop: asyncio.Event
    ) -> list[Job | list[Row] | Completion | None]:
        return [None if stop.is_set() else self._job(request) for request in requests]

    def _job(self, request: ChatRequest) -> Job | list[Row] | Completion:
        if request.continuations:
            continued = self._prompter.continued(request)
            return continued if isinstance(continued, Completion) else [Row(0, each) for each in continued]
        try:
            sampling = sampling_from(request.sampling, self._defaults)
        except InvalidInput as error:
            return failed(self.model, "bad_request", error.message)
        tokens = self._prompter.prompt(request)
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
            yield from self._in_batches(group)

    def _in_batches(self, units: Sequence[Unit]) -> Iterator[list[Unit]]:
        ordered = sorted(units, key=lambda unit: len(unit.tokens), reverse=True)
        start = 0
        while start < len(ordered):
            size = min(self._batch_size, max(1, self._most_tokens // _tokens_of(ordered[start])))
            yield ordered[start : start + size]
            start += size

    def _answered(self, batch: Sequence[Job]) -> list[Completion]:
        return self._in_halves(batch, self._completions)

    def _scored(self, batch: Sequence[Row]) -> list[Completion]:
        return self._in_halves(batch, self._likelihoods)

    def _in_halves(self, batch: Sequence[Unit], work: Callable[[Sequence[Unit]], list[Completion]]) -> list[Completion]:
        """The batch's completions; if it fails its halves are tried, so that only the culprit fails."""
        started = time.perf_counter()
        try:
            completions = work(batch)
        except Exception as error:
            self._prove_alive(error)
            if len(batch) == 1:
                return [engine_failed(self.model, error)]
            if is_out_of_memory(error):
                self._most_tokens = min(self._most_tokens, max(map(_tokens_of, batch)) * len(batch) // 2)
        else:
            latency_ms, now = (time.perf_counter() - started) * 1000.0, datetime.now(UTC)
            return [replace(completion, latency_ms=latency_ms, executed_at=now) for completion in completions]
        self._free()  # not sooner: the error holds the frames of `generate`, and they the memory of the whole batch
        middle: int = len(batch) // 2
        return [*self._in_halves(batch[:middle], work), *self._in_halves(batch[middle:], work)]

    def _completions(self, batch: Sequence[Job]) -> list[Completion]:
        rows, stopped = self._generate(batch)
        return [self._completion(job, row, at) for job, row, at in zip(batch, rows, stopped, strict=True)]

    def _likelihoods(self, batch: Sequence[Row]) -> list[Completion]:
        values = log_likelihoods(self._torch, self._model, batch, self._pad, self._device)
        return [Completion(model=self.model, log_likelihoods=(value,)) for value in values]

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


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise EngineUnavailable(f"engine.lora needs peft, which is not installed: {HINT}")


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


def _tokens_of(unit: Job | Row) -> int:
    """The most tokens that a row's place in memory is needed for."""
    return len(unit.tokens) + (unit.limit if isinstance(unit, Job) else 0)


def _as_list(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)

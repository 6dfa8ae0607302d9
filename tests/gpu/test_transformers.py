"""The transformers engine on a CUDA device: the demo's checkpoints, real kernels, real lack of memory."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster.demo
from actors.engines.transformers import TransformersBackend
from cluster.demo.arithmetic import held_out_problems
from evalservice.errors import EngineUnavailable
from evalservice.records import ChatRequest, Completion

ROOT = Path(__file__).parents[2]
LATE = str(Path(cluster.demo.__path__[0]) / "checkpoints/arithmetic-late")
CASES = held_out_problems(400)
MEGABYTE = 2**20


def has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_cuda(), reason="no CUDA device, or torch is not installed")]


@pytest.fixture(scope="module")
def backend() -> Iterator[TransformersBackend]:
    made = TransformersBackend(LATE)
    yield made
    asyncio.run(made.aclose())


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """Call it to leave the process so many megabytes beyond what its tensors take."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory

    def leave(megabytes: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + megabytes * MEGABYTE) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


def ask(question: str, **sampling: Any) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": question},), {"temperature": 0, **sampling})


def answers(backend: TransformersBackend, requests: list[ChatRequest]) -> list[Completion]:
    found = asyncio.run(backend.complete(requests, asyncio.Event()))
    assert all(completion is not None for completion in found)
    return [completion for completion in found if completion is not None]


def generated(backend: TransformersBackend, questions: list[str], max_tokens: int) -> list[str]:
    """What `generate` itself makes of the questions in one batch, on the same weights."""
    import torch

    tokenizer, model = backend._tokenizer, backend._model
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            input_ids=batch["input_ids"].cuda(),
            attention_mask=batch["attention_mask"].cuda(),
            do_sample=False,
            max_new_tokens=max_tokens,
        )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in output[:, batch["input_ids"].shape[1] :]]


def test_by_default_the_device_is_cuda_and_the_type_the_checkpoints_own(backend: TransformersBackend) -> None:
    import torch

    assert backend._device == "cuda"
    assert {parameter.device.type for parameter in backend._model.parameters()} == {"cuda"}
    assert {parameter.dtype for parameter in backend._model.parameters()} == {torch.bfloat16}


def test_greedy_answers_are_those_of_generate(backend: TransformersBackend) -> None:
    questions = [case["input"] for case in CASES[:32]]
    ours = answers(backend, [ask(question, max_tokens=16) for question in questions])
    assert [completion.text for completion in ours] == generated(backend, questions, 16)


def test_the_better_checkpoint_answers_held_out_problems(backend: TransformersBackend) -> None:
    completions = answers(backend, [ask(case["input"], max_tokens=16) for case in CASES])
    right = sum(c.text == case["expected_output"] for c, case in zip(completions, CASES, strict=True))
    assert right / len(CASES) >= 0.95


def test_a_seed_gives_the_same_sample_in_any_batch_and_on_the_cpu() -> None:
    requests = [ask(CASES[i]["input"], temperature=1.5, top_p=0.95, max_tokens=16, seed=i) for i in range(48)]
    texts = {}
    for device, batch_size in (("cuda", 48), ("cuda", 5), ("cpu", 48)):
        backend = TransformersBackend(LATE, {"device": device, "dtype": "float32", "batch_size": batch_size})
        texts[device, batch_size] = [completion.text for completion in answers(backend, requests)]
        asyncio.run(backend.aclose())
    together, apart, cpu = texts.values()
    assert len(set(together)) > 10
    assert sum(a == b for a, b in zip(together, apart, strict=True)) >= 47
    assert sum(a == b for a, b in zip(together, cpu, strict=True)) >= 46


def test_a_batch_that_does_not_fit_is_answered_in_smaller_ones(little_memory: Any) -> None:
    backend = TransformersBackend(LATE, {"batch_size": 2048})
    requests = [ask(CASES[i % len(CASES)]["input"], max_tokens=64, min_tokens=64) for i in range(4096)]
    little_memory(192)
    sizes: list[int] = []
    generate = backend._generate

    def counted(batch: Any) -> Any:
        sizes.append(len(batch))
        return generate(batch)

    backend._generate = counted  # type: ignore[method-assign]
    completions = answers(backend, requests)
    asyncio.run(backend.aclose())
    assert [completion.error for completion in completions] == [None] * 4096
    assert {completion.output_tokens for completion in completions} == {64}
    assert sizes[0] == 2048
    assert max(sizes[-2:]) < 2048


def test_a_prompt_that_has_no_room_at_all_is_a_retryable_error(little_memory: Any) -> None:
    import torch

    backend = TransformersBackend(LATE)
    little_memory(0)
    held = []
    for size in (MEGABYTE, 2**14, 2**9):
        with contextlib.suppress(torch.OutOfMemoryError):
            while True:
                held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    completions = answers(backend, [ask("What is 23 + 45?"), ask("What is 54 + 32?")])
    held.clear()
    afterwards = answers(backend, [ask("What is 23 + 45?")])
    asyncio.run(backend.aclose())
    errors = [completion.error for completion in completions if completion.error is not None]
    assert [(error.kind, error.retryable) for error in errors] == [("engine_error", True)] * 2
    assert "out of memory" in errors[0].message
    assert afterwards[0].text == "68"


def test_a_model_that_does_not_fit_says_so_in_one_line(little_memory: Any) -> None:
    little_memory(0)
    with pytest.raises(EngineUnavailable, match="the device is too small for this model") as raised:
        TransformersBackend(LATE)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("device", ["cuda:99", "coda"])
def test_a_device_that_is_not_there_is_one_clear_line(device: str) -> None:
    with pytest.raises(EngineUnavailable, match="transformers cannot load model") as raised:
        TransformersBackend(LATE, {"device": device})
    assert "\n" not in raised.value.message


LOST_DEVICE = """
import asyncio, sys
from actors.engines import transformers
from evalservice.errors import EngineUnavailable
from evalservice.records import ChatRequest

backend = transformers.TransformersBackend(sys.argv[1])
transformers.Prompter.prompt = lambda *_: [10**6]  # no such token: an assertion in a kernel, and the context is gone
request = ChatRequest(({"role": "user", "content": "hi"},), {"max_tokens": 4})
try:
    asyncio.run(backend.complete([request] * 8, asyncio.Event()))
except EngineUnavailable as error:
    print("EngineUnavailable:", error.message)
"""


def test_a_device_that_is_lost_blames_no_prompt() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST_DEVICE, LATE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.startswith("EngineUnavailable: the engine of model"), done.stderr[-2000:]
    assert "CUDA error" in done.stdout

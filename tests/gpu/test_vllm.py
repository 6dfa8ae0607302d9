"""The vLLM engine on a CUDA device, on the demo's checkpoint."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator

import pytest

from actors.engines.vllm import VllmBackend
from evalservice.records import ChatRequest
from tests.gpu.test_transformers import CASES, LATE, ask, has_cuda

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not has_cuda(), reason="no CUDA device, or torch is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]


@pytest.fixture(scope="module")
def backend() -> Iterator[VllmBackend]:
    made = VllmBackend(LATE, {"enforce_eager": True, "gpu_memory_utilization": 0.3})
    yield made
    asyncio.run(made.aclose())


def texts(backend: VllmBackend, requests: list[ChatRequest]) -> list[str]:
    found = asyncio.run(backend.complete(requests, asyncio.Event()))
    assert [completion.error for completion in found if completion] == [None] * len(requests)
    return [completion.text for completion in found if completion]


def test_the_better_checkpoint_answers_held_out_problems(backend: VllmBackend) -> None:
    found = texts(backend, [ask(case["input"], max_tokens=16) for case in CASES])
    right = sum(text == case["expected_output"] for text, case in zip(found, CASES, strict=True))
    assert right / len(CASES) >= 0.95


def test_a_seed_gives_the_same_sample_in_any_batch(backend: VllmBackend) -> None:
    requests = [ask(CASES[i]["input"], temperature=1.5, top_p=0.95, max_tokens=16, seed=i) for i in range(24)]
    alone = [texts(backend, [request])[0] for request in requests]
    assert sum(a == b for a, b in zip(texts(backend, requests), alone, strict=True)) >= 22

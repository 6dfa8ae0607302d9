"""Likelihoods of continuations: both engines against a direct computation with transformers, on the demo's model."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from evalservice.records import ChatRequest
from tests.engines import LATE, Engines, answers, has, needs_vllm

pytestmark = pytest.mark.skipif(not (has("torch") and has("transformers")), reason="torch is not installed")
CASES = [
    ("What is 23 + 45?", ("68", "69", "7", "168", "about 70"), "chat"),
    ("What is 23 + 45?", ("6", "7", "8", "9"), "chat"),  # single tokens
    ("1 + 1 =", (" 2", " 3", " 22"), "plain"),
    ("Is 7 prime? ", ("yes", "no"), "plain"),  # the blank belongs to the continuation
    ("23 + 45 = 68. " * 12, (" So it is.", " 68", " 23 + 45 = 68. 23 + 45"), "plain"),  # more than a block is cached
]


def request(case: tuple[str, tuple[str, ...], Any]) -> ChatRequest:
    prompt, continuations, form = case
    return ChatRequest(({"role": "user", "content": prompt},), continuations=continuations, prompt=form)


@functools.cache
def reference() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LATE, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(LATE), model


def directly(case: tuple[str, tuple[str, ...], Any], adapted: Any = None) -> list[float]:
    """Log likelihoods one by one: prompt and continuation encoded together, split where the bare prompt ends."""
    import torch

    tokenizer, model = reference()
    model = adapted or model
    prompt, continuations, form = case
    if form == "chat":
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    start = len(tokenizer.encode(prompt.rstrip()))
    found = []
    for continuation in continuations:
        tokens = tokenizer.encode(prompt + continuation)
        with torch.inference_mode():
            logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        found.append(sum(logprobs[i - 1, tokens[i]].item() for i in range(start, len(tokens))))
    return found


def test_likelihoods_agree_with_a_direct_computation_also_when_the_prompt_is_cached(backend: Any) -> None:
    for _ in range(2):
        for case, completion in zip(CASES, answers(backend, [request(case) for case in CASES]), strict=True):
            assert completion.error is None
            assert completion.log_likelihoods == pytest.approx(directly(case), abs=1e-3)
            assert (
                completion.text == case[1][max(range(len(case[1])), key=completion.log_likelihoods.__getitem__)].strip()
            )
            assert completion.output_tokens == 0


def test_a_likelihood_is_the_same_alone_and_among_others(backend: Any) -> None:
    together = answers(backend, [request(case) for case in CASES])
    alone = [answers(backend, [request(case)])[0] for case in CASES]
    for one, other in zip(together, alone, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_what_has_no_likelihood_is_that_items_error_only(backend: Any) -> None:
    long, empty, fine = answers(
        backend,
        [request(("x" * 300, (" 1", " 2"), "plain")), request((" ", ("1",), "plain")), request(CASES[0])],
    )
    assert long.error is not None
    assert (long.error.kind, long.error.retryable) == ("context_length", False)
    assert empty.error is not None
    assert "the prompt is empty" in empty.error.message
    assert fine.error is None


@pytest.mark.vllm
@needs_vllm[1]
def test_the_cached_part_of_a_long_prompt_is_not_computed_again(engines: Engines) -> None:
    backend = engines.get("vllm")
    read: list[int] = []
    step = backend._engine.step

    def counted() -> Any:
        outputs = step()
        read.extend(output.num_cached_tokens for output in outputs)
        return outputs

    prompt = "8 + 9 = 17. " * 14
    backend._engine.step = counted
    try:
        answers(backend, [request((prompt, (" 1 + 2", " 3 + 4"), "plain"))])
        answers(backend, [request((prompt, (" 5 + 6", " 7 + 8"), "plain"))])
    finally:
        backend._engine.step = step
    assert read[-2:] == [128, 128]

"""The key of a stored completion: the same for the same request, another for anything that is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.cache import StoredCompletion, cache_key
from actors.plan import RunPlan
from evalservice.records import ChatRequest

PLAN = RunPlan(
    run_id="r",
    title="m × b",
    snapshot_uri="",
    criteria={},
    platform="openai",
    model_id="gpt",
    concurrency=4,
    base_url="https://api.openai.com/v1",
    model_version="1.0.0",
    cache="all",
)
REQUEST = ChatRequest(({"role": "user", "content": "2+2?"},), {"temperature": 0, "max_tokens": 5, "seed": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"platform": "anthropic"},
        {"model_id": "gpt-2"},
        {"base_url": "http://localhost:8000/v1"},
        {"model_version": "1.0.1"},
        {"config": {"engine": {"dtype": "bfloat16"}}},
    ],
    ids=str,
)
def test_another_model_has_other_keys(change: dict[str, Any]) -> None:
    assert cache_key(replace(PLAN, **change), REQUEST, 0) != cache_key(PLAN, REQUEST, 0)


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(({"role": "user", "content": "2+2? "},), REQUEST.sampling),
        ChatRequest(({"role": "system", "content": "2+2?"},), REQUEST.sampling),
        ChatRequest((*REQUEST.messages, *REQUEST.messages), REQUEST.sampling),
        *(
            ChatRequest(REQUEST.messages, {**REQUEST.sampling, **sampling})
            for sampling in ({"max_tokens": 6}, {"seed": 2}, {"stop": ["x"]}, {"extra_body": {"user": "u"}})
        ),
    ],
    ids=str,
)
def test_another_request_has_another_key(request_: ChatRequest) -> None:
    assert cache_key(PLAN, request_, 0) != cache_key(PLAN, REQUEST, 0)


def test_what_does_not_change_the_completion_does_not_change_the_key() -> None:
    other = replace(PLAN, run_id="another", title="", concurrency=9, criteria={"scorers": ["bleu"]}, total=7)
    assert cache_key(other, REQUEST, 0) == cache_key(PLAN, REQUEST, 0)
    reordered = ChatRequest(REQUEST.messages, dict(reversed(REQUEST.sampling.items())))
    assert cache_key(PLAN, reordered, 0) == cache_key(PLAN, REQUEST, 0)
    assert cache_key(PLAN, REQUEST, 1) != cache_key(PLAN, REQUEST, 0), "a repeat is a completion of its own"


def test_only_what_chance_does_not_decide_is_used_again_unless_all_is() -> None:
    sampled = ChatRequest(REQUEST.messages, {"temperature": 0.7})
    unsaid = ChatRequest(REQUEST.messages, {})
    careful = replace(PLAN, cache="deterministic")
    assert cache_key(careful, REQUEST, 0) is not None
    assert cache_key(careful, sampled, 0) is cache_key(careful, unsaid, 0) is None
    assert None not in (cache_key(PLAN, sampled, 0), cache_key(PLAN, unsaid, 0))
    assert cache_key(replace(PLAN, cache="off"), REQUEST, 0) is None


def test_a_completion_that_is_used_again_costs_nothing_and_says_whose_it_is() -> None:
    completion = StoredCompletion("run-1", "4", {"finish_reason": "stop", "model": "gpt-1", "attempts": 3}).completion()
    assert (completion.text, completion.finish_reason, completion.model) == ("4", "stop", "gpt-1")
    assert (completion.cost, completion.cached_from) == (0, "run-1")
    assert completion.latency_ms is completion.input_tokens is completion.output_tokens is None

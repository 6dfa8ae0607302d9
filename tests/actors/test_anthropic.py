"""The Anthropic Messages wire format, through a real server with the bodies that the vendor documents."""

from __future__ import annotations

import time
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from pyreqwest.http import HeaderMap

from actors.providers.anthropic import DEFAULT_MAX_TOKENS, AnthropicMessages
from actors.providers.limits import RateLimits
from evalservice.errors import InvalidInput
from evalservice.pricing import Price
from evalservice.records import ChatRequest, Completion
from tests.actors.vendor import CALLED, PNG, QUICK, TALK, WEATHER, any_json, ask, failure, messages_of_any_shape
from tests.provider import RunningProvider

WIRE = AnthropicMessages()
PRICE = Price(Decimal(3), Decimal(15))


def answer(provider: RunningProvider, prompt: Any, sampling: Any = None, **values: Any) -> Completion:
    return ask(WIRE, provider.root, prompt, sampling, **values)


def test_a_question_is_answered_with_usage_and_provenance(provider: RunningProvider) -> None:
    completion = answer(provider, "What is 17 + 25?", api_key=SecretStr("k-1"), price=PRICE)
    assert (completion.text, completion.finish_reason, completion.error) == ("17 + 25 = 42", "stop", None)
    assert (completion.input_tokens, completion.output_tokens, completion.model) == (5, 5, "m-20260101")
    assert completion.cost == Decimal("0.00009")
    sent = provider.last()
    assert sent["path"] == "/v1/messages"
    assert (sent["headers"]["x-api-key"], sent["headers"]["anthropic-version"]) == ("k-1", "2023-06-01")
    assert sent["body"] == {
        "model": "m",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is 17 + 25?"}]}],
    }


@pytest.mark.parametrize("base", ["http://h", "http://h/", "http://h/v1", "http://h/v1/"])
def test_a_base_url_may_end_in_the_version(base: str) -> None:
    assert WIRE.url(base, "m") == "http://h/v1/messages"


def test_a_conversation_becomes_a_system_prompt_and_alternating_turns_of_blocks(provider: RunningProvider) -> None:
    assert answer(provider, TALK).error is None
    body = provider.last()["body"]
    assert body["system"] == "Be brief.\n\nIn English."
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
                {"type": "text", "text": "And this?"},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png?size=1"}},
            ],
        },
    ]


def test_sampling_parameters_have_the_vendors_names(provider: RunningProvider) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    sampling = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_completion_tokens": 64,
        "stop": "\n\n",
        "seed": 7,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "extra_body": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "high"}},
    }
    assert answer(provider, "What is 1 + 1?", sampling).error is None
    body = {key: value for key, value in provider.last()["body"].items() if key not in ("model", "messages")}
    assert body == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 64,
        "stop_sequences": ["\n\n"],
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": schema}},
        "tools": [
            {
                "name": "weather",
                "description": "The weather of a city",
                "input_schema": WEATHER["function"]["parameters"],
            }
        ],
        "tool_choice": {"type": "tool", "name": "weather"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"seed": 7}, "config.seed: 7 is not valid: platform 'anthropic' has no such parameter"),
        ({"presence_penalty": 1.0}, "config.presence_penalty"),
        ({"logit_bias": {"1": 1.0}}, "config.logit_bias"),
        ({"logprobs": True}, "config.logprobs"),
        ({"temperature": 1.2}, "config.temperature: 1.2 is not valid: platform 'anthropic' takes 0 to 1"),
        ({"top_k": -1}, "config.top_k: -1 is not valid: platform 'anthropic' takes 1 or more"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "either max_tokens or max_completion_tokens"),
        ({"reasoning_effort": "enormous"}, "low, medium, high"),
        ({"response_format": {"type": "json_object"}}, "takes text and json_schema"),
        ({"extra_body": {"stream": True}}, "config.extra_body.stream"),
    ],
)
def test_a_parameter_that_the_vendor_does_not_have_is_refused_by_name(sampling: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        WIRE.check(sampling)
    assert says in refused.value.message


def test_thinking_is_no_part_of_the_answer(provider: RunningProvider) -> None:
    assert answer(provider, "<<thinking>>").text == "The answer is 4"
    spent = answer(provider, "<<all_thinking>>")
    assert (spent.text, spent.finish_reason, spent.error) == ("", "length", None)


def test_a_tool_call_is_the_answer_as_canonical_json(provider: RunningProvider) -> None:
    completion = answer(provider, "<<calls_tool>>", {"tools": [WEATHER]})
    assert (completion.text, completion.finish_reason, completion.error) == (CALLED, "tool_calls", None)


def test_all_of_the_prompt_is_counted_and_what_a_cache_costs_is_never_underestimated(provider: RunningProvider) -> None:
    completion = answer(provider, "<<cached>>", price=PRICE)
    assert completion.input_tokens == 50 + 100_000 + 248
    assert (completion.cached_input_tokens, completion.cache_write_tokens) == (100_000, 248)
    assert (completion.output_tokens, completion.reasoning_tokens) == (503, 400)
    documented = (50 + Decimal("0.1") * 100_000 + 2 * 248) * 3 + 503 * 15
    assert completion.cost is not None
    assert completion.cost * 1_000_000 >= documented


def test_a_refusal_is_an_answer_that_says_so(provider: RunningProvider) -> None:
    completion = answer(provider, "<<refusal>>")
    assert (completion.refused, completion.finish_reason, completion.error) == (True, "refusal", None)


@pytest.mark.parametrize(
    ("fault", "text", "finish_reason"),
    [("length", "The answer is 4", "length"), ("full_context", "The", "model_context_window_exceeded")],
)
def test_a_truncated_answer_is_an_answer(provider: RunningProvider, fault: str, text: str, finish_reason: str) -> None:
    completion = answer(provider, f"<<{fault}>>")
    assert (completion.text, completion.finish_reason, completion.error) == (text, finish_reason, None)


@pytest.mark.parametrize("fault", ["overloaded", "error_200", "rate_limited", "html_500", "reset", "empty_choices"])
def test_what_passes_is_asked_again_until_it_has_passed(provider: RunningProvider, fault: str) -> None:
    completion = answer(provider, f"What is 2 + 2? <<{fault}*2>>")
    assert (completion.text, completion.error, completion.attempts) == ("2 + 2 = 4", None, 3)


@pytest.mark.parametrize(
    ("fault", "kind", "retryable", "sent"),
    [
        ("overloaded", "server_error", True, QUICK.attempts),
        ("rate_limited", "rate_limited", True, QUICK.attempts),
        ("null_content", "empty_response", True, QUICK.attempts),
        ("no_choices", "malformed_response", True, QUICK.attempts),
        ("paused", "empty_response", False, 1),
        ("context_length", "context_length", False, 1),
        ("too_large", "bad_request", False, 1),
        ("unprocessable", "bad_request", False, 1),
        ("content_filter_400", "content_filter", False, 1),
        ("unauthorized", "authentication", True, 1),
        ("forbidden", "authentication", True, 1),
        ("no_quota", "authentication", True, 1),
        ("billing", "authentication", True, 1),
        ("unknown_model", "not_found", True, 1),
    ],
)
def test_a_failure_has_its_kind(provider: RunningProvider, fault: str, kind: str, retryable: bool, sent: int) -> None:
    assert failure(answer(provider, f"<<{fault}>>")) == (kind, retryable)
    assert provider.sent("m") == {f"<<{fault}>>": sent}


def test_retry_after_is_honoured(provider: RunningProvider) -> None:
    provider.control(retry_after=0.3)
    started = time.monotonic()
    assert answer(provider, "What is 2 + 2? <<rate_limited_seconds*1>>").error is None
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({"role": "judge", "content": "x"}, "messages[0].role: 'judge'"),
        ({"role": "system", "content": "x"}, "at least one message of the user"),
        ({"role": "tool", "tool_call_id": "c", "content": "x"}, "messages[0].tool_call_id: 'c'"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "messages[0].tool_calls[0]"),
        ({"role": "user", "content": 7}, "messages[0].content: 7"),
    ],
)
def test_messages_that_do_not_fit_are_the_items_own_error(provider: RunningProvider, message: Any, says: str) -> None:
    completion = answer(provider, [message])
    assert failure(completion) == ("bad_request", False)
    assert says in (completion.error.message if completion.error else "")
    assert provider.stats()["requests"] == 0


@pytest.mark.parametrize("fault", ["without_usage", "absurd_usage"])
def test_usage_that_cannot_be_believed_is_unknown_not_zero(provider: RunningProvider, fault: str) -> None:
    completion = answer(provider, f"<<{fault}>>", price=PRICE)
    assert (completion.text, completion.input_tokens, completion.output_tokens) == ("4", None, None)


def test_rate_limits_are_read_from_the_headers() -> None:
    headers = {
        "Date": "Wed, 15 Jan 2025 14:23:00 GMT",
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "3201",
        "anthropic-ratelimit-requests-reset": "2025-01-15T14:24:00Z",
        "anthropic-ratelimit-tokens-limit": "400000",
        "anthropic-ratelimit-tokens-remaining": "312000",
        "anthropic-ratelimit-tokens-reset": "2025-01-15T14:23:15Z",
    }
    expected = RateLimits(4000, 3201, 60.0, 400_000, 312_000, 15.0)
    assert WIRE.limits(HeaderMap(headers)) == WIRE.limits(headers) == expected
    assert WIRE.limits({"anthropic-ratelimit-tokens-limit": "many", "anthropic-ratelimit-tokens-reset": "soon"}) == (
        RateLimits()
    )


JSON = any_json(
    "type", "content", "text", "stop_reason", "usage", "error", "input_tokens", "name", "input", "output_tokens_details"
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "thinking"]) | JSON},
    optional={"text": JSON, "name": JSON, "input": JSON},
)
MESSAGE = st.fixed_dictionaries(
    {"content": st.lists(BLOCK | JSON)}, optional={"stop_reason": JSON, "usage": JSON, "model": JSON, "type": JSON}
)


@given(JSON | MESSAGE)
def test_an_answer_of_any_shape_is_read_without_raising(payload: Any) -> None:
    assert isinstance(WIRE.completion(payload).text, str)


@given(st.integers(100, 599), JSON, st.text(), st.text())
def test_an_error_and_headers_of_any_shape_are_read_without_raising(
    status: int, body: Any, date: str, value: str
) -> None:
    assert WIRE.error(status, body, {}).status_code == status
    names = ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-tokens-reset")
    WIRE.limits({"date": date, **dict.fromkeys(names, value)})


@given(messages_of_any_shape())
def test_messages_of_any_shape_are_written_or_refused(messages: Any) -> None:
    try:
        body = WIRE.body("m", ChatRequest(tuple(messages)))
    except InvalidInput:
        return
    assert all(one["role"] != other["role"] for one, other in pairwise(body["messages"]))

"""The Gemini wire format, through a real server with the bodies that the vendor documents."""

from __future__ import annotations

import time
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from actors.providers.google import GoogleGenerateContent
from actors.providers.limits import RateLimits
from evalservice.errors import InvalidInput
from evalservice.pricing import Price
from evalservice.records import ChatRequest, Completion
from tests.actors.vendor import CALLED, PNG, QUICK, TALK, WEATHER, any_json, ask, failure, messages_of_any_shape
from tests.provider import RunningProvider

WIRE = GoogleGenerateContent()
PRICE = Price(Decimal("0.30"), Decimal("2.50"))


def answer(provider: RunningProvider, prompt: Any, sampling: Any = None, **values: Any) -> Completion:
    return ask(WIRE, provider.google, prompt, sampling, **values)


def test_a_question_is_answered_and_the_key_is_in_a_header_never_in_the_url(provider: RunningProvider) -> None:
    completion = answer(provider, "What is 17 + 25?", api_key=SecretStr("k-1"), price=PRICE)
    assert (completion.text, completion.finish_reason, completion.error) == ("17 + 25 = 42", "stop", None)
    assert (completion.input_tokens, completion.output_tokens, completion.model) == (5, 5, "m-001")
    assert completion.cost == Decimal("0.000014")
    sent = provider.last()
    assert (sent["path"], sent["headers"]["x-goog-api-key"]) == ("/v1beta/models/m:generateContent", "k-1")
    assert sent["body"] == {"contents": [{"role": "user", "parts": [{"text": "What is 17 + 25?"}]}]}


def test_a_model_id_may_be_a_path_of_its_own() -> None:
    assert WIRE.url("http://h/v1beta/", "tunedModels/a b") == "http://h/v1beta/tunedModels/a%20b:generateContent"


def test_a_conversation_becomes_an_instruction_and_alternating_contents(provider: RunningProvider) -> None:
    assert answer(provider, TALK).error is None
    body = provider.last()["body"]
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nIn English."}]}
    assert body["contents"] == [
        {
            "role": "user",
            "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}],
        },
        {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Paris"}}}]},
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"result": "sunny"}}},
                {"text": "And this?"},
                {"fileData": {"fileUri": "https://example.com/cat.png?size=1", "mimeType": "image/png"}},
            ],
        },
    ]


def test_sampling_parameters_have_the_vendors_names(provider: RunningProvider) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    sampling = {
        "temperature": 1.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_tokens": 64,
        "stop": ["a", "b"],
        "seed": 2**40 + 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "tools": [WEATHER],
        "tool_choice": "required",
        "extra_body": {"generation_config": {"thinking_config": {"thinkingBudget": 0}}, "safety_settings": []},
    }
    assert answer(provider, "What is 1 + 1?", sampling).error is None
    body = {key: value for key, value in provider.last()["body"].items() if key != "contents"}
    assert body == {
        "generationConfig": {
            "temperature": 1.5,
            "topP": 0.9,
            "topK": 40,
            "maxOutputTokens": 64,
            "stopSequences": ["a", "b"],
            "seed": 7,
            "presencePenalty": 0.5,
            "frequencyPenalty": 0.25,
            "thinkingConfig": {"thinkingLevel": "low", "thinkingBudget": 0},
            "responseLogprobs": True,
            "logprobs": 3,
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
        },
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "weather",
                        "description": "The weather of a city",
                        "parametersJsonSchema": WEATHER["function"]["parameters"],
                    }
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "safetySettings": [],
    }


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"logit_bias": {"1": 1.0}}, "config.logit_bias: {'1': 1.0} is not valid: platform 'google' has no such"),
        ({"min_p": 0.1}, "config.min_p"),
        ({"repetition_penalty": 1.1}, "config.repetition_penalty"),
        ({"seed": 2**31}, "config.seed"),
        ({"stop": ["a"] * 6}, "up to 5"),
        ({"reasoning_effort": "max"}, "minimal, low, medium, high"),
        ({"top_logprobs": 2}, "logprobs: true"),
        ({"extra_body": {"generation_config": {"candidate_count": 8}}}, "generationConfig.candidateCount: 8"),
        ({"extra_body": {"system_instruction": {}}}, "extra_body.systemInstruction"),
    ],
)
def test_a_parameter_that_the_vendor_does_not_have_is_refused_by_name(sampling: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        WIRE.check(sampling)
    assert says in refused.value.message


def test_thoughts_are_billed_as_output_and_are_no_part_of_the_answer(provider: RunningProvider) -> None:
    assert answer(provider, "<<thinking>>").text == "The answer is 4"
    spent = answer(provider, "<<all_thinking>>")
    assert (spent.text, spent.finish_reason, spent.error) == ("", "length", None)
    completion = answer(provider, "<<cached>>", price=PRICE)
    assert (completion.input_tokens, completion.cached_input_tokens) == (2006, 1024)
    assert (completion.output_tokens, completion.reasoning_tokens) == (364, 64)
    assert completion.cost == (2006 * Decimal("0.30") + 364 * Decimal("2.50")) / 1_000_000


def test_a_tool_call_is_the_answer_as_canonical_json(provider: RunningProvider) -> None:
    completion = answer(provider, "<<calls_tool>>", {"tools": [WEATHER]})
    assert (completion.text, completion.finish_reason, completion.error) == (CALLED, "tool_calls", None)


def test_log_probabilities_are_kept(provider: RunningProvider) -> None:
    completion = answer(provider, "<<logprobs>>", {"logprobs": True, "top_logprobs": 2})
    assert completion.logprobs == (("4", -0.1, (("4", -0.1), ("5", -2.5))),)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("prompt_blocked", "the prompt was blocked: PROHIBITED_CONTENT"),
        ("content_filter", "the answer was blocked: SAFETY"),
        ("recitation", "RECITATION"),
        ("spii", "SPII"),
    ],
)
def test_what_the_vendor_blocks_is_an_error_that_is_not_asked_again(
    provider: RunningProvider, fault: str, says: str
) -> None:
    completion = answer(provider, f"<<{fault}>>")
    assert failure(completion) == ("content_filter", False)
    assert says in (completion.error.message if completion.error else "")
    assert provider.stats()["requests"] == 1


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
        ("malformed_call", "empty_response", False, 1),
        ("context_length", "context_length", False, 1),
        ("unprocessable", "bad_request", False, 1),
        ("unauthorized", "authentication", True, 1),
        ("forbidden", "authentication", True, 1),
        ("no_quota", "authentication", True, 1),
        ("unknown_model", "not_found", True, 1),
        ("quota_hours", "rate_limited", True, 1),
    ],
)
def test_a_failure_has_its_kind(provider: RunningProvider, fault: str, kind: str, retryable: bool, sent: int) -> None:
    assert failure(answer(provider, f"<<{fault}>>")) == (kind, retryable)
    assert provider.sent("m") == {f"<<{fault}>>": sent}


def test_a_delay_in_the_body_of_a_quota_error_is_honoured(provider: RunningProvider) -> None:
    started = time.monotonic()
    assert answer(provider, "What is 2 + 2? <<quota_delay*1>>").error is None
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("fault", ["without_usage", "absurd_usage"])
def test_usage_that_cannot_be_believed_is_unknown_not_zero(provider: RunningProvider, fault: str) -> None:
    completion = answer(provider, f"<<{fault}>>", price=PRICE)
    assert (completion.text, completion.input_tokens, completion.output_tokens) == ("4", None, None)


def test_the_vendor_says_nothing_of_limits_in_headers() -> None:
    assert WIRE.limits({"x-ratelimit-limit-requests": "5"}) == RateLimits()


JSON = any_json(
    "candidates", "content", "parts", "text", "finishReason", "usageMetadata", "error", "code", "details", "@type",
    "retryDelay", "reason", "promptFeedback", "blockReason", "functionCall", "args", "name", "logprobsResult",
)  # fmt: skip
PART = st.fixed_dictionaries({}, optional={"text": JSON, "thought": JSON, "functionCall": JSON})
CANDIDATE = st.fixed_dictionaries(
    {"content": st.fixed_dictionaries({"parts": st.lists(PART | JSON)}) | JSON},
    optional={"finishReason": st.sampled_from(["STOP", "SAFETY", "MAX_TOKENS"]) | JSON, "logprobsResult": JSON},
)
ANSWER = st.fixed_dictionaries(
    {"candidates": st.lists(CANDIDATE | JSON)}, optional={"usageMetadata": JSON, "promptFeedback": JSON}
)


@given(JSON | ANSWER)
def test_an_answer_of_any_shape_is_read_without_raising(payload: Any) -> None:
    assert isinstance(WIRE.completion(payload).text, str)


@given(st.integers(100, 599), JSON)
def test_an_error_of_any_shape_is_read_without_raising(status: int, body: Any) -> None:
    error = WIRE.error(status, body, {})
    assert error.status_code == status
    assert error.retry_after is None or error.retry_after >= 0


@given(messages_of_any_shape())
def test_messages_of_any_shape_are_written_or_refused(messages: Any) -> None:
    try:
        body = WIRE.body("m", ChatRequest(tuple(messages)))
    except InvalidInput:
        return
    assert all(one["role"] != other["role"] for one, other in pairwise(body["contents"]))

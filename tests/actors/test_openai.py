"""The OpenAI chat wire format: requests as they are written, answers and error bodies of the servers that speak it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.providers.limits import RateLimits
from actors.providers.openai import OpenAIChat
from evalservice.errors import InvalidInput
from evalservice.records import ChatRequest, Completion
from tests.actors.vendor import TALK, WEATHER, any_json

WIRE = OpenAIChat()
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def answered(message: Any, finish_reason: Any = "stop", **fields: Any) -> Completion:
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    return WIRE.completion({"model": "gpt-4o-2024-08-06", "choices": [choice], "usage": USAGE, **fields})


def test_a_request_is_posted_to_chat_completions_with_what_was_set_and_nothing_else() -> None:
    request = ChatRequest(({"role": "user", "content": "2+2?"},), {"temperature": 0, "extra_body": {"top_k": 5}})
    assert WIRE.url("http://host/v1/", "m") == "http://host/v1/chat/completions"
    assert WIRE.body("m", request) == {
        "model": "m",
        "messages": [{"role": "user", "content": "2+2?"}],
        "temperature": 0,
        "top_k": 5,
    }


def test_a_key_becomes_a_bearer_token_and_no_key_no_header() -> None:
    assert WIRE.headers("sk-1") == {"Authorization": "Bearer sk-1"}
    assert WIRE.headers(None) == {}


def test_text_usage_and_provenance_are_read() -> None:
    completion = answered({"role": "assistant", "content": "It is 4."}, system_fingerprint="fp_1")
    assert completion == Completion(
        text="It is 4.",
        finish_reason="stop",
        input_tokens=9,
        output_tokens=4,
        model="gpt-4o-2024-08-06",
        system_fingerprint="fp_1",
    )


def test_parts_of_content_are_joined() -> None:
    parts = [{"type": "text", "text": "It is"}, {"type": "image_url"}, {"type": "text", "text": " 4."}]
    assert answered({"content": parts}).text == "It is 4."


def test_a_truncated_answer_is_an_answer_that_says_so() -> None:
    completion = answered({"content": "It is"}, "length")
    assert (completion.text, completion.finish_reason, completion.error) == ("It is", "length", None)


def test_a_budget_spent_on_thinking_is_an_empty_answer_not_a_failure() -> None:
    completion = answered({"content": None, "reasoning_content": "Hmm"}, "length")
    assert (completion.text, completion.error) == ("", None)


def test_a_refusal_is_the_answer() -> None:
    completion = answered({"content": None, "refusal": "I can't help with that."})
    assert (completion.text, completion.refused, completion.error) == ("I can't help with that.", True, None)


@pytest.mark.parametrize(
    ("message", "finish_reason", "kind", "retryable"),
    [
        ({"content": None}, "content_filter", "content_filter", False),
        ({"content": None, "tool_calls": [{"id": "c"}]}, "tool_calls", "empty_response", False),
        ({"content": None}, "stop", "empty_response", True),
        ({"content": []}, "stop", "empty_response", True),
        ({}, None, "empty_response", True),
        ("4", "stop", "malformed_response", True),
        (None, "stop", "malformed_response", True),
    ],
)
def test_an_answer_without_text_is_an_error_of_its_kind(
    message: Any, finish_reason: Any, kind: str, retryable: bool
) -> None:
    error = answered(message, finish_reason).error
    assert error is not None
    assert (error.kind, error.retryable) == (kind, retryable)


@pytest.mark.parametrize(
    "payload", [None, 4, "4", [], {}, {"choices": None}, {"choices": {}}, {"choices": [4]}, {"choices": [None]}]
)
def test_any_other_shape_is_a_malformed_response_and_never_raises(payload: Any) -> None:
    error = WIRE.completion(payload).error
    assert error is not None
    assert error.kind == "malformed_response"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"prompt_tokens": "9", "completion_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": 2**31 - 1, "completion_tokens": 10**30},
    ],
)
def test_usage_that_cannot_be_believed_is_unknown_not_zero(usage: Any) -> None:
    completion = answered({"content": "4"}, usage=usage)
    assert (completion.text, completion.input_tokens, completion.output_tokens) == ("4", None, None)


OPENAI = {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}}
VLLM = {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400}
NEW_VLLM = {"error": {"message": "This model's maximum context length is 512 tokens.", "code": 400}}
OLLAMA = {"error": 'model "llama9" not found, try pulling it first'}


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (400, OPENAI, "context_length", False),
        (400, VLLM, "context_length", False),
        (400, NEW_VLLM, "context_length", False),
        (400, {"error": {"message": "blocked", "code": "content_policy_violation"}}, "content_filter", False),
        (400, {"error": {"message": "blocked", "code": "content_filter"}}, "content_filter", False),
        (400, None, "bad_request", False),
        (413, None, "bad_request", False),
        (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, "bad_request", False),
        (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, "authentication", True),
        (403, None, "authentication", True),
        (404, OLLAMA, "not_found", True),
        (408, None, "server_error", True),
        (409, None, "server_error", True),
        (425, None, "server_error", True),
        (429, {"error": {"message": "slow down"}}, "rate_limited", True),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "authentication", True),
        (500, None, "server_error", True),
        (529, ["overloaded"], "server_error", True),
    ],
)
def test_an_error_body_becomes_the_right_kind(status: int, body: Any, kind: str, retryable: bool) -> None:
    error = WIRE.error(status, body, {})
    assert (error.kind, error.retryable, error.status_code) == (kind, retryable, status)
    assert error.message.startswith(f"HTTP {status}")


def test_the_servers_own_words_are_in_the_message_and_bounded() -> None:
    assert WIRE.error(404, OLLAMA, {}).message == f"HTTP 404: {OLLAMA['error']}"
    assert len(WIRE.error(400, {"error": {"message": "x" * 10_000}}, {}).message) <= 500


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "upstream failed", "code": 502}, "server_error"),
        ({"message": "slow down", "code": "429"}, "rate_limited"),
        ({"message": "no key", "code": 401}, "authentication"),
        ("it broke", "server_error"),
    ],
)
def test_an_error_body_under_status_200_is_an_error(error: Any, kind: str) -> None:
    found = WIRE.completion({"error": error}).error
    assert found is not None
    assert found.kind == kind


def test_an_answer_that_is_a_tool_call_is_canonical_json() -> None:
    functions = [{"name": "weather", "arguments": '{"unit": "C", "city": "Paris"}'}, {"name": "now", "arguments": ""}]
    calls = [{"id": "c", "type": "function", "function": function} for function in functions]
    text = '[{"arguments":{"city":"Paris","unit":"C"},"name":"weather"},{"arguments":{},"name":"now"}]'
    assert answered({"content": None, "tool_calls": calls}, "tool_calls").text == text
    assert answered({"content": "Let me look.", "tool_calls": calls}, "tool_calls").text == text
    assert answered({"content": "It is sunny.", "tool_calls": calls}, "stop").text == "It is sunny."


def test_arguments_that_are_no_json_are_kept_as_they_came() -> None:
    call = {"function": {"name": "f", "arguments": '{"n": NaN'}}
    assert answered({"content": None, "tool_calls": [call]}).text == '[{"arguments":"{\\"n\\": NaN","name":"f"}]'


def test_reasoning_and_cached_tokens_are_told_apart() -> None:
    usage = {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 64},
    }
    completion = answered({"content": "4"}, usage=usage)
    assert (completion.input_tokens, completion.cached_input_tokens) == (2006, 1920)
    assert (completion.output_tokens, completion.reasoning_tokens) == (300, 64)
    assert answered({"content": "4"}).reasoning_tokens is None


def test_log_probabilities_are_kept_for_the_first_tokens() -> None:
    tops = [{"token": "4", "logprob": -0.1234567}, {"token": "5", "logprob": -2.5}, {"token": "6"}]
    token = {"token": "4", "logprob": -0.1234567, "bytes": [52], "top_logprobs": tops}
    choice = {"message": {"content": "4"}, "finish_reason": "stop", "logprobs": {"content": [token] * 3000}}
    kept = WIRE.completion({"choices": [choice]}).logprobs
    assert kept is not None
    assert (len(kept), kept[0]) == (1024, ("4", -0.123457, (("4", -0.123457), ("5", -2.5))))


def test_parts_and_tools_are_sent_as_they_are() -> None:
    body = WIRE.body("m", ChatRequest(tuple(TALK), {"tools": [WEATHER], "tool_choice": "auto"}))
    assert (body["messages"], body["tools"], body["tool_choice"]) == (TALK, [WEATHER], "auto")


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"top_logprobs": 2}, "config.top_logprobs: 2 is not valid: it needs logprobs: true"),
        ({"extra_body": {"n": 8}}, "config.extra_body.n: 8"),
    ],
)
def test_what_no_server_could_take_is_refused(sampling: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        WIRE.check(sampling)
    assert says in refused.value.message


def test_rate_limits_are_read_from_the_headers() -> None:
    headers = {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-tokens": "159976",
        "x-ratelimit-reset-tokens": "6m0.5s",
    }
    assert WIRE.limits(headers) == RateLimits(5000, 4999, 0.012, 160_000, 159_976, 360.5)
    unknown = {
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-reset-tokens": "-5s",
        "x-ratelimit-limit-requests": "9" * 99,
    }
    assert WIRE.limits(unknown) == RateLimits()


JSON = any_json(
    "choices", "message", "content", "finish_reason", "usage", "error", "code", "type", "text", "tool_calls",
    "function", "name", "arguments", "logprobs", "token", "logprob", "prompt_tokens_details",
)  # fmt: skip
CHOICE = st.fixed_dictionaries({"message": JSON}, optional={"finish_reason": JSON, "logprobs": JSON})


@given(JSON | st.fixed_dictionaries({"choices": st.lists(CHOICE | JSON)}, optional={"usage": JSON, "error": JSON}))
def test_an_answer_of_any_shape_is_read_without_raising(payload: Any) -> None:
    assert isinstance(WIRE.completion(payload).text, str)

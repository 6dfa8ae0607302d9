"""The OpenAI chat wire format: requests as they are written, answers and error bodies of the servers that speak it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.providers.openai import OpenAIChat
from evalservice.records import ChatRequest, Completion

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

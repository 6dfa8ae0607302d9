"""The OpenAI chat-completions wire format, and so every compatible server: vLLM, Ollama, SGLang, gateways.

A request and its answer (https://platform.openai.com/docs/api-reference/chat):

    POST {base_url}/chat/completions
    {"model": "gpt-4o", "messages": [{"role": "user", "content": "2+2?"}], "temperature": 0}
    {"model": "gpt-4o-2024-08-06", "system_fingerprint": "fp_1",
     "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}],
     "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.providers.limits import RateLimits, count_of, duration_seconds
from actors.providers.parameters import check_extra_body, check_logprobs, merged
from actors.providers.reading import (
    calls_text,
    count,
    error_text,
    logprobs_of,
    object_at,
    objects_at,
    parsed_arguments,
    short_text,
)
from actors.providers.retry import is_worth_retrying
from actors.providers.wire import shape_error
from evalservice.catalog.model_config import OPENAI_URL
from evalservice.records import JSON, ChatRequest, Completion, ErrorKind, ItemError

FIXED = ("model", "messages", "n", "stream")
"""Who is asked what, and how many answers are paid for, is not for `extra_body` to change."""


class OpenAIChat:
    """The format of `/chat/completions`."""

    default_base_url = OPENAI_URL

    def url(self, base_url: str, model_id: str) -> str:
        return base_url.rstrip("/") + "/chat/completions"

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def check(self, sampling: Mapping[str, JSON]) -> None:
        """Compatible servers take all kinds of parameters, so that only what none could take is refused."""
        check_logprobs(sampling)
        check_extra_body(sampling, FIXED)

    def body(self, model_id: str, request: ChatRequest) -> dict[str, JSON]:
        sampling = dict(request.sampling)
        extra = sampling.pop("extra_body", None) or {}
        allowed = {key: value for key, value in extra.items() if key not in FIXED}
        return merged({"model": model_id, "messages": list(request.messages), **sampling}, allowed)

    def completion(self, payload: JSON) -> Completion:
        if not isinstance(payload, dict):
            return shape_error(f"expected a JSON object, got {type(payload).__name__}")
        if isinstance(payload.get("error"), dict | str) and not payload.get("choices"):
            # Some gateways answer 200 with an error body.
            return Completion(error=self.error(_embedded_status(payload["error"]), payload, {}))
        choices = payload.get("choices")
        if not isinstance(choices, list):
            return shape_error("the answer has no list of choices")
        if not choices:
            return Completion(error=ItemError("empty_response", "the answer has no choices", retryable=True))
        choice = choices[0]
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            return shape_error("the first choice has no message")
        return self._from_message(payload, choice, message)

    def _from_message(self, payload: dict[str, Any], choice: dict[str, Any], message: dict[str, Any]) -> Completion:
        finish_reason = choice.get("finish_reason")
        finish_reason = finish_reason if isinstance(finish_reason, str) else None
        refusal = message.get("refusal")
        content = _text(message.get("content"))
        calls = [(name, parsed_arguments(arguments)) for name, arguments in _called(message)]
        error: ItemError | None = None
        if calls and (not content or finish_reason == "tool_calls"):
            content = calls_text(calls)
        elif content is None:
            if isinstance(refusal, str) and refusal:
                content = refusal
            elif finish_reason == "length":
                content = ""  # a reasoning model that spent its whole budget thinking
            elif finish_reason == "content_filter":
                error = ItemError("content_filter", "the provider's content filter blocked the answer", retryable=False)
            elif message.get("tool_calls"):
                error = ItemError("empty_response", "the model called a tool instead of answering", retryable=False)
            else:
                error = ItemError("empty_response", "the first choice has no content", retryable=True)
        usage = object_at(payload, "usage")
        tokens = objects_at(choice.get("logprobs"), "content")
        return Completion(
            text=content or "",
            finish_reason=finish_reason,
            input_tokens=count(usage.get("prompt_tokens")),
            output_tokens=count(usage.get("completion_tokens")),
            cached_input_tokens=count(object_at(usage, "prompt_tokens_details").get("cached_tokens")),
            reasoning_tokens=count(object_at(usage, "completion_tokens_details").get("reasoning_tokens")),
            model=short_text(payload.get("model")),
            system_fingerprint=short_text(payload.get("system_fingerprint")),
            refused=isinstance(refusal, str) and bool(refusal),
            error=error,
            logprobs=logprobs_of(tokens, [objects_at(token, "top_logprobs") for token in tokens], "logprob"),
        )

    def error(self, status: int, payload: JSON, headers: Mapping[str, str]) -> ItemError:
        code, message = _error_fields(payload)
        kind = _kind(status, code, message)
        text = error_text(status, message)
        if kind == "rate_limited" and code == "insufficient_quota":
            return ItemError("authentication", text, retryable=True, status_code=status)
        retryable = is_worth_retrying(status) or kind in ("authentication", "not_found")
        return ItemError(kind, text, retryable=retryable, status_code=status)

    def limits(self, headers: Mapping[str, str]) -> RateLimits:
        return RateLimits(
            requests_limit=count_of(headers, "x-ratelimit-limit-requests"),
            requests_remaining=count_of(headers, "x-ratelimit-remaining-requests"),
            requests_reset=duration_seconds(headers.get("x-ratelimit-reset-requests")),
            tokens_limit=count_of(headers, "x-ratelimit-limit-tokens"),
            tokens_remaining=count_of(headers, "x-ratelimit-remaining-tokens"),
            tokens_reset=duration_seconds(headers.get("x-ratelimit-reset-tokens")),
        )


def _called(message: dict[str, Any]) -> list[tuple[str, JSON]]:
    """Name and arguments (JSON as a text) of the functions that the model calls."""
    functions = [object_at(call, "function") for call in objects_at(message, "tool_calls")]
    return [(each["name"], each.get("arguments")) for each in functions if isinstance(each.get("name"), str)]


def _embedded_status(error: JSON) -> int:
    """The status that an error body names in `code`, or 502: the gateway's upstream failed."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 502


def _error_fields(payload: JSON) -> tuple[str, str]:
    """(code, message) of an error body in the shapes that compatible servers use; empty strings if it has none."""
    if not isinstance(payload, dict):
        return "", ""
    error = payload.get("error", payload)
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") or error.get("type") or ""
    return str(code), message if isinstance(message, str) else str(message)


def _kind(status: int, code: str, message: str) -> ErrorKind:
    if status in (401, 403):
        return "authentication"
    if status == 404:
        return "not_found"
    if status == 429:
        return "rate_limited"
    if is_worth_retrying(status):
        return "server_error"
    lowered = message.lower()
    if code == "context_length_exceeded" or "context length" in lowered or "context window" in lowered:
        return "context_length"
    if code in ("content_filter", "content_policy_violation"):
        return "content_filter"
    return "bad_request"


def _text(content: JSON) -> str | None:
    """Message content as text; a list of parts (some gateways) is joined. None when there is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return None

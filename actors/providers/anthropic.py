"""The Anthropic Messages wire format (https://docs.anthropic.com/en/api/messages).

    POST {base_url}/v1/messages
    {"model": "claude-sonnet-4-5", "max_tokens": 4096, "system": "Be brief.",
     "messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]}
    {"type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
     "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "4"}],
     "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 0}}

`max_tokens` must be there: DEFAULT_MAX_TOKENS where a configuration has none. Thinking is switched on by `extra_body`
(`{"thinking": {"type": "enabled", "budget_tokens": 2048}}`) or bounded by `reasoning_effort`, and is never a part of
the completion. There are no seeds: a benchmark's own `seed` does nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.providers.limits import RateLimits, count_of, seconds_until
from actors.providers.parameters import answer_limit, check_extra_body, check_known, check_range, merged
from actors.providers.reading import (
    calls_text,
    count,
    error_text,
    object_at,
    objects_at,
    short_text,
    text_at,
    total,
)
from actors.providers.retry import is_worth_retrying
from actors.providers.turns import ImageData, ImageUrl, Part, Text, ToolCall, conversation
from actors.providers.wire import shape_error
from evalservice.catalog.model_config import ANTHROPIC_URL
from evalservice.errors import InvalidInput
from evalservice.records import JSON, ChatRequest, Completion, ErrorKind, ItemError

PLATFORM = "anthropic"
VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096
"""Tokens of an answer, thinking included, where the configuration sets neither max_tokens nor
max_completion_tokens: as much as the smallest limit of any of the provider's models."""
PARAMETERS = (
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop", "response_format",
    "reasoning_effort", "tools", "tool_choice", "extra_body",
)  # fmt: skip
EFFORTS = ("low", "medium", "high", "xhigh", "max")
FIXED = ("model", "messages", "system", "stream")

FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
"""Stop reasons by the names that every provider's have in results. Others keep theirs: refusal, pause_turn, …"""
CUT_OFF = ("max_tokens", "model_context_window_exceeded")
TOOL_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip
"""The HTTP status that belongs to the type of an error (https://docs.anthropic.com/en/api/errors)."""


class AnthropicMessages:
    """The format of `/v1/messages`."""

    default_base_url = ANTHROPIC_URL

    def url(self, base_url: str, model_id: str) -> str:
        base = base_url.rstrip("/")
        return base + ("/messages" if base.endswith("/v1") else "/v1/messages")

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"anthropic-version": VERSION, **({"x-api-key": api_key} if api_key else {})}

    def check(self, sampling: Mapping[str, JSON]) -> None:
        check_known(PLATFORM, sampling, PARAMETERS)
        check_range(PLATFORM, sampling, "temperature", 0, 1)
        check_range(PLATFORM, sampling, "top_k", 1, float("inf"))
        answer_limit(sampling)
        check_extra_body(sampling, FIXED)
        effort = sampling.get("reasoning_effort")
        if effort is not None and effort not in EFFORTS:
            raise InvalidInput("config.reasoning_effort", effort, f"platform {PLATFORM!r} takes {', '.join(EFFORTS)}")
        wanted = sampling.get("response_format")
        if wanted is not None and wanted["type"] not in ("text", "json_schema"):
            raise InvalidInput(
                "config.response_format.type", wanted["type"], f"platform {PLATFORM!r} takes text and json_schema"
            )

    def body(self, model_id: str, request: ChatRequest) -> dict[str, JSON]:
        spoken = conversation(request.messages, PLATFORM)
        sampling = request.sampling
        own: dict[str, JSON] = {
            "model": model_id,
            "max_tokens": answer_limit(sampling) or DEFAULT_MAX_TOKENS,
            "messages": [
                {"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in spoken.turns
            ],
        }
        if spoken.system:
            own["system"] = spoken.system
        own |= {name: sampling[name] for name in ("temperature", "top_p", "top_k") if name in sampling}
        if "stop" in sampling:
            stop = sampling["stop"]
            own["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
        if output := _output_config(sampling):
            own["output_config"] = output
        if tools := sampling.get("tools"):
            own["tools"] = [_tool(tool["function"]) for tool in tools]
        if (choice := sampling.get("tool_choice")) is not None:
            own["tool_choice"] = _tool_choice(choice)
        return merged(own, sampling.get("extra_body") or {})

    def completion(self, payload: JSON) -> Completion:
        if not isinstance(payload, dict):
            return shape_error(f"expected a JSON object, got {type(payload).__name__}")
        if payload.get("type") == "error":
            kind = text_at(payload.get("error"), "type")
            return Completion(error=self.error(STATUSES.get(kind, 502), payload, {}))
        if not isinstance(payload.get("content"), list):
            return shape_error("the answer has no list of content blocks")
        blocks, stopped = objects_at(payload, "content"), text_at(payload, "stop_reason")
        text = "".join(text_at(block, "text") for block in blocks if block.get("type") == "text")
        calls = [(str(block.get("name")), block.get("input")) for block in blocks if block.get("type") == "tool_use"]
        if calls:
            text = calls_text(calls)
        usage = object_at(payload, "usage")
        written, read = count(usage.get("cache_creation_input_tokens")), count(usage.get("cache_read_input_tokens"))
        uncached = count(usage.get("input_tokens"))
        return Completion(
            text=text,
            finish_reason=FINISH_REASONS.get(stopped, stopped[:200] or None),
            input_tokens=None if uncached is None else total((uncached, written, read)),
            output_tokens=count(usage.get("output_tokens")),
            cached_input_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=count(object_at(usage, "output_tokens_details").get("thinking_tokens")),
            model=short_text(payload.get("model")),
            refused=stopped == "refusal",
            error=None if text or stopped in (*CUT_OFF, "refusal", "stop_sequence") else _without_text(stopped),
        )

    def error(self, status: int, payload: JSON, headers: Mapping[str, str]) -> ItemError:
        problem = object_at(payload, "error")
        code, message = text_at(problem, "type"), text_at(problem, "message")
        kind = _kind(status, code, message)
        retryable = is_worth_retrying(status) or kind in ("authentication", "not_found")
        return ItemError(kind, error_text(status, message or code), retryable=retryable, status_code=status)

    def limits(self, headers: Mapping[str, str]) -> RateLimits:
        requests, tokens = "anthropic-ratelimit-requests", "anthropic-ratelimit-tokens"
        inputs = "anthropic-ratelimit-input-tokens"  # where there is none for both together
        reset = headers.get(f"{tokens}-reset") or headers.get(f"{inputs}-reset")
        return RateLimits(
            requests_limit=count_of(headers, f"{requests}-limit"),
            requests_remaining=count_of(headers, f"{requests}-remaining"),
            requests_reset=seconds_until(headers.get(f"{requests}-reset"), headers),
            tokens_limit=count_of(headers, f"{tokens}-limit", f"{inputs}-limit"),
            tokens_remaining=count_of(headers, f"{tokens}-remaining", f"{inputs}-remaining"),
            tokens_reset=seconds_until(reset, headers),
        )


def _block(part: Part) -> dict[str, JSON]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImageData):
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
        return {"type": "image", "source": source}
    if isinstance(part, ImageUrl):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    return {"type": "tool_result", "tool_use_id": part.id, "content": part.text}


def _tool(function: Mapping[str, Any]) -> dict[str, JSON]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    kept = {key: function[key] for key in ("description", "strict") if function.get(key) is not None}
    return {"name": function["name"], **kept, "input_schema": schema}


def _tool_choice(choice: str | Mapping[str, Any]) -> dict[str, JSON]:
    if isinstance(choice, str):
        return {"type": TOOL_CHOICES[choice]}
    return {"type": "tool", "name": choice["function"]["name"]}


def _output_config(sampling: Mapping[str, JSON]) -> dict[str, JSON]:
    output: dict[str, JSON] = {}
    if "reasoning_effort" in sampling:
        output["effort"] = sampling["reasoning_effort"]
    wanted = sampling.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        output["format"] = {"type": "json_schema", "schema": wanted["json_schema"]["schema"]}
    return output


def _without_text(stopped: str) -> ItemError:
    if stopped == "pause_turn":
        return ItemError("empty_response", "the model paused for a tool of the provider's", retryable=False)
    return ItemError("empty_response", "the answer has no text", retryable=True)


def _kind(status: int, code: str, message: str) -> ErrorKind:
    lowered = message.lower()
    if status in (401, 402, 403) or "credit balance" in lowered:
        return "authentication"
    if status == 404:
        return "not_found"
    if status == 429 or code == "rate_limit_error":
        return "rate_limited"
    if is_worth_retrying(status):
        return "server_error"
    if "prompt is too long" in lowered or "context limit" in lowered or "context window" in lowered:
        return "context_length"
    if "content filtering policy" in lowered:
        return "content_filter"
    return "bad_request"

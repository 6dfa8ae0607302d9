"""The Gemini wire format, generateContent (https://ai.google.dev/api/generate-content).

    POST {base_url}/models/gemini-2.5-flash:generateContent        x-goog-api-key: KEY
    {"systemInstruction": {"parts": [{"text": "Be brief."}]},
     "contents": [{"role": "user", "parts": [{"text": "2+2?"}]}],
     "generationConfig": {"temperature": 0, "maxOutputTokens": 64}}
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "…", "thought": true}, {"text": "4"}]},
                     "finishReason": "STOP", "index": 0}], "modelVersion": "gemini-2.5-flash",
     "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1, "thoughtsTokenCount": 20}}

Thoughts are billed as output, and counted so; they are never a part of the completion. `reasoning_effort` is the
thinking level of Gemini 3; for a budget (Gemini 2.5) or anything else that a request may hold there is `extra_body`:
`{"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}`.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from actors.providers.limits import RateLimits, duration_seconds
from actors.providers.parameters import (
    answer_limit,
    camel,
    check_extra_body,
    check_known,
    check_logprobs,
    check_range,
    merged,
)
from actors.providers.reading import (
    calls_text,
    count,
    error_text,
    logprobs_of,
    object_at,
    objects_at,
    short_text,
    text_at,
    total,
)
from actors.providers.retry import is_worth_retrying
from actors.providers.turns import ImageData, ImageUrl, Part, Text, ToolCall, conversation
from actors.providers.wire import shape_error
from evalservice.catalog.model_config import GOOGLE_URL
from evalservice.errors import InvalidInput
from evalservice.records import JSON, ChatRequest, Completion, ErrorKind, ItemError

PLATFORM = "google"
GENERATION = {
    "temperature": "temperature", "top_p": "topP", "top_k": "topK", "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty", "logprobs": "responseLogprobs", "top_logprobs": "logprobs",
}  # fmt: skip
"""Sampling parameters that go into generationConfig as they are, and their names there."""
PARAMETERS = (
    *GENERATION, "max_tokens", "max_completion_tokens", "stop", "seed", "response_format", "reasoning_effort", "tools",
    "tool_choice", "extra_body",
)  # fmt: skip
MAX_STOPS = 5
MAX_SEED = 2**31 - 1
LEVELS = ("minimal", "low", "medium", "high")
FIXED = ("model", "contents", "systemInstruction", "generationConfig.candidateCount")
MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}

FINISH_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}
"""Finish reasons by the names that every provider's have in results. Others keep theirs: SAFETY, RECITATION, …"""
BLOCKED = frozenset(
    {
        "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
    }
)  # fmt: skip
FAILED_CALLS = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"})


class GoogleGenerateContent:
    """The format of `models/…:generateContent`."""

    default_base_url = GOOGLE_URL

    def url(self, base_url: str, model_id: str) -> str:
        name = model_id if "/" in model_id else f"models/{model_id}"
        return f"{base_url.rstrip('/')}/{quote(name, safe='/')}:generateContent"

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"x-goog-api-key": api_key} if api_key else {}

    def check(self, sampling: Mapping[str, JSON]) -> None:
        check_known(PLATFORM, sampling, PARAMETERS)
        check_range(PLATFORM, sampling, "seed", 0, MAX_SEED)
        check_range(PLATFORM, sampling, "top_k", 1, float("inf"))
        check_logprobs(sampling)
        answer_limit(sampling)
        check_extra_body(sampling, FIXED)
        stop = sampling.get("stop")
        if isinstance(stop, list | tuple) and len(stop) > MAX_STOPS:
            raise InvalidInput("config.stop", stop, f"platform {PLATFORM!r} takes up to {MAX_STOPS} texts")
        effort = sampling.get("reasoning_effort")
        if effort is not None and effort not in LEVELS:
            raise InvalidInput("config.reasoning_effort", effort, f"platform {PLATFORM!r} takes {', '.join(LEVELS)}")
        wanted = sampling.get("response_format")
        if wanted is not None and wanted["type"] not in ("text", "json_object", "json_schema"):
            accepted = f"platform {PLATFORM!r} takes text, json_object and json_schema"
            raise InvalidInput("config.response_format.type", wanted["type"], accepted)

    def body(self, model_id: str, request: ChatRequest) -> dict[str, JSON]:
        spoken = conversation(request.messages, PLATFORM)
        own: dict[str, JSON] = {
            "contents": [
                {"role": "model" if turn.role == "assistant" else "user", "parts": [_part(part) for part in turn.parts]}
                for turn in spoken.turns
            ]
        }
        if spoken.system:
            own["systemInstruction"] = {"parts": [{"text": spoken.system}]}
        if generation := _generation_config(request.sampling):
            own["generationConfig"] = generation
        if tools := request.sampling.get("tools"):
            own["tools"] = [{"functionDeclarations": [_declaration(tool["function"]) for tool in tools]}]
        if (choice := request.sampling.get("tool_choice")) is not None:
            own["toolConfig"] = {"functionCallingConfig": _calling(choice)}
        return merged(own, _in_camel_case(request.sampling.get("extra_body") or {}))

    def completion(self, payload: JSON) -> Completion:
        if not isinstance(payload, dict):
            return shape_error(f"expected a JSON object, got {type(payload).__name__}")
        if isinstance(payload.get("error"), dict):
            status = payload["error"].get("code")
            known = isinstance(status, int) and 400 <= status <= 599
            return Completion(error=self.error(status if known else 502, payload, {}))
        usage = object_at(payload, "usageMetadata")
        prompt, thoughts = count(usage.get("promptTokenCount")), count(usage.get("thoughtsTokenCount"))
        return replace(
            _answer(payload),
            model=short_text(payload.get("modelVersion")),
            input_tokens=None if prompt is None else total((prompt, count(usage.get("toolUsePromptTokenCount")))),
            output_tokens=total((count(usage.get("candidatesTokenCount")), thoughts)),
            cached_input_tokens=count(usage.get("cachedContentTokenCount")),
            reasoning_tokens=thoughts,
        )

    def error(self, status: int, payload: JSON, headers: Mapping[str, str]) -> ItemError:
        if isinstance(payload, list):  # the form of a stream, which gateways keep
            payload = payload[0] if payload else None
        problem = object_at(payload, "error")
        message = text_at(problem, "message")
        details = objects_at(problem, "details")
        kind = _kind(status, text_at(problem, "status"), message, [text_at(detail, "reason") for detail in details])
        return ItemError(
            kind,
            error_text(status, message or text_at(problem, "status")),
            retryable=is_worth_retrying(status) or kind in ("authentication", "not_found"),
            status_code=status,
            retry_after=_retry_delay(details),
        )

    def limits(self, headers: Mapping[str, str]) -> RateLimits:
        """Nothing: the provider has no such headers. Quota errors say in their body when to come again."""
        return RateLimits()


def _part(part: Part) -> dict[str, JSON]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, ImageData):
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    if isinstance(part, ImageUrl):
        media_type, _ = mimetypes.guess_type(urlsplit(part.url).path)
        return {"fileData": {"fileUri": part.url, **({"mimeType": media_type} if media_type else {})}}
    if isinstance(part, ToolCall):
        return {"functionCall": {"name": part.name, "args": part.arguments}}
    return {"functionResponse": {"name": part.name, "response": _result(part.text)}}


def _result(text: str) -> dict[str, JSON]:
    """What a function gave, which has to be an object."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


def _generation_config(sampling: Mapping[str, JSON]) -> dict[str, JSON]:
    config = {theirs: sampling[ours] for ours, theirs in GENERATION.items() if ours in sampling}
    if (limit := answer_limit(sampling)) is not None:
        config["maxOutputTokens"] = limit
    if "stop" in sampling:
        stop = sampling["stop"]
        config["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    if "seed" in sampling:
        config["seed"] = sampling["seed"] & MAX_SEED  # a benchmark's seed, made for every provider, may be larger
    wanted = sampling.get("response_format") or {"type": "text"}
    if wanted["type"] != "text":
        config["responseMimeType"] = "application/json"
    if wanted["type"] == "json_schema":
        config["responseJsonSchema"] = wanted["json_schema"]["schema"]
    if "reasoning_effort" in sampling:
        config["thinkingConfig"] = {"thinkingLevel": sampling["reasoning_effort"]}
    return config


def _declaration(function: Mapping[str, Any]) -> dict[str, JSON]:
    declaration = {key: function[key] for key in ("name", "description") if function.get(key) is not None}
    if function.get("parameters") is not None:
        declaration["parametersJsonSchema"] = function["parameters"]
    return declaration


def _calling(choice: str | Mapping[str, Any]) -> dict[str, JSON]:
    if isinstance(choice, str):
        return {"mode": MODES[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}


def _in_camel_case(extra: Mapping[str, JSON]) -> dict[str, JSON]:
    """Further keys under the names that our own have: the provider takes both spellings, but not at once."""
    own = {camel(key): value for key, value in extra.items()}
    config = own.get("generationConfig")
    if isinstance(config, Mapping):
        own["generationConfig"] = {camel(key): value for key, value in config.items()}
    return own


def _answer(payload: dict[str, Any]) -> Completion:
    if reason := text_at(payload.get("promptFeedback"), "blockReason"):
        blocked = ItemError("content_filter", f"the prompt was blocked: {reason[:100]}", retryable=False)
        return Completion(error=blocked, finish_reason=reason[:100])
    candidates = payload.get("candidates")
    if not isinstance(candidates, list):
        return shape_error("the answer has no list of candidates")
    if not candidates:
        return Completion(error=ItemError("empty_response", "the answer has no candidates", retryable=True))
    if not isinstance(candidates[0], dict):
        return shape_error("the first candidate is no object")
    return _from_candidate(candidates[0])


def _from_candidate(candidate: dict[str, Any]) -> Completion:
    stopped = text_at(candidate, "finishReason")
    parts = [part for part in objects_at(candidate.get("content"), "parts") if part.get("thought") is not True]
    called = [part["functionCall"] for part in parts if isinstance(part.get("functionCall"), dict)]
    if called:
        text = calls_text([(str(call.get("name")), call.get("args") or {}) for call in called])
    else:
        text = "".join(text_at(part, "text") for part in parts)
    finish_reason = "tool_calls" if called and stopped == "STOP" else FINISH_REASONS.get(stopped, stopped[:100] or None)
    results = object_at(candidate, "logprobsResult")
    return Completion(
        text=text,
        finish_reason=finish_reason,
        error=_problem(stopped, text, text_at(candidate, "finishMessage")),
        logprobs=logprobs_of(
            objects_at(results, "chosenCandidates"),
            [objects_at(top, "candidates") for top in objects_at(results, "topCandidates")],
            "logProbability",
        ),
    )


def _problem(stopped: str, text: str, message: str) -> ItemError | None:
    said = f" ({message[:200]})" if message else ""
    if stopped in BLOCKED:
        return ItemError("content_filter", f"the answer was blocked: {stopped}{said}", retryable=False)
    if stopped in FAILED_CALLS:
        return ItemError("empty_response", f"the model's tool call is none: {stopped}{said}", retryable=False)
    if text or stopped == "MAX_TOKENS":
        return None
    return ItemError("empty_response", f"the answer has no text: {stopped[:100] or 'no reason'}{said}", retryable=True)


def _kind(status: int, state: str, message: str, reasons: list[str]) -> ErrorKind:
    if status in (401, 403) or "API_KEY_INVALID" in reasons or state == "FAILED_PRECONDITION":
        return "authentication"  # FAILED_PRECONDITION: no billing, or a country that is not served
    if status == 404:
        return "not_found"
    if status == 429:
        return "rate_limited"
    if is_worth_retrying(status):
        return "server_error"
    lowered = message.lower()
    if "token count" in lowered and "exceeds" in lowered:
        return "context_length"
    return "bad_request"


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Seconds of `google.rpc.RetryInfo`, which says "34s" or "34.074824224s"."""
    for detail in details:
        if text_at(detail, "@type").endswith("google.rpc.RetryInfo"):
            return duration_seconds(text_at(detail, "retryDelay"))
    return None

"""The wire formats that the faulty provider speaks, with bodies as the vendors document them.

    OpenAI     POST /v1/chat/completions                  https://platform.openai.com/docs/api-reference/chat
    Anthropic  POST /v1/messages                          https://docs.anthropic.com/en/api/messages
    Google     POST /v1beta/models/MODEL:generateContent  https://ai.google.dev/api/generate-content

A format also refuses what its vendor refuses, so that a request which only this server would take fails here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

Answer = tuple[int, Any]
"""Status and JSON body."""


class Format(Protocol):
    """One vendor's format. `faults`: bodies that only this vendor has, or has in a form of its own, by name."""

    faults: Mapping[str, Callable[[str, str], Answer]]

    def read(self, request: web.Request, body: dict[str, Any]) -> tuple[str, str]:
        """(model, all the text of the prompt)."""
        ...

    def refused(self, request: web.Request, body: dict[str, Any]) -> str | None:
        """Why the vendor would not take this request."""
        ...

    def good(self, model: str, prompt: str, text: str) -> dict[str, Any]:
        """The body of a good answer."""
        ...

    def failure(self, status: int, message: str, code: str | None) -> dict[str, Any]:
        """An error body."""
        ...


def words(text: str) -> int:
    """What the provider counts as tokens."""
    return len(text.split())


def text_of(content: Any) -> str:
    """Message content as the text that prompts are counted by: parts other than texts as JSON."""
    return content if isinstance(content, str) else json.dumps(content)


def openai_answer(model: str, prompt: str, text: str | None, **message: Any) -> dict[str, Any]:
    """A chat completion. `finish_reason` and `logprobs` are the choice's, other fields are the message's."""
    choice = {"index": 0, "finish_reason": message.pop("finish_reason", "stop")}
    if "logprobs" in message:
        choice["logprobs"] = message.pop("logprobs")
    inputs, outputs = words(prompt), words(text or "")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{model}-2026-01-01",
        "system_fingerprint": "fp_test",
        "choices": [{**choice, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs},
    }


class OpenAI:
    """Chat completions."""

    def __init__(self) -> None:
        call = {"name": "weather", "arguments": '{"city": "Paris"}'}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        details = {
            "prompt_tokens_details": {"cached_tokens": 1024},
            "completion_tokens_details": {"reasoning_tokens": 64},
        }
        usage = {"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306, **details}
        tops = [{"token": "4", "logprob": -0.1, "bytes": [52]}, {"token": "5", "logprob": -2.5, "bytes": [53]}]
        tokens = {"content": [{"token": "4", "logprob": -0.1, "bytes": [52], "top_logprobs": tops}], "refusal": None}
        self.faults = {
            "calls_tool": lambda m, p: (200, openai_answer(m, p, None, finish_reason="tool_calls", tool_calls=calls)),
            "cached": lambda m, p: (200, {**openai_answer(m, p, "4"), "usage": usage}),
            "logprobs": lambda m, p: (200, openai_answer(m, p, "4", logprobs=tokens)),
        }

    def read(self, request: web.Request, body: dict[str, Any]) -> tuple[str, str]:
        return body["model"], "\n".join(text_of(message["content"]) for message in body["messages"])

    def refused(self, request: web.Request, body: dict[str, Any]) -> str | None:
        return None

    def good(self, model: str, prompt: str, text: str) -> dict[str, Any]:
        return openai_answer(model, prompt, text)

    def failure(self, status: int, message: str, code: str | None) -> dict[str, Any]:
        return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def anthropic_answer(model: str, prompt: str, *blocks: Any, stop_reason: str = "end_turn", **usage: Any) -> Any:
    """A message made of these blocks; a text stands for its block."""
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    outputs = sum(words(block.get("text", "")) for block in content)
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {
        "id": "msg_013Zva2CMHLNnjNjJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": f"{model}-20260101",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": words(prompt),
            "output_tokens": outputs,
            "service_tier": "standard",
            **cache,
            **usage,
        },
    }


def anthropic_error(kind: str, message: str) -> dict[str, Any]:
    """An error as documented, https://docs.anthropic.com/en/api/errors."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


THINKING = {"type": "thinking", "thinking": "Two and two …", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"}
REDACTED = {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyIwxtE3rAFBa8cr3qpP"}
TOOL_USE = {"type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "weather", "input": {"city": "Paris"}}
TOO_LONG = "prompt is too long: 208310 tokens > 200000 maximum"
NO_CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "api_error", 529: "overloaded_error",
}  # fmt: skip


class Anthropic:
    """Messages."""

    def __init__(self) -> None:
        said = anthropic_answer
        huge = {"input_tokens": 2**31 - 1, "output_tokens": 2**31 - 1}
        cached = {
            "input_tokens": 50, "cache_read_input_tokens": 100_000, "cache_creation_input_tokens": 248,
            "output_tokens": 503, "output_tokens_details": {"thinking_tokens": 400},
        }  # fmt: skip
        self.faults = {
            "no_quota": lambda m, p: (400, anthropic_error("invalid_request_error", NO_CREDIT)),
            "billing": lambda m, p: (402, anthropic_error("billing_error", "There's an issue with your billing")),
            "overloaded": lambda m, p: (529, anthropic_error("overloaded_error", "Overloaded")),
            "context_length": lambda m, p: (400, anthropic_error("invalid_request_error", TOO_LONG)),
            "too_large": lambda m, p: (413, anthropic_error("request_too_large", "Request exceeds the maximum size")),
            "error_200": lambda m, p: (200, anthropic_error("overloaded_error", "Overloaded")),
            "content_filter_400": lambda m, p: (
                400,
                anthropic_error("invalid_request_error", "Output blocked by content filtering policy"),
            ),
            "empty_choices": lambda m, p: (200, said(m, p)),
            "null_content": lambda m, p: (200, said(m, p, "")),
            "no_choices": lambda m, p: (200, {"type": "message", "role": "assistant"}),
            "refusal": lambda m, p: (200, said(m, p, stop_reason="refusal")),
            "length": lambda m, p: (200, said(m, p, "The answer is 4", stop_reason="max_tokens")),
            "full_context": lambda m, p: (200, said(m, p, "The", stop_reason="model_context_window_exceeded")),
            "paused": lambda m, p: (200, said(m, p, stop_reason="pause_turn")),
            "all_thinking": lambda m, p: (200, said(m, p, THINKING, stop_reason="max_tokens")),
            "thinking": lambda m, p: (200, said(m, p, THINKING, REDACTED, "The answer", " is 4")),
            "content_parts": lambda m, p: (200, said(m, p, "The answer", " is 4")),
            "calls_tool": lambda m, p: (200, said(m, p, "Let me look.", TOOL_USE, stop_reason="tool_use")),
            "cached": lambda m, p: (200, said(m, p, "4", **cached)),
            "without_usage": lambda m, p: (200, {**said(m, p, "4"), "usage": None}),
            "absurd_usage": lambda m, p: (200, said(m, p, "4", **huge)),
        }

    def read(self, request: web.Request, body: dict[str, Any]) -> tuple[str, str]:
        texts = [body.get("system", "")]
        for message in body["messages"]:
            blocks = message["content"]
            texts += [blocks] if isinstance(blocks, str) else [each.get("text") or json.dumps(each) for each in blocks]
        return body["model"], "\n".join(text for text in texts if text)

    def refused(self, request: web.Request, body: dict[str, Any]) -> str | None:
        if request.headers.get("anthropic-version") != "2023-06-01":
            return "anthropic-version: header is required"
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        accepted = {
            "model", "max_tokens", "messages", "system", "temperature", "top_p", "top_k", "stop_sequences", "tools",
            "tool_choice", "thinking", "output_config", "metadata", "service_tier", "cache_control",
        }  # fmt: skip
        if extra := body.keys() - accepted:
            return f"{min(extra)}: Extra inputs are not permitted"
        if not 0 <= body.get("temperature", 1) <= 1:
            return "temperature: range: 0..1"
        if body["messages"][0]["role"] != "user":
            return 'messages: first message must use the "user" role'
        if any(message["role"] not in ("user", "assistant") for message in body["messages"]):
            return "messages: Unexpected role"
        return None

    def good(self, model: str, prompt: str, text: str) -> dict[str, Any]:
        answer: dict[str, Any] = anthropic_answer(model, prompt, text)
        return answer

    def failure(self, status: int, message: str, code: str | None) -> dict[str, Any]:
        return anthropic_error(ANTHROPIC_TYPES.get(status, "api_error"), message)


def google_answer(model: str, prompt: str, *parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    """A response with one candidate made of these parts; a text stands for its part."""
    made = [{"text": part} if isinstance(part, str) else part for part in parts]
    outputs = sum(words(part.get("text", "")) for part in made if not part.get("thought"))
    content = {"content": {"role": "model", "parts": made}} if made else {"content": {"role": "model"}}
    inputs = words(prompt)
    usage = {"promptTokenCount": inputs, "candidatesTokenCount": outputs, "totalTokenCount": inputs + outputs}
    return {
        "candidates": [{**content, "finishReason": finish, "index": 0, **more.pop("candidate", {})}],
        "usageMetadata": {**usage, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": inputs}]},
        "modelVersion": f"{model}-001",
        "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
        **more,
    }


def google_error(status: int, state: str, message: str, *details: Any) -> dict[str, Any]:
    """A google.rpc.Status as JSON (https://google.aip.dev/193)."""
    error: dict[str, Any] = {"code": status, "message": message, "status": state}
    return {"error": {**error, "details": list(details)} if details else error}


GOOGLE_STATES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
RPC = "type.googleapis.com/google.rpc."
BAD_KEY = {"@type": f"{RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
QUOTA = {
    "@type": f"{RPC}QuotaFailure",
    "violations": [{"quotaMetric": "generate_requests", "quotaId": "GenerateRequestsPerMinute", "quotaValue": "10"}],
}
FUNCTION_CALL = {"functionCall": {"name": "weather", "args": {"city": "Paris"}}}
THOUGHT = {"text": "**Adding** two and two", "thought": True}


class Google:
    """generateContent."""

    def __init__(self) -> None:
        said, failed = google_answer, google_error
        usage = {
            "promptTokenCount": 2006, "cachedContentTokenCount": 1024, "candidatesTokenCount": 300,
            "thoughtsTokenCount": 64, "totalTokenCount": 2370,
        }  # fmt: skip
        huge = {"promptTokenCount": 2**31 - 1, "candidatesTokenCount": 2**31 - 1}
        chosen = {"token": "4", "tokenId": 236812, "logProbability": -0.1}
        other = {"token": "5", "tokenId": 236810, "logProbability": -2.5}
        logprobs = {"chosenCandidates": [chosen], "topCandidates": [{"candidates": [chosen, other]}]}
        too_long = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        exceeded = "You exceeded your current quota, please check your plan and billing details."
        self.faults = {
            "unauthorized": lambda m, p: (
                400,
                failed(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", BAD_KEY),
            ),
            "no_quota": lambda m, p: (400, failed(400, "FAILED_PRECONDITION", "Please enable billing on your project")),
            "quota_delay": lambda m, p: (
                429,
                failed(429, "RESOURCE_EXHAUSTED", exceeded, QUOTA, {"@type": f"{RPC}RetryInfo", "retryDelay": "0.3s"}),
            ),
            "quota_hours": lambda m, p: (
                429,
                failed(429, "RESOURCE_EXHAUSTED", exceeded, {"@type": f"{RPC}RetryInfo", "retryDelay": "7200s"}),
            ),
            "error_200": lambda m, p: (200, failed(503, "UNAVAILABLE", "The model is overloaded.")),
            "overloaded": lambda m, p: (503, [failed(503, "UNAVAILABLE", "The model is overloaded.")]),
            "context_length": lambda m, p: (400, failed(400, "INVALID_ARGUMENT", too_long)),
            "prompt_blocked": lambda m, p: (
                200,
                {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 7}},
            ),
            "empty_choices": lambda m, p: (200, {**said(m, p), "candidates": []}),
            "null_content": lambda m, p: (200, said(m, p)),
            "no_choices": lambda m, p: (200, {"modelVersion": m}),
            "content_filter": lambda m, p: (200, said(m, p, finish="SAFETY")),
            "recitation": lambda m, p: (200, said(m, p, finish="RECITATION")),
            "spii": lambda m, p: (200, said(m, p, "The answer", finish="SPII")),
            "malformed_call": lambda m, p: (
                200,
                said(m, p, finish="MALFORMED_FUNCTION_CALL", candidate={"finishMessage": "Malformed: print(x"}),
            ),
            "length": lambda m, p: (200, said(m, p, "The answer is 4", finish="MAX_TOKENS")),
            "all_thinking": lambda m, p: (200, said(m, p, THOUGHT, finish="MAX_TOKENS")),
            "thinking": lambda m, p: (200, said(m, p, THOUGHT, "The answer", " is 4")),
            "content_parts": lambda m, p: (200, said(m, p, "The answer", " is 4")),
            "calls_tool": lambda m, p: (200, said(m, p, FUNCTION_CALL)),
            "cached": lambda m, p: (200, said(m, p, "4", usageMetadata=usage)),
            "without_usage": lambda m, p: (200, {**said(m, p, "4"), "usageMetadata": None}),
            "absurd_usage": lambda m, p: (200, said(m, p, "4", usageMetadata=huge)),
            "logprobs": lambda m, p: (200, said(m, p, "4", candidate={"logprobsResult": logprobs})),
        }

    def read(self, request: web.Request, body: dict[str, Any]) -> tuple[str, str]:
        contents = [body.get("systemInstruction") or {}, *body["contents"]]
        parts = [part for content in contents for part in content.get("parts", ())]
        return request.match_info["model"], "\n".join(part.get("text") or json.dumps(part) for part in parts)

    def refused(self, request: web.Request, body: dict[str, Any]) -> str | None:
        if "key" in request.query:
            return "a key in the URL ends in the logs"
        accepted = {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "safetySettings"}
        if extra := body.keys() - accepted:
            return f'Invalid JSON payload received. Unknown name "{min(extra)}": Cannot find field.'
        if any(content.get("role") not in ("user", "model") for content in body["contents"]):
            return "Please use a valid role: user, model."
        return None

    def good(self, model: str, prompt: str, text: str) -> dict[str, Any]:
        return google_answer(model, prompt, text)

    def failure(self, status: int, message: str, code: str | None) -> dict[str, Any]:
        return google_error(status, GOOGLE_STATES.get(status, "UNKNOWN"), message)


OPENAI, ANTHROPIC, GOOGLE = OpenAI(), Anthropic(), Google()

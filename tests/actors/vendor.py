"""Asking a model of the faulty provider in a vendor's format."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from actors.providers.hosted import Endpoint, HostedBackend
from actors.providers.retry import Backoff
from actors.providers.wire import WireFormat
from evalservice.records import ChatRequest, Completion

QUICK = Backoff(attempts=3, base=0.01, cap=0.05)


def ask(
    wire: WireFormat,
    url: str,
    prompt: str | Sequence[Mapping[str, Any]],
    sampling: Mapping[str, Any] | None = None,
    **values: Any,
) -> Completion:
    """The completion of one request, sent through HTTP. prompt: the user's text, or messages."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)

    async def answer() -> Completion | None:
        backend = HostedBackend(wire, Endpoint(url, "m", **{"backoff": QUICK, "timeout": 5.0, **values}), seed=1)
        try:
            return (await backend.complete([ChatRequest(messages, sampling or {})], asyncio.Event()))[0]
        finally:
            await backend.aclose()

    completion = asyncio.run(answer())
    assert completion is not None
    return completion


def failure(completion: Completion) -> tuple[str, bool]:
    """Kind of the error, and whether it may pass."""
    assert completion.error is not None, completion
    return completion.error.kind, completion.error.retryable


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLED = '[{"arguments":{"city":"Paris"},"name":"weather"}]'
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is this?"},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    ]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": [
        {"type": "text", "text": "And this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png?size=1", "detail": "low"}},
    ]},
    {"role": "developer", "content": "In English."},
]  # fmt: skip
"""What a conversation may hold: system messages in two places, two turns of one speaker, images, a tool's result."""


def any_json(*keys: str) -> st.SearchStrategy[Any]:
    """Any JSON value; objects have often these keys."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(keys) | st.text(max_size=3), inner, max_size=5)
        ),
        max_leaves=25,
    )


def messages_of_any_shape() -> st.SearchStrategy[Any]:
    """Messages as a careless dataset may hold them."""
    value = any_json("type", "text", "image_url", "url", "function", "name", "id", "arguments")
    role = st.sampled_from(["user", "assistant", "system", "tool"]) | value
    optional = {"content": value, "tool_calls": value, "tool_call_id": value}
    return st.lists(st.fixed_dictionaries({"role": role}, optional=optional), max_size=5)

"""What differs between providers: how a request is written and how an answer is read. Pure, one object a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from evalservice.records import JSON, ChatRequest, Completion, ItemError


class WireFormat(Protocol):
    """One provider's HTTP format. Everything about sending, waiting and retrying is in `hosted.py`."""

    default_base_url: str

    def url(self, base_url: str, model_id: str) -> str:
        """The address that completions are asked of."""
        ...

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Authentication and version headers."""
        ...

    def body(self, model_id: str, request: ChatRequest) -> dict[str, JSON]:
        """The request body."""
        ...

    def completion(self, payload: JSON) -> Completion:
        """Read the body of a 200 answer. What is not a completion becomes `Completion.error`; never raises."""
        ...

    def error(self, status: int, payload: JSON, headers: Mapping[str, str]) -> ItemError:
        """Read the body (parsed JSON, or None) of an answer with another status; never raises."""
        ...


def shape_error(problem: str) -> Completion:
    """A completion that says that the answer has not the provider's documented shape."""
    return Completion(error=ItemError("malformed_response", problem, retryable=True))

"""What differs between providers: how a request is written and how an answer is read. Pure, one object a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from actors.providers.limits import RateLimits
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

    def check(self, sampling: Mapping[str, JSON]) -> None:
        """Raises InvalidInput for a sampling parameter that the provider does not have, or not with this value."""
        ...

    def body(self, model_id: str, request: ChatRequest) -> dict[str, JSON]:
        """The request body. Raises InvalidInput for messages that the provider does not take: the item's error."""
        ...

    def completion(self, payload: JSON) -> Completion:
        """Read the body of a 200 answer. What is not a completion becomes `Completion.error`; never raises."""
        ...

    def error(self, status: int, payload: JSON, headers: Mapping[str, str]) -> ItemError:
        """Read the body (parsed JSON, or None) of an answer with another status; never raises."""
        ...

    def limits(self, headers: Mapping[str, str]) -> RateLimits:
        """What an answer's headers (names in any case) say of the credential's rate limits; never raises."""
        ...


class PluginFormat:
    """A third party's format. One that says nothing of parameters takes all, one that reads no limits has none."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin
        self.default_base_url: str = plugin.default_base_url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plugin, name)

    def check(self, sampling: Mapping[str, JSON]) -> None:
        """See `WireFormat.check`."""
        if hasattr(self._plugin, "check"):
            self._plugin.check(sampling)

    def limits(self, headers: Mapping[str, str]) -> RateLimits:
        """See `WireFormat.limits`."""
        found: RateLimits = self._plugin.limits(headers) if hasattr(self._plugin, "limits") else RateLimits()
        return found


def shape_error(problem: str) -> Completion:
    """A completion that says that the answer has not the provider's documented shape."""
    return Completion(error=ItemError("malformed_response", problem, retryable=True))

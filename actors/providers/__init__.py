"""Hosted providers by platform name: built in, or a third party's.

Third parties register in the entry-point group `evalservice.providers`: a class without constructor arguments that
implements `actors.providers.wire.WireFormat`; `check` and `limits` may be left out.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast

from actors.providers.anthropic import AnthropicMessages
from actors.providers.google import GoogleGenerateContent
from actors.providers.openai import OpenAIChat
from actors.providers.wire import PluginFormat, WireFormat
from evalservice.catalog.model_config import BASE_URLS
from evalservice.errors import InvalidInput

BUILT_IN: dict[str, type[WireFormat]] = {
    "openai": OpenAIChat,
    "anthropic": AnthropicMessages,
    "google": GoogleGenerateContent,
}


def wire_format(platform: str) -> WireFormat:
    """The wire format of a hosted platform. Raises InvalidInput for an unknown one or a plug-in that does not load."""
    if platform in BUILT_IN:
        return BUILT_IN[platform]()
    for entry in entry_points(group="evalservice.providers"):
        if entry.name == platform:
            try:
                return cast(WireFormat, PluginFormat(entry.load()()))
            except Exception as error:
                raise InvalidInput("platform", platform, f"its plug-in {entry.value} does not load: {error}") from error
    raise InvalidInput("platform", platform, f"hosted platforms here are {', '.join(hosted_platforms())}")


def hosted_platforms() -> list[str]:
    """Names of every hosted platform that this installation can call."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group="evalservice.providers"))})


def base_url_of(platform: str) -> str:
    """Where a hosted platform's models are asked that name no URL. Raises InvalidInput as `wire_format` does."""
    return BASE_URLS.get(platform) or wire_format(platform).default_base_url

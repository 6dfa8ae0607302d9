"""Hosted providers by platform name: built in, or a third party's.

Third parties register in the entry-point group `evalservice.providers`: a class without constructor arguments that
implements `actors.providers.wire.WireFormat`.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from actors.providers.openai import OpenAIChat
from actors.providers.wire import WireFormat
from evalservice.errors import InvalidInput

BUILT_IN: dict[str, type[WireFormat]] = {"openai": OpenAIChat}


def wire_format(platform: str) -> WireFormat:
    """The wire format of a hosted platform. Raises InvalidInput for an unknown one or a plug-in that does not load."""
    if platform in BUILT_IN:
        return BUILT_IN[platform]()
    for entry in entry_points(group="evalservice.providers"):
        if entry.name == platform:
            try:
                plugin: WireFormat = entry.load()()
            except Exception as error:
                raise InvalidInput("platform", platform, f"its plug-in {entry.value} does not load: {error}") from error
            return plugin
    raise InvalidInput("platform", platform, f"hosted platforms here are {', '.join(hosted_platforms())}")


def hosted_platforms() -> list[str]:
    """Names of every hosted platform that this installation can call."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group="evalservice.providers"))})

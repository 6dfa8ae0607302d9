"""Chat messages in the OpenAI form as turns of two speakers, for formats that keep the system prompt apart. Pure.

conversation([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}])
-> Conversation(system="Be brief.", turns=(Turn("user", (Text("2+2?"),)),))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.providers.reading import parsed_arguments
from evalservice.catalog.content import SYSTEM_ROLES, image_url, split_data_url
from evalservice.errors import InvalidInput
from evalservice.records import JSON


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageData:
    """An image in base64. media_type: e.g. "image/png"."""

    media_type: str
    data: str


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image that the provider fetches itself."""

    url: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made earlier in the conversation."""

    id: str
    name: str
    arguments: JSON


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What such a call gave."""

    id: str
    name: str
    text: str


Part = Text | ImageData | ImageUrl | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker said before the other spoke. Results of tools are the user's."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """system: all system messages, wherever they stood, one after the other. turns: the speakers alternate."""

    system: str
    turns: tuple[Turn, ...]


def conversation(messages: Sequence[Mapping[str, JSON]], platform: str) -> Conversation:
    """The messages as turns. Raises InvalidInput that names the message or the part that `platform` does not take."""
    system: list[str] = []
    turns: list[Turn] = []
    called: dict[str, str] = {}
    for number, message in enumerate(messages):
        where, role = f"messages[{number}]", message.get("role")
        if role in SYSTEM_ROLES:
            system.append(_text_only(f"{where}.content", message.get("content"), platform))
            continue
        if role == "tool":
            call = str(message.get("tool_call_id") or "")
            if call not in called:
                raise InvalidInput(f"{where}.tool_call_id", call, "the id of a tool call in a message before")
            text = _text_only(f"{where}.content", message.get("content"), platform)
            _add(turns, "user", [ToolResult(call, called[call], text)])
        elif role == "user":
            _add(turns, "user", _content(f"{where}.content", message.get("content"), platform))
        elif role == "assistant":
            calls = _calls(f"{where}.tool_calls", message.get("tool_calls"))
            called |= {call.id: call.name for call in calls}
            _add(turns, "assistant", [*_content(f"{where}.content", message.get("content"), platform), *calls])
        else:
            raise InvalidInput(f"{where}.role", role, f"{platform} takes system, developer, user, assistant and tool")
    if not turns:
        raise InvalidInput("messages", [dict(message) for message in messages], "at least one message of the user")
    return Conversation("\n\n".join(text for text in system if text), tuple(turns))


def _add(turns: list[Turn], role: Literal["user", "assistant"], parts: Sequence[Part]) -> None:
    if not parts:
        return
    if turns and turns[-1].role == role:
        turns[-1] = Turn(role, (*turns[-1].parts, *parts))
    else:
        turns.append(Turn(role, tuple(parts)))


def _content(where: str, content: JSON, platform: str) -> list[Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, list):
        raise InvalidInput(where, content, "a text or a list of parts")
    return [_part(f"{where}[{position}]", part, platform) for position, part in enumerate(content)]


def _part(where: str, part: JSON, platform: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Text(part["text"])
    url = image_url(part) if kind == "image_url" else None
    if url is not None:
        media_type, data = split_data_url(url) if url.startswith("data:") else ("", None)
        return ImageUrl(url) if data is None else ImageData(media_type, data)
    raise InvalidInput(f"{where}.type", kind, f"{platform} takes parts of the types text and image_url")


def _text_only(where: str, content: JSON, platform: str) -> str:
    parts = _content(where, content, platform)
    texts = [part.text for part in parts if isinstance(part, Text)]
    if len(texts) < len(parts):
        raise InvalidInput(where, content, f"{platform} takes text only here")
    return "".join(texts)


def _calls(where: str, given: JSON) -> list[ToolCall]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise InvalidInput(where, given, "a list of tool calls")
    return [_call(f"{where}[{position}]", call) for position, call in enumerate(given)]


def _call(where: str, call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not all(isinstance(x, str) for x in (function.get("name"), call.get("id"))):
        raise InvalidInput(where, call, 'a tool call {"id", "type": "function", "function": {"name", "arguments"}}')
    arguments = parsed_arguments(function.get("arguments"))
    if not isinstance(arguments, dict):
        raise InvalidInput(f"{where}.function.arguments", arguments, "a JSON object as a text")
    return ToolCall(call["id"], function["name"], arguments)

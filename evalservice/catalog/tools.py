"""The shapes of what a model may be asked for beside text, in the OpenAI form: tools, a choice of them, a JSON format.

    tools            [{"type": "function", "function": {"name": "weather", "description": "…", "parameters": {SCHEMA}}}]
    tool_choice      "auto" | "none" | "required" | {"type": "function", "function": {"name": "weather"}}
    response_format  {"type": "json_schema", "json_schema": {"name": "sum", "schema": {SCHEMA}, "strict": true}}
                     {"type": "json_object"} | {"type": "text"}

`…_of_shape` takes a value and gives it back; it raises ValueError that says where it has another shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON

MAX_TOOLS: Final = 128
MAX_TOOLS_BYTES: Final = 1 << 20
CHOICES: Final = ("auto", "none", "required")
FORMATS: Final = ("text", "json_object", "json_schema")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def tools_of_shape(value: Sequence[Mapping[str, Any]]) -> Any:
    """Definitions of functions, each under a name of its own."""
    if not 1 <= len(value) <= MAX_TOOLS:
        raise ValueError(f"1 to {MAX_TOOLS} tools, there are {len(value)}")
    for position, tool in enumerate(value):
        where = f"[{position}]"
        _keys(where, tool, ("type", "function"))
        if tool.get("type") != "function":
            raise ValueError(f'{where}.type: {shown(tool.get("type"))}, accepted is "function"')
        _function(f"{where}.function", tool.get("function"))
    names = tool_names(value)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"a name for each tool; repeated: {', '.join(repeated)}")
    try:
        size = len(orjson.dumps(value))
    except TypeError as error:
        raise ValueError(f"JSON values only ({error})") from None
    if size > MAX_TOOLS_BYTES:
        raise ValueError(f"tools of at most {MAX_TOOLS_BYTES >> 20} MiB in all")
    return value


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of functions of the shape that `tools_of_shape` accepts."""
    return [tool["function"]["name"] for tool in tools]


def choice_of_shape(value: str | Mapping[str, Any]) -> Any:
    """Which tools may, or must, be called. That the named one exists is for `check_choice`, which knows the tools."""
    if isinstance(value, str):
        if value not in CHOICES:
            raise ValueError(f"{', '.join(CHOICES)} or {_NAMED}")
        return value
    _keys("", value, ("type", "function"))
    function = value.get("function")
    if value.get("type") != "function" or not isinstance(function, Mapping) or [*function] != ["name"]:
        raise ValueError(f"{', '.join(CHOICES)} or {_NAMED}")
    _name("function.name", function["name"])
    return value


def check_choice(sampling: Mapping[str, JSON]) -> None:
    """Raises InvalidInput when the choice of a tool is one without tools, or of a tool that is not there."""
    choice = sampling.get("tool_choice")
    if choice is None:
        return
    names = tool_names(sampling.get("tools") or ())
    if not names:
        raise InvalidInput("config.tool_choice", choice, "it needs tools to choose from: give `tools` too")
    if isinstance(choice, Mapping) and choice["function"]["name"] not in names:
        raise InvalidInput("config.tool_choice", choice["function"]["name"], f"a tool among {', '.join(names)}")


def format_of_shape(value: Mapping[str, Any]) -> Any:
    """The form of the answer: text, any JSON object, or JSON of a schema. Formats of other servers keep their shape."""
    kind = value.get("type")
    if not isinstance(kind, str):
        raise ValueError(f"an object with a type: {', '.join(FORMATS)}")
    if kind != "json_schema":
        return value
    wanted = value.get("json_schema")
    if not isinstance(wanted, Mapping):
        raise ValueError('json_schema: an object with name and schema beside "type": "json_schema"')
    _keys("json_schema", wanted, ("name", "schema", "description", "strict"))
    _name("json_schema.name", wanted.get("name"))
    _text("json_schema.description", wanted.get("description"))
    _switch("json_schema.strict", wanted.get("strict"))
    _schema("json_schema.schema", wanted.get("schema"))
    return value


_NAMED: Final = '{"type": "function", "function": {"name": NAME}}'


def _function(where: str, function: object) -> None:
    if not isinstance(function, Mapping):
        raise ValueError(f"{where}: an object with name, description and parameters is expected")
    _keys(where, function, ("name", "description", "parameters", "strict"))
    _name(f"{where}.name", function.get("name"))
    _text(f"{where}.description", function.get("description"))
    _switch(f"{where}.strict", function.get("strict"))
    if function.get("parameters") is not None:
        _schema(f"{where}.parameters", function["parameters"])


def _keys(where: str, value: Mapping[str, Any], accepted: Sequence[str]) -> None:
    unknown = [key for key in value if key not in accepted]
    if unknown:
        at = f"{where}: " if where else ""
        raise ValueError(f"{at}there is no field {shown(unknown[0])}; accepted: {', '.join(accepted)}")


def _name(where: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{where}: {shown(value)}, accepted are 1 to 64 letters, digits, _ and -")


def _text(where: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: a text is expected, this is {shown(value)}")


def _switch(where: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{where}: true or false is expected, this is {shown(value)}")


def _schema(where: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: a JSON Schema (an object) is expected, this is {shown(value)}")
    from evalservice.catalog.jsonschemas import compiled_schema  # not at the top: it takes a while to load

    try:
        compiled_schema(value, where)
    except InvalidInput as error:
        raise ValueError(f"{error.field}: {shown(error.value)}, {error.accepted}") from None

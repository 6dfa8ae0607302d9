"""Tools, a choice of them and JSON formats: their shape is known before a model is asked."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.tools import check_choice
from evalservice.errors import InvalidInput
from tests.actors.vendor import WEATHER, any_json

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def function(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**WEATHER["function"], **changes}}


def test_what_has_the_documented_shape_is_sent_as_it_was_given() -> None:
    given = {
        "tools": [WEATHER, function(name="now", parameters=None)],
        "tool_choice": NAMED,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        "logprobs": True,
        "top_logprobs": 5,
    }
    assert ModelConfig.parse("config", given).sampling() == given


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tools": []}, "config.tools: [] is not valid: 1 to 128 tools"),
        ({"tools": [{"type": "web_search"}]}, "[0].type: 'web_search', accepted is \"function\""),
        ({"tools": [{"type": "function"}]}, "[0].function: an object"),
        ({"tools": [function(name="two words")]}, "[0].function.name: 'two words', accepted are 1 to 64 letters"),
        ({"tools": [function(parameters={"type": "objekt"})]}, "[0].function.parameters"),
        ({"tools": [function(params={})]}, "[0].function: there is no field 'params'"),
        ({"tools": [function(strict="yes")]}, "[0].function.strict: true or false"),
        ({"tools": [WEATHER, WEATHER]}, "a name for each tool; repeated: weather"),
        ({"tools": {"weather": {}}}, "config.tools"),
        ({"tool_choice": "any"}, "config.tool_choice: 'any' is not valid: auto, none, required"),
        ({"tool_choice": {"name": "weather"}}, "config.tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "json_schema: an object with name and schema"),
        ({"response_format": {"schema": {}}}, "an object with a type: text, json_object, json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": 7}}}},
            "json_schema.schema",
        ),
        ({"top_logprobs": 21}, "config.top_logprobs: 21"),
        ({"system_prompt": "You are careful."}, "config.system_prompt"),
    ],
)
def test_another_shape_is_refused_where_it_differs(given: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ModelConfig.parse("config", given)
    assert says in refused.value.message


@given(any_json("type", "function", "name", "parameters", "json_schema", "schema"))
def test_any_other_value_is_refused_in_one_line(value: Any) -> None:
    for key in ("tools", "tool_choice", "response_format"):
        with contextlib.suppress(InvalidInput):
            ModelConfig.parse("config", {key: value})


def test_a_tool_is_chosen_among_those_that_there_are() -> None:
    check_choice({"tools": [WEATHER], "tool_choice": NAMED})
    with pytest.raises(InvalidInput, match="give `tools` too"):
        check_choice({"tool_choice": "auto"})
    with pytest.raises(InvalidInput, match="a tool among now"):
        check_choice({"tools": [function(name="now")], "tool_choice": NAMED})


def test_whether_a_model_has_a_system_prompt_is_never_sent() -> None:
    assert ModelConfig.parse("config", {"system_prompt": False, "seed": 1}).sampling() == {"seed": 1}

"""What the formats of other tools have in common: the question, the references and the answers of a stored row."""

from __future__ import annotations

from typing import Any

import orjson

from evalservice.records import JSON


def text_of(value: JSON) -> str:
    """A value as other tools write texts: itself, or its JSON; nothing for null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def id_of(row: Any) -> str:
    """The test case's own id, else its index."""
    return row.test_case_id or str(row.test_case_index)


def messages_of(row: Any) -> list[dict[str, JSON]]:
    """What was sent, as messages."""
    messages = row.input_data.get("messages") if isinstance(row.input_data, dict) else None
    if isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages):
        return messages
    return [{"role": "user", "content": text_of(row.input_data)}]


def question_of(row: Any) -> str:
    """The last message."""
    return text_of(messages_of(row)[-1].get("content"))


def references_of(row: Any) -> list[str]:
    """The expected outputs, each as a text."""
    given = row.expected_output if isinstance(row.expected_output, list) else [row.expected_output]
    return [text_of(each) for each in given if each is not None]


def answers_of(row: Any) -> list[str]:
    """The completions."""
    given = row.actual_output if isinstance(row.actual_output, list) else [row.actual_output]
    return [text_of(each) for each in given] or [""]

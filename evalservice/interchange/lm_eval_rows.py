"""One row of a samples file of lm-evaluation-harness, and how a document's rows become an item.

The document becomes the test case that `datasets add --input-field question --expected-field answer` would make of it,
where the task's configuration says which field is asked and which is the answer: so the imported run and one of our own
on the same file are of the same dataset. Else the whole document is the input.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from evalservice.catalog.mapping import MAX_ID_CHARS
from evalservice.errors import InvalidInput
from evalservice.interchange.logjson import LogShape, bad_line, finite, parsed, shaped
from evalservice.interchange.records import LogItem
from evalservice.records import JSON
from evalservice.scoring import ItemScore
from evalservice.scoring.imported import NAME as SCORER

MAX_LIST_CHARS = 100_000
_FIELD = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")
_MISSING = object()


class Row(LogShape):
    """A document under one filter; each metric's value stands under the metric's own name."""

    model_config = ConfigDict(extra="allow")

    doc_id: int
    doc: Any
    target: Any = None
    arguments: Any = None
    resps: list[Any]
    filtered_resps: list[Any] = Field(default_factory=list)
    filter: str
    metrics: list[str]

    @property
    def own_id(self) -> str:
        """The document's own id, else its index in the split."""
        own = self.doc.get("id") if isinstance(self.doc, dict) else None
        if isinstance(own, int) and not isinstance(own, bool):
            own = str(own)
        return own if isinstance(own, str) and 0 < len(own) <= MAX_ID_CHARS else str(self.doc_id)


def row_of(line: bytes, name: str, number: int) -> Row:
    """A line as a row. Raises InvalidRecords."""
    where = f"{name}, line {number}"
    row = shaped(Row, parsed(line, where), where)
    if row.doc_id < 0 or not row.metrics:
        raise bad_line(
            name, number, "doc_id" if row.doc_id < 0 else "metrics", "an index from 0, and at least one metric"
        )
    return row


def numbers_of(row: Row) -> Iterator[tuple[str, float | None, bool]]:
    """Each metric's name with its filter, its value, and whether that is a number or nothing at all."""
    given = row.model_extra or {}
    for metric in row.metrics:
        value = given.get(metric)
        if isinstance(value, bool):
            value = float(value)
        nothing = value is None or (isinstance(value, float) and value != value)
        yield f"{metric},{row.filter}", finite(value), nothing or finite(value) is not None


def item_of(rows: Mapping[str, Row], kept: set[str], config: Mapping[str, Any], model: str) -> LogItem:
    """A document's rows, by filter, as one item."""
    first = next(iter(rows.values()))
    values = {key: value for row in rows.values() for key, value, _ in numbers_of(row) if key in kept}
    values = {**dict.fromkeys(sorted(kept - values.keys())), **values}
    requests = _requests(first.arguments)
    choices = _choices(first, config, requests)
    likelihoods = _likelihoods(first.resps)
    extracted = {name: row.filtered_resps[0] for name, row in rows.items() if len(row.filtered_resps) == 1}
    details = {"extracted": extracted} if extracted and not likelihoods else {}
    info: dict[str, JSON] = {"model": model}
    output: JSON
    if likelihoods:
        best = max(range(len(likelihoods)), key=lambda n: likelihoods[n][0])
        output = _chosen(best, choices, requests)
        info["loglikelihoods"] = [{"logprob": number, "greedy": greedy} for number, greedy in likelihoods]
    else:
        repeats = first.resps[0] if first.resps else []
        texts = repeats if isinstance(repeats, list) else [repeats]
        output = texts[0] if len(texts) == 1 else texts
    input_, expected, metadata = _case(first, config)
    return LogItem(
        id=first.own_id,
        input=input_,
        expected_output=expected,
        choices=choices,
        metadata=metadata,
        prompt=_prompt(requests),
        output=output,
        scores={SCORER: ItemScore("scored", values, details=details)},
        info=info,
    )


def _case(row: Row, config: Mapping[str, Any]) -> tuple[str | dict[str, JSON], JSON, dict[str, JSON]]:
    """Input, expected output, and the fields that are neither."""
    doc = row.doc if isinstance(row.doc, dict) else {"doc": row.doc}
    expected_field = _named(config.get("doc_to_target"), doc)
    expected = row.target if expected_field is None else _at(doc, expected_field)
    if expected_field is None and isinstance(expected, str) and expected[:1] == "[" and len(expected) < MAX_LIST_CHARS:
        expected = _python_list(expected)
    asked = [name for name in dict.fromkeys(_fields(config.get("doc_to_text"), doc)) if isinstance(_at(doc, name), str)]
    taken = {"id", expected_field, _named(config.get("doc_to_choice"), doc)}
    asked = [name for name in asked if name not in taken]
    if len(asked) != 1:
        whole = {"doc": doc} if "messages" in doc else dict(doc)
        return whole, expected, {}
    rest = {name: value for name, value in doc.items() if name not in {*taken, asked[0]}}
    return _at(doc, asked[0]), expected, rest


def _fields(template: Any, doc: Mapping[str, Any]) -> list[str]:
    """The document's fields in a template, or the one that a bare name is."""
    if not isinstance(template, str):
        return []
    names = [template] if template in doc else _FIELD.findall(template)
    return [name for name in names if _at(doc, name) is not _MISSING]


def _named(template: Any, doc: Mapping[str, Any]) -> str | None:
    """The one field that a template is, and nothing around it."""
    if not isinstance(template, str):
        return None
    whole = _FIELD.fullmatch(template.strip())
    name = whole[1] if whole else template
    return name if _at(doc, name) is not _MISSING else None


def _at(doc: Any, path: str) -> Any:
    if isinstance(doc, dict) and path in doc:
        return doc[path]
    for step in path.split("."):
        if not isinstance(doc, dict) or step not in doc:
            return _MISSING
        doc = doc[step]
    return doc


def _choices(row: Row, config: Mapping[str, Any], requests: Sequence[tuple[Any, Any]]) -> tuple[str, ...] | None:
    name = _named(config.get("doc_to_choice"), row.doc if isinstance(row.doc, dict) else {})
    given = _at(row.doc, name) if name is not None else config.get("doc_to_choice")
    if isinstance(given, list) and given and all(isinstance(choice, str) for choice in given):
        return tuple(given)
    if config.get("output_type") == "multiple_choice":
        texts = tuple(text.strip() for _, text in requests if isinstance(text, str))
        return texts or None
    return None


def _requests(arguments: Any) -> list[tuple[Any, Any]]:
    """What was sent: (prompt, options or continuation) of each request."""
    if isinstance(arguments, dict):  # 0.4.3 and later: gen_args_0, gen_args_1, … with arg_0, arg_1
        each = [value for value in arguments.values() if isinstance(value, dict)]
        return [(value.get("arg_0"), value.get("arg_1")) for value in each]
    if isinstance(arguments, list):
        return [(value[0], value[1]) for value in arguments if isinstance(value, list) and len(value) == 2]
    return []


def _prompt(requests: Sequence[tuple[Any, Any]]) -> JSON:
    prompt = requests[0][0] if requests else None
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        try:  # a chat is a list of one text, which is the JSON of the messages
            messages = parsed(prompt[0], "prompt")
        except InvalidInput:
            messages = None
        if isinstance(messages, list):
            return {"messages": messages}
        prompt = prompt[0]
    return {"messages": [{"role": "user", "content": prompt}]} if isinstance(prompt, str) else prompt


def _likelihoods(resps: Sequence[Any]) -> list[tuple[float, bool]]:
    """The log-probabilities of the choices, which are written as texts; none for generated texts."""
    found = []
    for each in resps:
        pair = each[0] if isinstance(each, list) and len(each) == 1 else None
        if not isinstance(pair, list) or len(pair) != 2:
            return []
        try:
            number = float(pair[0])
        except (TypeError, ValueError):
            return []
        found.append((number, str(pair[1]) == "True"))
    return found


def _chosen(best: int, choices: Sequence[str] | None, requests: Sequence[tuple[Any, Any]]) -> JSON:
    if choices is not None:
        return choices[best] if best < len(choices) else None
    return requests[best][1] if best < len(requests) and len(requests) > 1 else None


def _python_list(text: str) -> JSON:
    """A list target, which is written as Python writes it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value) else text

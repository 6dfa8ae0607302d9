"""A run as one JSON log of Inspect AI: each epoch a sample, each metric a scorer of its name.

    2026-11-24T17-18-50+00-00_gsm8k_<run>.json
        {"version": 2, "status": "success", "eval": {…}, "results": {"scores": […], …}, …, "samples": […]}

Whoever wants the header reads as far as the samples, so they come last. Inspect lists a log only under a name that
begins with its time. A corpus metric is left out, since Inspect's means are over items.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import orjson

from evalservice.interchange.chunks import Chunk
from evalservice.interchange.criteria import MAX_EPOCHS
from evalservice.interchange.exporting import ExportedRun
from evalservice.interchange.logjson import finite
from evalservice.interchange.rows import BATCH_ROWS
from evalservice.interchange.rows_out import answers_of, id_of, messages_of, references_of, text_of
from evalservice.records import JSON
from evalservice.scoring import ItemScore, Metric, from_details

_STATUS: Final = {"completed": "success", "failed": "error", "cancelled": "cancelled"}
_ROLES: Final = {role: role for role in ("system", "user", "assistant", "tool")} | {"developer": "system"}


def inspect_name(run: ExportedRun) -> str:
    """The file's name, as Inspect makes it of time, task and id."""
    task = re.sub(r"[^A-Za-z0-9.-]+", "-", run.benchmark)
    return f"{run.when:%Y-%m-%dT%H-%M-%S}+00-00_{task}_{run.id}"


def inspect_chunks(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    """The log piece by piece."""
    metrics = [metric for metric in run.metrics() if metric.kind != "corpus"]
    head = orjson.dumps(_head(run, metrics))
    yield head[:-1] + b',"samples":[', 0
    iterator = iter(rows)
    between = b""
    while batch := list(islice(iterator, BATCH_ROWS)):
        text = b",".join(orjson.dumps(sample) for row in batch for sample in _samples(run, metrics, row))
        yield between + text, len(batch)
        between = b","
    yield b"]}\n", 0


def _head(run: ExportedRun, metrics: list[Metric]) -> dict[str, JSON]:
    own = str(run.id)
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    generate = {name: run.config[name] for name in names if run.config.get(name) is not None}
    return {
        "version": 2,
        "status": _STATUS.get(run.status, "started"),
        "eval": {
            "eval_id": own,
            "run_id": own,
            "created": run.created_at.isoformat(),
            "task": run.benchmark,
            "task_id": own,
            "task_version": 0,
            "task_args": {},
            "dataset": {"name": run.dataset["name"], "shuffled": False},
            "model": run.model,
            "model_generate_config": generate,
            "model_args": {},
            "config": {"epochs": run.epochs},
            "packages": {"evalservice": run.version},
            "metadata": {"content_hash": run.dataset["content_hash"]},
        },
        "plan": {"name": "plan", "steps": [], "config": generate},
        "results": {**_totals(run), "scores": [*_scores(run, metrics)]},
        "stats": {
            "started_at": (run.started_at or run.when).isoformat(),
            "completed_at": run.when.isoformat(),
            "model_usage": {},
        },
    }


def _totals(run: ExportedRun) -> dict[str, JSON]:
    """How many samples there will be. A log of another tool may have had more epochs than a run of ours says."""
    if run.status != "completed" or run.epochs >= MAX_EPOCHS:
        return {}
    total = (run.completed + run.failed) * run.epochs
    return {"total_samples": total, "completed_samples": run.completed * run.epochs}


def _samples(run: ExportedRun, metrics: list[Metric], row: Any) -> Iterator[dict[str, JSON]]:
    """A sample for each epoch; the tokens are the first's."""
    details = from_details(row.score_details)
    answers = answers_of(row)
    scored = max((len(score.samples) for score in details.values()), default=0) or 1
    epochs = max(scored, run.epochs)
    references = references_of(row)
    messages = [_message(each) for each in messages_of(row)]
    for epoch in range(epochs):
        own = answers if epochs == 1 else answers[epoch : epoch + 1] or [""]
        values, errors = _scored(details.values(), epoch)
        if not row.success:
            errors = [row.error_message or "it has no completion"]
        elif epoch >= scored:
            errors = ["there is no such epoch of it"]
        known = {m.name: number for m in metrics if (number := finite(values.get(m.name))) is not None}
        yield {
            "id": id_of(row),
            "epoch": epoch + 1,
            "input": _input(messages),
            "target": references[0] if len(references) == 1 else references,
            "metadata": {"test_case_index": row.test_case_index},
            "messages": [*messages, {"role": "assistant", "content": own[0]}],
            "output": {
                "model": run.model,
                "choices": [{"message": {"role": "assistant", "content": text}, "stop_reason": "stop"} for text in own],
                "completion": own[0],
            },
            "scores": {} if errors else {name: {"value": value} for name, value in known.items()},
            "model_usage": _usage(run, row) if epoch == 0 else {},
            **({} if row.latency_ms is None else {"working_time": row.latency_ms / 1000}),
            "completed_at": row.executed_at.isoformat(),
            **({"error": {"message": errors[0], "traceback": "", "traceback_ansi": ""}} if errors else {}),
        }


def _scored(scores: Iterable[ItemScore], epoch: int) -> tuple[dict[str, float | None], list[str]]:
    """The values of an epoch, and why it has none."""
    values: dict[str, float | None] = {}
    errors = []
    for score in scores:
        each = score.samples[epoch] if epoch < len(score.samples) else score
        if each.status == "model_failed":
            errors.append(each.error or "it has no completion")
        values.update(each.values)
    return values, errors


def _message(given: dict[str, JSON]) -> dict[str, JSON]:
    """A message in one of Inspect's roles, its content a text or parts that Inspect knows."""
    content = given.get("content")
    parts: JSON = [_part(each) for each in content] if isinstance(content, list) else text_of(content)
    return {"role": _ROLES.get(str(given.get("role")), "user"), "content": parts}


def _part(given: JSON) -> JSON:
    """A text, an image by Inspect's or by OpenAI's name for it, or the JSON of anything else as a text."""
    if isinstance(given, dict):
        image = given.get("image_url")
        address = image.get("url") if isinstance(image, dict) else given.get("image")
        if given.get("type") in ("image", "image_url") and isinstance(address, str):
            return {"type": "image", "image": address}
        if given.get("type") == "text" and isinstance(given.get("text"), str):
            return {"type": "text", "text": given["text"]}
    return {"type": "text", "text": text_of(given)}


def _input(messages: list[dict[str, JSON]]) -> JSON:
    """A question is a text; a conversation, or what has an image, is its messages."""
    content = messages[0]["content"]
    alone = len(messages) == 1 and messages[0]["role"] == "user" and isinstance(content, str)
    return content if alone else [*messages]


def _usage(run: ExportedRun, row: Any) -> dict[str, JSON]:
    if row.input_tokens is None and row.output_tokens is None:
        return {}
    asked, given = row.input_tokens or 0, row.output_tokens or 0
    return {run.model: {"input_tokens": asked, "output_tokens": given, "total_tokens": asked + given}}


def _scores(run: ExportedRun, metrics: list[Metric]) -> Iterator[dict[str, JSON]]:
    for metric in metrics:
        result = run.results.get(metric.name, {})
        if finite(result.get("value")) is None:
            continue
        found = {"mean": result["value"], "stderr": result.get("stderr")}
        yield {
            "name": metric.name,
            "scorer": metric.name,
            "scored_samples": result.get("n", 0),
            "unscored_samples": result.get("total", 0) - result.get("n", 0),
            "params": {},
            "metrics": {
                name: {"name": name, "value": value, "params": {}} for name, value in found.items() if value is not None
            },
        }

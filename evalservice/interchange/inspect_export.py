"""A run as one JSON log of Inspect AI: each epoch a sample, each metric a scorer of its name.

The samples come before `results`, which count them. A corpus metric is left out, since Inspect's means are over items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from evalservice.interchange.chunks import Chunk
from evalservice.interchange.exporting import ExportedRun
from evalservice.interchange.logjson import finite
from evalservice.interchange.rows import BATCH_ROWS
from evalservice.interchange.rows_out import answers_of, id_of, messages_of, references_of
from evalservice.records import JSON
from evalservice.scoring import Metric, from_details


def inspect_chunks(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    """The log piece by piece."""
    metrics = [metric for metric in run.metrics() if metric.kind != "corpus"]
    head = orjson.dumps(_head(run))
    yield head[:-1] + b',"samples":[', 0
    total = completed = 0
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        samples = [sample for row in batch for sample in _samples(run, metrics, row)]
        completed += sum("error" not in sample for sample in samples)
        text = b",".join(orjson.dumps(sample) for sample in samples)
        yield (b"," if total and text else b"") + text, len(batch)
        total += len(samples)
    results = {"total_samples": total, "completed_samples": completed, "scores": [*_scores(run, metrics)]}
    yield b'],"results":' + orjson.dumps(results) + b"}\n", 0


def _head(run: ExportedRun) -> dict[str, JSON]:
    moment = run.when.isoformat()
    own = str(run.id)
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    generate = {name: run.config[name] for name in names if run.config.get(name) is not None}
    return {
        "version": 2,
        "status": "success",
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
            "config": {"epochs": run.criteria.get("epochs", 1)},
            "packages": {"evalservice": run.version},
            "metadata": {"content_hash": run.dataset["content_hash"]},
        },
        "plan": {"name": "plan", "steps": [], "config": generate},
        "stats": {"started_at": moment, "completed_at": moment, "model_usage": {}},
    }


def _samples(run: ExportedRun, metrics: list[Metric], row: Any) -> Iterator[dict[str, JSON]]:
    """A sample for each epoch that was scored by itself, else one; the tokens are the first's."""
    details = from_details(row.score_details)
    answers = answers_of(row)
    epochs = max((len(score.samples) for score in details.values()), default=0) or 1
    references = references_of(row)
    messages = messages_of(row)
    for epoch in range(epochs):
        own = answers if epochs == 1 else answers[epoch : epoch + 1] or [""]
        values: dict[str, float | None] = {}
        errors = [] if row.success else [row.error_message or "it has no completion"]
        for score in details.values():
            each = score.samples[epoch] if epoch < len(score.samples) else score
            if each.status == "model_failed":
                errors.append(each.error or "it has no completion")
            values.update(each.values)
        known = {m.name: number for m in metrics if (number := finite(values.get(m.name))) is not None}
        yield {
            "id": id_of(row),
            "epoch": epoch + 1,
            "input": messages[0]["content"] if len(messages) == 1 else messages,
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
            "unscored_samples": 0,
            "params": {},
            "metrics": {
                name: {"name": name, "value": value, "params": {}} for name, value in found.items() if value is not None
            },
        }

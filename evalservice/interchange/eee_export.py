"""A run as Every Eval Ever 0.3: an archive with the aggregates and the rows, where its validator looks for them.

    data/gsm8k/openai/gpt-4o-mini/<uuid>.json    data/gsm8k/openai/gpt-4o-mini/<uuid>_samples.jsonl

The uuid is made of the run's id: exporting a run twice gives the same names. One row is one test case under one metric,
with all its completions and the mean over them. A test case without a completion has one row, with its error. A corpus
metric has an aggregate and no rows, since it is no mean of them.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import orjson

from evalservice.interchange.chunks import Chunk
from evalservice.interchange.exporting import ExportedRun
from evalservice.interchange.logjson import finite
from evalservice.interchange.rows import BATCH_ROWS
from evalservice.interchange.rows_out import answers_of, id_of, messages_of, question_of, references_of, text_of
from evalservice.interchange.zipping import Member
from evalservice.records import JSON
from evalservice.scoring import Metric

SCHEMA_VERSION: Final = "0.3.0"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._@+-]+")


def every_eval_ever_files(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Member]:
    """The rows first: the file of aggregates states their number and checksum."""
    developer, _, model = run.model_id.partition("/")
    folder = "/".join(["data", *(_UNSAFE.sub("_", step) or "_" for step in (run.benchmark, developer, model))])
    stem = f"{folder}/{_uuid4_of(run.id)}"
    written = _Written()
    yield f"{stem}_samples.jsonl", written.passed(_samples(run, rows))
    document = _aggregates(run, f"{stem}_samples.jsonl", written)
    yield f"{stem}.json", [(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n", 0)]


def _uuid4_of(run_id: uuid.UUID) -> uuid.UUID:
    """The schema wants version 4, and a run should be the same file each time."""
    return uuid.UUID(bytes=hashlib.sha256(run_id.bytes).digest()[:16], version=4)


class _Written:
    """What has been written: how many lines, and their checksum."""

    def __init__(self) -> None:
        self.checksum = hashlib.sha256()
        self.lines = 0

    def passed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for text, rows in chunks:
            self.checksum.update(text)
            self.lines += text.count(b"\n")
            yield text, rows


def _aggregates(run: ExportedRun, rows: str, written: _Written) -> dict[str, JSON]:
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "evaluation_timestamp": str(run.when.timestamp()),
        "retrieved_timestamp": str(run.when.timestamp()),
        "source_metadata": {
            "source_name": "evalservice",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            "additional_details": {"run_id": str(run.id)},
        },
        "eval_library": {"name": "evalservice", "version": run.version},
        "model_info": {
            "name": run.model,
            "id": run.model_id,
            "developer": run.model_id.partition("/")[0],
            "inference_platform": run.platform,
            "additional_details": {"deployment_type": "unknown", "model_availability": "unknown"},
        },
        "evaluation_results": [
            _result(run, metric, result)
            for metric in run.metrics()
            if finite((result := run.results.get(metric.name, {})).get("value")) is not None
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": rows,
            "hash_algorithm": "sha256",
            "checksum": written.checksum.hexdigest(),
            "total_rows": written.lines,
        },
    }


def _evaluation_id(run: ExportedRun) -> str:
    return f"{run.benchmark}/{run.model_id.replace('/', '_')}/{run.when.timestamp()}"


def _result(run: ExportedRun, metric: Metric, result: Mapping[str, Any]) -> dict[str, JSON]:
    low, high = metric.scale
    uncertainty: dict[str, JSON] = {"num_samples": result.get("n", 0)}
    if finite(result.get("stderr")) is not None:
        uncertainty["standard_error"] = {"value": result["stderr"], "method": "analytic"}
    if finite(result.get("ci_low")) is not None and finite(result.get("ci_high")) is not None:
        uncertainty["confidence_interval"] = {
            "lower": result["ci_low"],
            "upper": result["ci_high"],
            "confidence_level": result.get("level", 0.95),
            "method": str(result.get("interval", "")),
        }
    names = ("temperature", "top_p", "top_k", "max_tokens")
    asked = {name: run.config[name] for name in names if run.config.get(name) is not None}
    return {
        "evaluation_result_id": metric.name,
        "evaluation_name": run.benchmark,
        "source_data": {
            "dataset_name": run.dataset["name"],
            "source_type": "other",
            "additional_details": {"content_hash": run.dataset["content_hash"]},
        },
        "metric_config": {
            "metric_id": f"evalservice.{metric.name}",
            "metric_name": metric.name,
            "lower_is_better": not metric.higher_is_better,
            "score_type": "continuous",
            "min_score": "-Infinity" if low is None else low,
            "max_score": "Infinity" if high is None else high,
        },
        "score_details": {"score": result["value"], "uncertainty": uncertainty},
        **({"generation_config": {"generation_args": asked}} if asked else {}),
    }


def _samples(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Chunk]:
    metrics = [metric for metric in run.metrics() if metric.kind != "corpus"]
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        lines = [orjson.dumps(sample) + b"\n" for row in batch for sample in _of(run, metrics, row)]
        yield b"".join(lines), len(batch)


def _of(run: ExportedRun, metrics: Iterable[Metric], row: Any) -> Iterator[dict[str, JSON]]:
    """A row for each metric that has a value; one with the error where none has."""
    values = {metric: finite(row.metrics.get(metric.name)) for metric in metrics} if row.success else {}
    known = {metric: value for metric, value in values.items() if value is not None}
    common = _common(run, row)
    for metric, value in known.items():
        yield {
            **common,
            "evaluation_result_id": metric.name,
            "evaluation": {"score": value, "is_correct": value == metric.scale[1 if metric.higher_is_better else 0]},
        }
    if not known:
        error = row.error_message or "it has no score"
        yield {**common, "evaluation": {"score": 0.0, "is_correct": False}, "error": error}


def _common(run: ExportedRun, row: Any) -> dict[str, JSON]:
    messages = messages_of(row)
    asked = {"raw": question_of(row), "reference": references_of(row)}
    whole = "\n".join(f"{each.get('role')}: {text_of(each.get('content'))}" for each in messages)
    digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": _evaluation_id(run),
        "model_id": run.model_id,
        "evaluation_name": run.benchmark,
        "sample_id": id_of(row),
        "sample_hash": digest,
        "interaction_type": "single_turn",
        "input": {**asked, **({"formatted": whole} if len(messages) > 1 else {})},
        "output": {"raw": answers_of(row)},
        "answer_attribution": [],
        "token_usage": _usage(row),
        "performance": None if row.latency_ms is None else {"latency_ms": row.latency_ms},
        "metadata": {"test_case_index": str(row.test_case_index)},
    }


def _usage(row: Any) -> dict[str, int] | None:
    """All three numbers or none."""
    if row.input_tokens is None or row.output_tokens is None:
        return None
    total = row.input_tokens + row.output_tokens
    return {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens, "total_tokens": total}

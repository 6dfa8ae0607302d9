"""A run as lm-evaluation-harness writes its own: an archive with a results file and the samples of the one task.

    org__large/results_2026-11-24T17-21-26.565075.json    org__large/samples_gsm8k_2026-11-24T17-21-26.565075.jsonl

A metric without a filter gets the filter `none`. The tool knows no failed request and no corpus metric per row: test
cases without a completion are counted in `n-samples.original` only, and corpus metrics are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import orjson

from evalservice.interchange.chunks import Chunk
from evalservice.interchange.exporting import ExportedRun
from evalservice.interchange.logjson import finite
from evalservice.interchange.rows import BATCH_ROWS
from evalservice.interchange.rows_out import answers_of, id_of, messages_of, question_of
from evalservice.interchange.zipping import Member
from evalservice.records import JSON

NO_FILTER: Final = "none"


def lm_eval_files(run: ExportedRun, rows: Iterable[Any]) -> Iterator[Member]:
    """The samples first: the results state their number."""
    task = run.benchmark.replace("/", "__")
    stamp = run.when.strftime("%Y-%m-%dT%H-%M-%S.%f")
    folder = run.model.replace("/", "__")
    keys = [_key(metric.name) for metric in run.metrics() if metric.kind != "corpus"]
    samples = _Samples(keys)
    yield f"{folder}/samples_{task}_{stamp}.jsonl", samples.lines(rows)
    document = _results(run, task, samples)
    yield f"{folder}/results_{stamp}.json", [(orjson.dumps(document, option=orjson.OPT_INDENT_2), 0)]


def _key(name: str) -> tuple[str, str]:
    """Metric and filter."""
    metric, comma, own_filter = name.rpartition(",")
    return (metric, own_filter) if comma else (name, NO_FILTER)


class _Samples:
    """The rows as lines, counted."""

    def __init__(self, keys: list[tuple[str, str]]) -> None:
        self.keys = keys
        self.total = self.written = 0

    def lines(self, rows: Iterable[Any]) -> Iterator[Chunk]:
        iterator = iter(rows)
        while batch := list(islice(iterator, BATCH_ROWS)):
            self.total += len(batch)
            good = [row for row in batch if row.success]
            self.written += len(good)
            yield b"".join(orjson.dumps(each) + b"\n" for row in good for each in self._of(row)), len(batch)

    def _of(self, row: Any) -> Iterator[dict[str, JSON]]:
        values = {_key(name): finite(value) for name, value in row.metrics.items()}
        answers = answers_of(row)
        messages = messages_of(row)
        prompt: JSON = question_of(row) if len(messages) == 1 else [orjson.dumps(messages).decode()]
        doc = {"id": id_of(row), "question": question_of(row), "answer": row.expected_output}
        for own_filter in dict.fromkeys(own_filter for _, own_filter in self.keys):
            metrics = {metric: values.get((metric, own_filter)) for metric, each in self.keys if each == own_filter}
            yield {
                "doc_id": row.test_case_index,
                "doc": doc,
                "target": str(row.expected_output),
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
                "resps": [answers],
                "filtered_resps": answers[:1],
                "filter": own_filter,
                "metrics": list(metrics),
                **metrics,
            }


def _results(run: ExportedRun, task: str, samples: _Samples) -> dict[str, JSON]:
    stated: dict[str, JSON] = {"alias": task, "name": task, "sample_len": samples.written}
    better: dict[str, bool] = {}
    for metric in run.metrics():
        result = run.results.get(metric.name, {})
        if metric.kind == "corpus" or finite(result.get("value")) is None:
            continue
        name, own_filter = _key(metric.name)
        stated[f"{name},{own_filter}"] = result["value"]
        stated[f"{name}_stderr,{own_filter}"] = "N/A" if result.get("stderr") is None else result["stderr"]
        better[name] = metric.higher_is_better
    means = [{"metric": name, "aggregation": "mean", "higher_is_better": higher} for name, higher in better.items()]
    generation = {name: run.config[name] for name in ("temperature", "top_p", "max_tokens") if name in run.config}
    return {
        "results": {task: stated},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "doc_to_text": "{{question}}",
                "doc_to_target": "answer",
                "metric_list": means,
                "output_type": "generate_until",
                "generation_kwargs": generation,
                "repeats": 1,
            }
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: better},
        "n-samples": {task: {"original": samples.total, "effective": samples.written}},
        "config": {"model": "evalservice", "model_args": {}, "gen_kwargs": generation, "limit": None},
        "date": (run.started_at or run.when).timestamp(),
        "total_evaluation_time_seconds": str((run.when - (run.started_at or run.when)).total_seconds()),
        "lm_eval_version": f"evalservice {run.version}",
        "model_source": "evalservice",
        "model_name": run.model,
    }

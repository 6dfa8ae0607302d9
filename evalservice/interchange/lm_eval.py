"""lm-evaluation-harness 0.4: a results file, and beside it a samples file for each task with the same time stamp.

    results_2026-11-24T17-21-26.565075.json   {"results": {"tiny_qa": {"exact_match,strict-match": 0.3, …}, …}, …}
    samples_tiny_qa_2026-11-24T17-21-26.565075.jsonl
        {"doc_id": 0, "doc": {"id": "q-apples", "question": …, "answer": 7}, "target": "7", "filter": "strict-match",
         "resps": [[" #### 7"]], "filtered_resps": ["7"], "metrics": ["exact_match"], "exact_match": 1.0, …}

A row is one document under one filter, and all rows of the first filter come before those of the second: a first pass
notes where each row is, later ones read them document by document. A metric is called METRIC,FILTER, as in `results`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from pydantic import Field

from evalservice.errors import InvalidInput
from evalservice.interchange.limits import ItemSizes, check_group_members, check_metrics
from evalservice.interchange.lm_eval_groups import group_contradictions
from evalservice.interchange.lm_eval_rows import item_of, numbers_of, row_of
from evalservice.interchange.logjson import LogShape, bad_line, document, finite, lines, opened
from evalservice.interchange.records import LogFiles, LogItem, LogRun
from evalservice.interchange.tally import Tally

TOOL = "lm-eval"
STAMP = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl?$")
NO_SCORE = "bypass"
"""What `--predict_only` writes in a score's place, with the aggregate 999."""
_MEANS = ("mean", "nanmean")


class _Counts(LogShape):
    original: int
    effective: int


class Results(LogShape):
    """What is read of a results file."""

    results: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    versions: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, _Counts] = Field(default_factory=dict, alias="n-samples")
    shots: dict[str, Any] = Field(default_factory=dict, alias="n-shot")
    higher_is_better: dict[str, dict[str, Any]] = Field(default_factory=dict)
    group_subtasks: dict[str, list[str]] = Field(default_factory=dict)
    model_name: str
    model_source: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    lm_eval_version: str | None = None
    date: float | int | None = None
    seconds: Any = Field(default=None, alias="total_evaluation_time_seconds")
    task_hashes: dict[str, Any] = Field(default_factory=dict)
    system_instruction: str | None = None
    chat_template_sha: str | None = None
    git_hash: str | None = None


def read_lm_eval(log: LogFiles) -> list[LogRun]:
    """A run for each task of the results file. Raises InvalidInput."""
    results = document(log.path, log.main, Results)
    tasks = [task for task in results.results if task in results.configs]
    if not tasks:
        raise InvalidInput(f"{log.main}: results", list(results.results)[:5], "at least one task that configs has")
    check_group_members(sum(map(len, results.group_subtasks.values())), log.main)
    runs = [_run(log, results, task) for task in tasks]
    disagreeing = group_contradictions(
        results.group_subtasks,
        {name: stated_of(values) for name, values in results.results.items()},
        {run.task: run.stated for run in runs},
        {task: counts.effective for task, counts in results.counts.items()},
    )
    if disagreeing:
        runs[0] = replace(runs[0], contradictions=(*runs[0].contradictions, *disagreeing))
    return runs


def stated_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The aggregates among a task's entries, which also hold names, counts, standard errors and "N/A"."""
    stated = {}
    for key, value in values.items():
        metric, comma, _ = key.rpartition(",")
        number = finite(value)
        if comma and number is not None and not metric.endswith("_stderr"):
            stated[key] = number
    return stated


@dataclass(slots=True)
class _Scan:
    """What the first pass over a samples file found. own_ids: whether the documents' own ids tell them apart."""

    own_ids: bool = True
    offsets: dict[int, dict[str, int]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    sizes: ItemSizes = field(default_factory=ItemSizes)
    no_numbers: set[str] = field(default_factory=set)


def _run(log: LogFiles, results: Results, task: str) -> LogRun:
    name = _samples_name(log, task)
    config = results.configs[task]
    scan = _scanned(log, name)
    left_out = {f"{metric}: its values are no numbers" for metric in scan.no_numbers}
    aggregations = _aggregations(config)
    for key in list(scan.tally.seen):
        how = aggregations.get(key.rpartition(",")[0])
        if how is not None and how not in _MEANS:
            scan.no_numbers.add(key)
            left_out.add(f"{key}: aggregated by {how}, which is no mean over test cases")
    for key in scan.no_numbers:
        scan.tally.seen.pop(key, None)
    if not scan.tally.seen:
        raise InvalidInput(
            "file", name, f"rows with a metric that is a mean of numbers ({'; '.join(sorted(left_out))})"
        )
    lower = {
        key: results.higher_is_better.get(task, {}).get(key.rpartition(",")[0]) is False for key in scan.tally.seen
    }
    stated = {
        key: value
        for key, value in stated_of(results.results[task]).items()
        if not key.startswith(f"{NO_SCORE},") and key not in scan.no_numbers
        and aggregations.get(key.rpartition(",")[0], "mean") in _MEANS
    }  # fmt: skip
    started = _moment(results.date)
    seconds = _seconds(results.seconds)
    kept = set(scan.tally.seen)

    def items() -> Iterator[LogItem]:
        with closing(opened(log.paths[name], name)) as file:
            for doc_id in sorted(scan.offsets):
                rows = {}
                for own_filter, start in scan.offsets[doc_id].items():
                    file.seek(start)
                    rows[own_filter] = row_of(file.readline(), name, 0)
                item = item_of(rows, kept, config, results.model_name)
                yield item if scan.own_ids else replace(item, id=str(doc_id))

    return LogRun(
        task=task,
        model=results.model_name,
        tool=TOOL,
        tool_version=results.lm_eval_version or "",
        measure=f"{TOOL} {task} {results.versions.get(task, '')}".strip()[:500],
        metrics=scan.tally.metrics(lower),
        items=items,
        stated=stated,
        contradictions=_contradictions(results, task, scan, stated),
        notes=tuple(sorted(left_out)),
        config=_config(results, config),
        settings=_settings(results, task, config),
        started_at=started,
        completed_at=started + timedelta(seconds=seconds) if started and seconds is not None else None,
    )


def _samples_name(log: LogFiles, task: str) -> str:
    """The task's samples file: by its whole name, since `samples_tiny_qa_…` also begins those of tiny_qa_rep."""
    stamp = STAMP.search(log.main)
    wanted = f"samples_{task}_{stamp[1] if stamp else '<stamp>'}.jsonl"
    if wanted not in log.paths:
        raise InvalidInput("file", log.main, f"{wanted} beside it: run lm_eval with --log_samples")
    return wanted


def _scanned(log: LogFiles, name: str) -> _Scan:
    scan = _Scan()
    ids: dict[str, int] = {}
    with closing(opened(log.paths[name], name)) as file:
        for number, start, line in lines(file, name):
            row = row_of(line, name, number)
            own = scan.offsets.setdefault(row.doc_id, {})
            if row.filter in own:
                raise bad_line(name, number, "doc_id", f"document {row.doc_id} a second time for filter {row.filter!r}")
            own[row.filter] = start
            scan.sizes.add(row.doc_id, len(line), name)
            scan.own_ids = scan.own_ids and ids.setdefault(row.own_id, row.doc_id) == row.doc_id
            for key, value, is_number in numbers_of(row):
                scan.tally.add(key, value)
                if not is_number:
                    scan.no_numbers.add(key)
            check_metrics(len(scan.tally.seen), name)
    if not scan.offsets:
        raise InvalidInput("file", name, "a samples file with at least one row")
    return scan


def _aggregations(config: Mapping[str, Any]) -> dict[str, str]:
    """Metric → how its rows become one number, where the task's configuration says so."""
    listed = config.get("metric_list")
    if not isinstance(listed, list):
        return {}
    return {
        str(each["metric"]): str(each["aggregation"])
        for each in listed
        if isinstance(each, dict) and "metric" in each and "aggregation" in each
    }


def _contradictions(results: Results, task: str, scan: _Scan, stated: Mapping[str, float]) -> tuple[str, ...]:
    found = [
        f"{key}: stated {value:.10g}, but no row has it" for key, value in stated.items() if key not in scan.tally.seen
    ]
    counts = results.counts.get(task)
    if counts is not None and counts.effective != len(scan.offsets):
        found.append(f"{task}: {counts.effective} test cases are stated, the rows have {len(scan.offsets)}")
    filters = {name for own in scan.offsets.values() for name in own}
    lacking = sum(len(own) < len(filters) for own in scan.offsets.values())
    if lacking:
        found.append(f"{task}: {lacking} test cases lack the row of a filter")
    return tuple(found)


def _config(results: Results, config: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was asked, by the names of our own configuration."""
    given = {**_object(config.get("generation_kwargs")), **_object(results.config.get("gen_kwargs"))}
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "until": "stop",
             "max_gen_toks": "max_tokens", "max_tokens": "max_tokens", "seed": "seed"}  # fmt: skip
    return {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None}


def _settings(results: Results, task: str, config: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        "dataset_path": config.get("dataset_path"),
        "dataset_name": config.get("dataset_name"),
        "split": config.get("test_split") or config.get("validation_split"),
        "prompt": {
            "num_fewshot": results.shots.get(task),
            "system_instruction": results.system_instruction,
            "chat_template_sha": results.chat_template_sha,
        },
        "repeats": config.get("repeats"),
        "task_version": results.versions.get(task),
        "task_hash": results.task_hashes.get(task),
        "model_source": results.model_source,
        "limit": results.config.get("limit"),
        "random_seed": results.config.get("random_seed"),
        "git_hash": results.git_hash,
        "groups": {
            group: stated_of(results.results.get(group, {}))
            for group, members in results.group_subtasks.items()
            if task in members
        },
    }
    return {name: value for name, value in own.items() if value not in (None, {}, [])}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _moment(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _seconds(text: Any) -> float | None:
    try:
        found = finite(orjson.loads(text)) if isinstance(text, str) else finite(text)
    except orjson.JSONDecodeError:
        return None
    return found if found is not None and 0 <= found < 1e9 else None

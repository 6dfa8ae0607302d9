"""Small logs as other tools write them, made anew for each test.

lm_eval_log(folder)  inspect_log(folder)  eee_log(folder)  ->  the main file's path
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from evalservice.interchange.logs import find_logs
from evalservice.interchange.records import LogFiles

STAMP = "2026-11-24T17-21-26.565075"
QUESTIONS = ("What is 1 plus 1?", "What is 2 plus 2?", "What is 3 plus 3?", "What is 4 plus 4?")


def the_log(path: Path) -> LogFiles:
    """The one log that a path is."""
    [log] = find_logs(path)
    return log


def lm_eval_rows(
    strict: Sequence[Any] = (1.0, 0.0, 1.0, 0.0), loose: Sequence[Any] = (1.0, 1.0, 1.0, 0.0), **changes: Any
) -> list[dict[str, Any]]:
    """The rows of a task with two filters, all of the first before all of the second."""
    return [
        {
            "doc_id": index,
            "doc": {"id": f"q-{index}", "question": question, "answer": 2 * (index + 1), "topic": "sums"},
            "target": str(2 * (index + 1)),
            "arguments": {"gen_args_0": {"arg_0": f"Question: {question}\nAnswer:", "arg_1": {"until": ["\n"]}}},
            "resps": [[f" {2 * (index + 1)}"]],
            "filtered_resps": [str(2 * (index + 1))],
            "filter": name,
            "metrics": ["exact_match"],
            "exact_match": value,
            **changes,
        }
        for name, values in (("strict", strict), ("loose", loose))
        for index, (question, value) in enumerate(zip(QUESTIONS, values, strict=True))
    ]


def lm_eval_log(
    folder: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    results: Mapping[str, Any] | None = None,
    model: str = "org/large",
    **changes: Any,
) -> Path:
    """A results file and its samples; `changes` replace what stands in the results file."""
    rows = {"sums": lm_eval_rows()} if rows is None else rows
    document = {
        "results": results or {"sums": {"alias": "sums", "exact_match,strict": 0.5, "exact_match,loose": 0.75}},
        "configs": {
            task: {
                "task": task,
                "doc_to_text": "Question: {{question}}\nAnswer:",
                "doc_to_target": "answer",
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
                "generation_kwargs": {"until": ["\n"], "temperature": 0.0},
            }
            for task in rows
        },
        "versions": dict.fromkeys(rows, 1.0),
        "n-samples": {
            task: {"original": len(QUESTIONS), "effective": len({row.get("doc_id") for row in each})}
            for task, each in rows.items()
        },
        "n-shot": dict.fromkeys(rows, 0),
        "higher_is_better": {task: {"exact_match": True} for task in rows},
        "config": {"model": "local-completions", "limit": None},
        "date": 1795540879.29,
        "lm_eval_version": "0.4.13",
        "model_name": model,
        "total_evaluation_time_seconds": "13.39",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{STAMP}.json"
    path.write_text(json.dumps(document))
    for task, each in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in each)
        (folder / f"samples_{task}_{STAMP}.jsonl").write_text(lines)
    return path


def inspect_sample(index: int, epoch: int, value: Any, **changes: Any) -> dict[str, Any]:
    """A sample with one score."""
    return {
        "id": f"q-{index}",
        "epoch": epoch,
        "input": QUESTIONS[index],
        "target": str(2 * (index + 1)),
        "messages": [
            {"id": f"m{epoch}", "role": "user", "content": QUESTIONS[index]},
            {"id": f"a{epoch}", "role": "assistant", "content": str(value)},
        ],
        "output": {"model": "large", "completion": f"answer {value}", "choices": [{"stop_reason": "stop"}]},
        "scores": {"match": {"value": value, "answer": str(value)}},
        "model_usage": {"openai/large": {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}},
        "working_time": 0.5,
        "started_at": "2026-11-24T17:17:51+00:00",
        "completed_at": "2026-11-24T17:17:52+00:00",
        **changes,
    }


def inspect_header(stated: float | None = 0.75, total: int = 8, **changes: Any) -> dict[str, Any]:
    """A log without its samples."""
    scores = [{"name": "match", "scorer": "match", "metrics": {"accuracy": {"name": "accuracy", "value": stated}}}]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "task": "sums",
            "task_version": 1,
            "model": "openai/large",
            "dataset": {"name": "sums"},
            "config": {"epochs": 2},
            "model_generate_config": {"temperature": 0.5, "max_connections": 4},
            "packages": {"inspect_ai": "0.3.285"},
        },
        "results": {"total_samples": total, "scores": scores},
        "stats": {"started_at": "2026-11-24T17:17:50+00:00", "completed_at": "2026-11-24T17:18:50+00:00"},
        **changes,
    }


def inspect_samples() -> list[dict[str, Any]]:
    """Four items in two epochs; the third fails once, the fourth is half right. The mean over items is 0.75."""
    values = (("C", "C"), ("I", "C"), ("C", "C"), ("P", "P"))
    samples = [inspect_sample(index, epoch, values[index][epoch - 1]) for epoch in (1, 2) for index in (3, 1, 0, 2)]
    samples[3] |= {"scores": {}, "error": {"message": "it broke"}, "output": {"choices": []}}
    return samples


def inspect_json(
    folder: Path, samples: Sequence[Mapping[str, Any]] | None = None, header: Mapping[str, Any] | None = None
) -> Path:
    """A log as one JSON file, `NaN` as Python writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.json"
    given = inspect_samples() if samples is None else samples
    path.write_text(json.dumps({**(header or inspect_header()), "samples": given}))
    return path


def inspect_members(
    samples: Sequence[Mapping[str, Any]] | None = None, header: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The members of an `.eval` archive."""
    given = inspect_samples() if samples is None else samples
    return {
        "_journal/start.json": b"{}",
        **{f"samples/{s['id']}_epoch_{s['epoch']}.json": json.dumps(s).encode() for s in given},
        "header.json": json.dumps(header or inspect_header()).encode(),
    }


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def zstd_zipped(path: Path, members: Mapping[str, bytes], frames: int = 1) -> Path:
    """An archive whose members are zstd (method 93), in one frame or several, as Inspect AI writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body, directory = b"", b""
    codec = pa.Codec("zstd")
    for name, text in members.items():
        size = max(1, -(-len(text) // frames))
        parts = [text[start : start + size] for start in range(0, len(text), size)] or [b""]
        packed = b"".join(codec.compress(part, asbytes=True) for part in parts)
        common = struct.pack("<HHHHHLLLHH", 63, 0, 93, 0, 33, zlib.crc32(text), len(packed), len(text), len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 63) + common
        directory += struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + common + name.encode() + packed
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return path


def eee_rows(values: Iterable[float] = (1.0, 0.0, 1.0, 1.0), result: str = "accuracy") -> list[dict[str, Any]]:
    """One row an item."""
    return [
        {
            "schema_version": "0.3.0",
            "evaluation_id": "sums/large/1",
            "model_id": "org/large",
            "evaluation_name": "sums",
            "evaluation_result_id": result,
            "sample_id": f"q-{index}",
            "interaction_type": "single_turn",
            "input": {"raw": QUESTIONS[index], "reference": [str(2 * (index + 1))]},
            "output": {"raw": [f"answer {value}"]},
            "answer_attribution": [],
            "evaluation": {"score": value, "is_correct": value == 1.0},
            "token_usage": {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12},
            "performance": {"latency_ms": 500.0},
        }
        for index, value in enumerate(values)
    ]


def eee_log(
    folder: Path, rows: Sequence[Mapping[str, Any]] | None = None, stated: float = 0.75, **changes: Any
) -> Path:
    """Aggregates, and their rows beside them."""
    text = "".join(json.dumps(row) + "\n" for row in (eee_rows() if rows is None else rows)).encode()
    stem = "9f3741d5-7adc-40bb-8bdf-51989d994d77"
    document = {
        "schema_version": "0.3.0",
        "evaluation_id": "sums/large/1",
        "evaluation_timestamp": "1795540879",
        "retrieved_timestamp": "1795540879",
        "source_metadata": {
            "source_type": "evaluation_run",
            "source_organization_name": "o",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "lm_eval", "version": "0.4.13"},
        "model_info": {"name": "org/large", "id": "org/large", "additional_details": {}},
        "evaluation_results": [
            {
                "evaluation_result_id": "accuracy",
                "evaluation_name": "sums",
                "source_data": {"dataset_name": "sums", "source_type": "other"},
                "metric_config": {"lower_is_better": False},
                "score_details": {"score": stated},
            }
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": f"data/sums/org/large/{stem}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text).hexdigest(),
            "total_rows": text.count(b"\n"),
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}_samples.jsonl").write_bytes(text)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(document))
    return path


def own_jsonl(folder: Path) -> Path:
    """Rows as `runs export --format jsonl` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    scored = {"status": "scored", "values": {"exact_match": 1.0}, "details": {"extracted": "2"}}
    rows = [
        {
            "test_case_index": index,
            "test_case_id": f"q-{index}",
            "cluster": None,
            "input_data": {"messages": [{"role": "user", "content": question}]},
            "expected_output": str(2 * (index + 1)),
            "actual_output": ["2", "2"],
            "metrics": {"exact_match": 1.0},
            "score_details": {"scores": {"exact_match": {**scored, "samples": [scored, scored]}}},
            "completion_info": {"model": "large"},
            "success": True,
            "error_kind": "",
            "error_message": "",
            "latency_ms": 12.5,
            "input_tokens": 10,
            "output_tokens": 2,
            "cost": "0.0000525",
            "executed_at": "2026-11-24T17:17:52+00:00",
        }
        for index, question in enumerate(QUESTIONS)
    ]
    path = folder / "run.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

"""A log may have so much of each kind: what would take hours or gigabytes is refused, with the limit."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from evalservice.interchange import inspect_samples as samples_of_inspect
from evalservice.interchange import limits, result_rows
from evalservice.interchange.logs import find_logs, read_log
from evalservice.storable import dump
from tests.evalservice.reading import refused, run_of, tables_of
from tests.logs import (
    QUESTIONS,
    eee_log,
    eee_rows,
    inspect_header,
    inspect_json,
    inspect_sample,
    inspect_samples,
    lm_eval_log,
    lm_eval_rows,
    own_jsonl,
    the_log,
)

LONG = "x" * 600_000


def deep_log(folder: Path, kind: str, depth: int) -> Path:
    """A log whose last question is a message of that many arrays within each other."""
    makers = {"lm-eval": lm_eval_log, "inspect": inspect_json, "every-eval-ever": eee_log, "jsonl": own_jsonl}
    path = makers[kind](folder)
    for each in the_log(path).paths.values():
        deep = '[{"role": "user", "content": ' + "[" * depth + "]" * depth + "}]"
        each.write_text(each.read_text().replace(json.dumps(QUESTIONS[3]), deep))
    return path


@pytest.mark.parametrize("kind", ["lm-eval", "inspect", "every-eval-ever", "jsonl"])
@pytest.mark.parametrize("depth", [201, 600, 2_000, 200_000])
def test_a_log_that_is_nested_too_deeply_is_refused(tmp_path: Path, kind: str, depth: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_log(the_log(deep_log(tmp_path, kind, depth)))
    said = str(caught.value.problem())
    assert "at most 200 arrays and objects within each other" in said or "nested too deeply" in said


@pytest.mark.parametrize("kind", ["lm-eval", "inspect", "jsonl"])
def test_what_is_nested_as_deeply_as_is_taken_can_be_stored(tmp_path: Path, kind: str) -> None:
    path = deep_log(tmp_path, kind, 190)
    [rows] = tables_of(path)
    assert "[" * 190 in rows[3]["input_data"] + dump(list(run_of(path).items())[3].record())


def test_a_sample_that_is_too_long_is_refused_without_being_read_whole(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("evalservice.interchange.inspect_ai.MAX_RECORD_BYTES", 1 << 20)
    path = inspect_json(tmp_path, [{**sample, "store": "x" * (4 << 20)} for sample in inspect_samples()])
    assert "longer than 1 MiB" in refused(path)


def test_a_header_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("evalservice.interchange.logjson.MAX_DOCUMENT_BYTES", 1000)
    assert "at most 0 MiB without its samples" in refused(lm_eval_log(tmp_path, notes="x" * 2000))


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("evalservice.interchange.logs.MAX_FILES", 3)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("")
    with pytest.raises(InvalidInput, match="at most 3 files"):
        find_logs(tmp_path)


def inspect_of_many_metrics(folder: Path) -> Path:
    scores = {"match": {"value": {f"key-{number}": 1 for number in range(1001)}}}
    return inspect_json(folder, [{**sample, "scores": scores} for sample in inspect_samples()])


def inspect_of_many_reducers(folder: Path) -> Path:
    header = inspect_header()
    [score] = header["results"]["scores"]
    header["results"]["scores"] = [{**score, "reducer": f"pass_at_{number}"} for number in range(1001)]
    return inspect_json(folder, header=header)


def lm_eval_of_many_metrics(folder: Path) -> Path:
    metrics = [f"metric-{number}" for number in range(501)]  # under each of two filters
    return lm_eval_log(folder, {"sums": lm_eval_rows(metrics=metrics, **dict.fromkeys(metrics, 1.0))})


def eee_of_many_metrics(folder: Path) -> Path:
    return eee_log(folder, [row for number in range(1001) for row in eee_rows(result=f"metric-{number}")])


@pytest.mark.parametrize(
    "log", [inspect_of_many_metrics, inspect_of_many_reducers, lm_eval_of_many_metrics, eee_of_many_metrics]
)
def test_a_log_of_more_metrics_than_a_run_may_have_is_refused_before_they_are_computed(
    tmp_path: Path, log: Callable[[Path], Path]
) -> None:
    with pytest.raises(InvalidInput, match="a log of at most 1,000 metrics"):
        read_log(the_log(log(tmp_path)))


def test_a_log_of_more_groups_than_can_be_compared_is_refused(tmp_path: Path) -> None:
    groups = {f"group-{number}": [f"group-{number + 1}"] for number in range(5001)}
    assert "at most 5,000 members of groups" in refused(lm_eval_log(tmp_path, group_subtasks=groups))


def inspect_of_many_epochs(folder: Path) -> Path:
    return inspect_json(folder, [inspect_sample(0, epoch, "C") for epoch in range(1, 1002)], inspect_header(1.0, 1001))


def lm_eval_of_many_repeats(folder: Path) -> Path:
    return lm_eval_log(folder, {"sums": lm_eval_rows(resps=[["2"] * 1001])})


def eee_of_many_epochs(folder: Path) -> Path:
    return eee_log(folder, eee_rows()[:1] * 1001, 1.0)


@pytest.mark.parametrize("log", [inspect_of_many_epochs, lm_eval_of_many_repeats, eee_of_many_epochs])
def test_a_test_case_of_more_epochs_than_anybody_asks_is_refused(tmp_path: Path, log: Callable[[Path], Path]) -> None:
    assert "a test case of at most 1,000 epochs" in refused(log(tmp_path))


def inspect_of_long_epochs(folder: Path) -> Path:
    return inspect_json(folder, [sample | {"output": {"completion": LONG}} for sample in inspect_samples()])


def lm_eval_of_long_rows(folder: Path) -> Path:
    return lm_eval_log(folder, {"sums": lm_eval_rows(resps=[[LONG]])})


def eee_of_long_epochs(folder: Path) -> Path:
    return eee_log(folder, [row | {"output": {"raw": [LONG]}} for row in eee_rows() * 2])


@pytest.mark.parametrize("log", [inspect_of_long_epochs, lm_eval_of_long_rows, eee_of_long_epochs])
def test_a_test_case_whose_epochs_are_longer_together_than_a_record_is_refused(
    tmp_path: Path, log: Callable[[Path], Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 1 << 20)
    with pytest.raises(InvalidInput, match=r"at most 1 MiB, all its epochs together; .* has more"):
        read_log(the_log(log(tmp_path)))


def test_what_is_not_kept_of_a_sample_does_not_count(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 1 << 20)
    samples = [{**sample, "events": [{"event": "state", "text": LONG}]} for sample in inspect_samples()]
    [rows] = tables_of(inspect_json(tmp_path, samples))
    assert len(rows) == 4


def test_an_attachment_that_is_referred_to_again_and_again_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(samples_of_inspect, "MAX_RECORD_BYTES", 1 << 20)
    messages = [{"role": "user", "content": "attachment://a"}] * 100
    samples = [{**sample, "messages": messages, "attachments": {"a": LONG}} for sample in inspect_samples()]
    assert "attachments of at most 1 MiB in all places that refer to them" in refused(inspect_json(tmp_path, samples))


def test_long_rows_are_stored_few_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(result_rows, "BYTES", 1 << 20)
    samples = [inspect_sample(0, 1, "C") | {"id": n, "output": {"completion": LONG}} for n in range(5)]
    assert [len(rows) for rows in tables_of(inspect_json(tmp_path, samples, inspect_header(1.0, 5)))] == [2, 2, 1]


def test_a_large_log_is_read_in_little_memory(tmp_path: Path) -> None:
    samples = [{**inspect_sample(0, 1, "C"), "id": number, "store": "x" * 10_000} for number in range(5000)]
    path = inspect_json(tmp_path, samples, inspect_header(1.0, 5000))
    del samples
    tracemalloc.start()
    try:
        count = sum(1 for _ in run_of(path).items())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert path.stat().st_size > 50_000_000
    assert peak < 20_000_000  # other threads of the tests may hold some of it

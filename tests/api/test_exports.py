"""A run that goes out as a file comes back as the run that it was."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.api.conftest import Served, unique
from tests.api.importing import Service, exported, own_benchmark
from tests.logs import (
    inspect_header,
    inspect_json,
    inspect_sample,
    inspect_samples,
    lm_eval_log,
    the_log,
)


@pytest.fixture
def a_run(service: Service, tmp_path: Path) -> dict[str, Any]:
    """A run of four items in two epochs, one of them failing once, and a fifth that failed for good."""
    header = inspect_header(0.75, 9, tags=[unique("run")])
    failed = inspect_sample(3, 1, "I") | {"id": "q-9", "scores": {}, "error": {"message": "no"}, "output": {}}
    path = inspect_json(tmp_path / "run", [*inspect_samples(), failed], header)
    [run] = service.imported(path, model=unique("org/large"), benchmark=unique("b"))
    return run


def test_a_parquet_export_is_imported_as_the_run_that_it_was(
    service: Service, a_run: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.parquet"
    path.write_bytes(exported(service, a_run["id"], "parquet"))
    [again] = service.imported(path)
    assert again["aggregated_results"] == a_run["aggregated_results"]
    same = ("model_id", "benchmark_id", "dataset_id", "total_tokens", "failed_test_cases", "started_at", "completed_at")
    for name in (*same, "duration_seconds"):
        assert again[name] == a_run[name], name
    shown = ("test_case_index", "test_case_id", "input_data", "actual_output", "metrics", "score_details", "success")
    first, second = service.rows(a_run["id"]), service.rows(again["id"])
    assert [[row[name] for name in shown] for row in second] == [[row[name] for name in shown] for row in first]


def test_rows_that_do_not_say_when_their_run_was_date_it_by_the_first_and_the_last(
    service: Service, tmp_path: Path
) -> None:
    times = {n: f"2026-11-24T17:0{n}:00+00:00" for n in (2, 0, 3, 1)}
    samples = [inspect_sample(n, 1, "C", completed_at=at) for n, at in times.items()]
    [run] = service.imported(inspect_json(tmp_path, samples, inspect_header(1.0, 4)), model=unique("m"))
    jsonl, parquet = tmp_path / "run.jsonl", tmp_path / "old.parquet"
    jsonl.write_bytes(exported(service, run["id"], "jsonl"))
    whole = pq.read_table(io.BytesIO(exported(service, run["id"], "parquet")))
    about = json.loads(whole.schema.metadata[b"evalservice"])
    old = {name: value for name, value in about.items() if name not in ("started_at", "completed_at")}
    pq.write_table(whole.replace_schema_metadata({"evalservice": json.dumps(old)}), parquet)
    for path in (jsonl, parquet):
        [again] = service.imported(path, model=run["model"])
        assert (again["started_at"], again["completed_at"]) == ("2026-11-24T17:00:00Z", "2026-11-24T17:03:00Z")


def test_a_corpus_metric_survives_where_the_format_says_how_it_was_computed(service: Service, tmp_path: Path) -> None:
    suite = own_benchmark(service, scorers=("numeric_match", "bleu"))
    [run] = service.imported(lm_eval_log(tmp_path, model=unique("org/large")), benchmark=suite["name"])
    assert run["aggregated_results"]["bleu"]["interval"] == "bootstrap"
    for file_format in ("parquet", "jsonl"):
        (tmp_path / f"run.{file_format}").write_bytes(exported(service, run["id"], file_format))
    [again] = service.imported(tmp_path / "run.parquet")
    assert again["aggregated_results"] == run["aggregated_results"]
    status, detail = service.refused(tmp_path / "run.jsonl", model=run["model"])
    assert (status, "bleu is no mean over test cases" in detail) == (422, True)
    zipfile.ZipFile(io.BytesIO(exported(service, run["id"], "every-eval-ever"))).extractall(tmp_path / "eee")
    answer = service.asked(the_log(tmp_path / "eee").path)
    assert (answer.status_code, answer.json()["notes"]) == (201, ["bleu: it has no rows"])


def test_an_export_is_imported_by_another_organization(
    served: Served, service: Service, a_run: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.parquet"
    path.write_bytes(exported(service, a_run["id"], "parquet"))
    with served.client(served.theirs) as theirs:
        [again] = Service(theirs).imported(path)
    assert again["aggregated_results"] == a_run["aggregated_results"]
    assert (again["model"], again["benchmark"]) == (a_run["model"], a_run["benchmark"])


def test_a_jsonl_export_needs_the_model_and_gives_the_same_values(
    service: Service, a_run: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(exported(service, a_run["id"], "jsonl"))
    assert service.refused(path)[0] == 422
    [again] = service.imported(path, model=a_run["model"])
    assert again["aggregated_results"]["match"]["value"] == a_run["aggregated_results"]["match"]["value"]
    assert (again["failed_test_cases"], again["total_tokens"]) == (1, a_run["total_tokens"])


@pytest.mark.parametrize("file_format", ["lm-eval", "inspect", "every-eval-ever"])
def test_an_export_for_another_tool_is_imported_with_the_same_values(
    service: Service, a_run: dict[str, Any], tmp_path: Path, file_format: str
) -> None:
    content = exported(service, a_run["id"], file_format)
    folder = tmp_path / "exported"
    folder.mkdir()
    if file_format == "inspect":
        (folder / "log.json").write_bytes(content)
    else:
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
    [again] = service.imported(the_log(folder).path)
    [before], [after] = a_run["aggregated_results"].values(), again["aggregated_results"].values()
    assert (after["value"], after["n"]) == (before["value"], before["n"])
    assert after["stderr"] == pytest.approx(before["stderr"])
    assert again["model_id"] == a_run["model_id"]
    if file_format != "every-eval-ever":  # which has one time
        assert (again["started_at"], again["completed_at"]) == (a_run["started_at"], a_run["completed_at"])
    failed = 0 if file_format == "lm-eval" else 1  # which knows no failed request
    assert again["failed_test_cases"] == failed
    if file_format != "lm-eval":
        assert again["total_tokens"] == a_run["total_tokens"]


def test_an_inspect_log_is_listed_and_has_its_header_before_its_samples(
    service: Service, a_run: dict[str, Any]
) -> None:
    answer = service.client.get(f"/v1/evaluation-runs/{a_run['id']}/export", params={"format": "inspect"})
    name = f"2026-11-24T17-18-50+00-00_{a_run['benchmark']}_{a_run['id']}.json"
    assert name in answer.headers["Content-Disposition"]
    log = answer.json()
    assert list(log)[-1] == "samples"
    assert log["results"]["total_samples"] == len(log["samples"]) == 10
    assert [sample["epoch"] for sample in log["samples"]] == [1, 2] * 5
    assert sum("error" in sample for sample in log["samples"]) == 3


def test_messages_go_to_inspect_in_its_roles_and_its_kinds_of_content(service: Service, tmp_path: Path) -> None:
    image, sound = {"type": "image", "image": "data:image/png;base64,AA=="}, {"type": "sound", "sound": "AA=="}
    theirs = {"type": "image_url", "image_url": {"url": image["image"]}}
    text = {"type": "text", "text": "What is it?"}
    sent = [
        {"role": "developer", "content": "Be brief."},
        {"role": "human", "content": None},
        {"role": "user", "content": [text, image, theirs, sound]},
    ]
    sample = inspect_sample(0, 1, "C", messages=[*sent, {"role": "assistant", "content": "C"}])
    path = inspect_json(tmp_path, [sample], inspect_header(1.0, 1))
    [run] = service.imported(path, model=unique("m"), benchmark=unique("b"))
    [out] = json.loads(exported(service, run["id"], "inspect"))["samples"]
    assert out["input"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ""},
        {"role": "user", "content": [text, image, image, {"type": "text", "text": '{"type":"sound","sound":"AA=="}'}]},
    ]

"""Real logs, written by the tools themselves: each arrives at the numbers of `truth.json`, or is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.api.conftest import Served
from tests.api.importing import Service, exported

DATA = os.environ.get("EVALSERVICE_TEST_DATA")
LOGS = Path(str(DATA)) / "interchange"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA, reason="EVALSERVICE_TEST_DATA is not set: real logs of other tools, and their truth"),
]


def truth() -> dict[str, dict[str, Any]]:
    """File → its true aggregates; none without the data."""
    if not DATA:
        return {}
    document: dict[str, dict[str, Any]] = json.loads((LOGS / "truth.json").read_text())
    return {name: values for name, values in document.items() if (LOGS / name).is_file()}


TRUTH = truth()
CONTRADICTING = [name for name in TRUTH if "from-inspect/" in name or "prefix-bug" in name]


def files_of(tool: str) -> list[str]:
    return [name for name in TRUTH if name.startswith(f"{tool}/") and name not in CONTRADICTING]


@pytest.fixture(scope="module")
def owner(served: Served) -> Any:
    with served.client(served.mine) as client:
        yield client


@pytest.fixture(scope="module")
def service(owner: httpx.Client) -> Service:
    return Service(owner)


def imported(service: Service, name: str, **options: Any) -> dict[str, dict[str, Any]]:
    """The runs of a log by task; a log that another test has imported is recognised."""
    answer = service.asked(LOGS / name, **options)
    assert answer.status_code in (200, 201), answer.text
    return {run["provenance"]["imported"]["task"]: run for run in answer.json()["runs"]}


def values_of(run: dict[str, Any]) -> dict[str, float | None]:
    return {name: result["value"] for name, result in run["aggregated_results"].items()}


@pytest.mark.parametrize("name", files_of("lm-eval"))
def test_lm_eval_results_are_the_true_ones(service: Service, name: str) -> None:
    runs = imported(service, name)
    found = {f"{task} {metric}": value for task, run in runs.items() for metric, value in values_of(run).items()}
    expected = {key: value for key, value in TRUTH[name].items() if not key.startswith("GROUP")}
    assert found == {key: None if "bypass" in key else pytest.approx(value) for key, value in expected.items()}
    for key, value in TRUTH[name].items():
        if key.startswith("GROUP"):
            _, group, metric = key.split(" ")
            stated = [run["provenance"]["imported"]["settings"]["groups"].get(group) for run in runs.values()
                      if "groups" in run["provenance"]["imported"]["settings"]]  # fmt: skip
            assert {each[metric] for each in stated} == {value}
    assert all(run["failed_test_cases"] == 0 and run["total_cost"] is None for run in runs.values())


@pytest.mark.parametrize("name", files_of("inspect-ai"))
def test_inspect_results_are_the_true_ones(service: Service, name: str) -> None:
    [run] = imported(service, name).values()
    expected = TRUTH[name]
    for key, value in expected.items():
        if key.count("/") != 3:
            continue
        scorer, metric, reducer, what = key.split("/")
        called = "/".join([scorer, *([metric] if metric != scorer else []), *([reducer] if reducer != "mean" else [])])
        result = run["aggregated_results"][called]
        assert result["stderr" if what == "stderr" else "value"] == pytest.approx(value), key
    [tokens] = expected["tokens"].values()
    assert [run["input_tokens"], run["output_tokens"], run["total_tokens"]] == tokens
    rows = service.rows(run["id"])
    samples = [sample for row in rows for sample in row["completion_info"].get("samples", [row["completion_info"]])]
    assert (len(samples), sum("error" in sample for sample in samples)) == (
        expected["rows"],
        expected["rows_with_error"],
    )


@pytest.mark.parametrize("name", files_of("every-eval-ever"))
def test_every_eval_ever_results_are_the_true_ones(service: Service, name: str) -> None:
    [run] = imported(service, name).values()
    expected = {key: value["mean_of_rows"] for key, value in TRUTH[name].items() if value["rows"]}
    assert values_of(run) == {key: pytest.approx(value) for key, value in expected.items()}


@pytest.mark.parametrize("name", CONTRADICTING)
def test_a_file_whose_rows_are_not_those_of_its_aggregates_is_refused_and_can_be_forced(
    service: Service, name: str
) -> None:
    status, detail = service.refused(LOGS / name)
    assert (status, "contradict its own aggregates" in detail) == (409, True)
    reason = "'exact_match:maj@3'" if "prefix-bug" in name else "graded:accuracy: stated 0.9, but 0.8947368421"
    assert reason in detail
    [run] = imported(service, name, force=True).values()
    assert run["provenance"]["imported"]["contradictions"]


def test_two_models_that_lm_eval_measured_are_compared(service: Service) -> None:
    large = imported(service, next(name for name in TRUTH if "/h-plain/" in name))["tiny_mc"]
    dummy = imported(service, next(name for name in TRUTH if "/d-dummy/" in name))["tiny_mc"]
    answer = service.client.get("/v1/comparisons", params={"run": [large["id"], dummy["id"]]})
    assert answer.status_code == 200, answer.text
    metric = answer.json()["metrics"]["acc_norm,none"]
    assert metric["pairs"][0]["difference"] == pytest.approx(0.75 - 0.125)


@pytest.mark.parametrize("name", [*files_of("lm-eval")[:1], *files_of("inspect-ai")])
def test_an_export_passes_the_schemas_of_every_eval_ever_and_comes_back_equal(
    service: Service, name: str, tmp_path: Path
) -> None:
    run = next(iter(imported(service, name).values()))
    schemas = LOGS / "every-eval-ever"
    whole, row = (
        jsonschema.Draft7Validator(json.loads((schemas / each).read_text()))
        for each in ("eval.schema.json", "instance_level_eval.schema.json")
    )
    with zipfile.ZipFile(io.BytesIO(exported(service, run["id"], "every-eval-ever"))) as archive:
        archive.extractall(tmp_path)
        rows, main = sorted(archive.namelist(), key=len, reverse=True)
    document = json.loads((tmp_path / main).read_text())
    whole.validate(document)
    text = (tmp_path / rows).read_bytes()
    for line in text.splitlines():
        row.validate(json.loads(line))
    said = document["detailed_evaluation_results"]
    assert (said["file_path"], said["total_rows"]) == (rows, len(text.splitlines()))
    assert said["checksum"] == hashlib.sha256(text).hexdigest()
    [again] = service.asked(tmp_path / main).json()["runs"]
    assert values_of(again) == {name: pytest.approx(value) for name, value in values_of(run).items()}

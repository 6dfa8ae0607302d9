"""`/v1/imports`: a log becomes runs like any other, all of them or none, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.conftest import Served, a_model, created, unique
from tests.api.importing import Service, a_log, own_benchmark
from tests.api.test_comparisons import Bench
from tests.conftest import Cli
from tests.logs import (
    QUESTIONS,
    STAMP,
    eee_log,
    eee_rows,
    inspect_header,
    inspect_json,
    inspect_members,
    inspect_sample,
    lm_eval_log,
    lm_eval_rows,
    the_log,
    zstd_zipped,
)


def test_a_log_becomes_a_completed_run_with_its_rows_and_our_aggregates(service: Service, tmp_path: Path) -> None:
    [run] = service.imported(a_log(tmp_path))
    assert (run["status"], run["imported"], run["total_test_cases"], run["completed_test_cases"]) == (
        "completed", "lm-eval", 4, 4,
    )  # fmt: skip
    strict = run["aggregated_results"]["exact_match,strict"]
    assert (strict["value"], strict["n"], strict["interval"]) == (0.5, 4, "wilson")
    assert strict["stderr"] == pytest.approx(0.2886751346)
    assert (run["total_cost"], run["config"]) == (None, {"temperature": 0.0, "stop": ["\n"]})
    assert run["started_at"].startswith("2026-11-24T17:21:19")
    about = run["provenance"]["imported"]
    assert (about["tool"], about["tool_version"], about["file"]) == ("lm-eval", "0.4.13", f"results_{STAMP}.json")
    assert about["stated"] == {"exact_match,strict": 0.5, "exact_match,loose": 0.75}
    first = service.rows(run["id"])[0]
    assert (first["test_case_id"], first["actual_output"], first["expected_output"]) == ("q-0", " 2", 2)
    assert first["metrics"] == {"exact_match,strict": 1.0, "exact_match,loose": 1.0}


def test_the_same_log_again_is_recognised_and_writes_nothing(service: Service, tmp_path: Path) -> None:
    path = a_log(tmp_path)
    [run] = service.imported(path)
    again = service.asked(path)
    assert (again.status_code, again.json()["already_imported"]) == (200, True)
    assert [each["id"] for each in again.json()["runs"]] == [run["id"]]
    status, detail = service.refused(path, model="somebody-else")
    assert (status, f"was imported as run {run['id']}" in detail) == (409, True)


def sent_at_once(served: Served, service: Service, paths: Sequence[Path]) -> list[httpx.Response]:
    """The answers to imports that begin together."""
    files = [service.sent(the_log(path)) for path in paths]

    def send(each: list[dict[str, str]]) -> httpx.Response:
        with served.client(served.mine) as client:
            return client.post("/v1/imports", json={"files": each})

    with ThreadPoolExecutor(len(files)) as threads:
        return list(threads.map(send, files))


def test_a_log_that_is_sent_twice_at_once_is_imported_once(served: Served, service: Service, tmp_path: Path) -> None:
    answers = sent_at_once(served, service, [a_log(tmp_path)] * 2)
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert len({answer.json()["runs"][0]["id"] for answer in answers}) == 1


def test_logs_of_one_task_that_are_sent_at_once_share_what_the_first_of_them_makes(
    served: Served, service: Service, tmp_path: Path
) -> None:
    same = {"task": unique("sums").replace("-", "_"), "questions": unique("q"), "model": unique("org/large")}
    scores = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    answers = sent_at_once(served, service, [a_log(tmp_path / str(each), each, **same) for each in scores])
    assert [answer.status_code for answer in answers] == [201] * 4, [answer.text for answer in answers]
    runs = [answer.json()["runs"][0] for answer in answers]
    assert len({run["id"] for run in runs}) == 4
    assert len({(run["dataset_id"], run["benchmark_id"], run["model_id"]) for run in runs}) == 1


def test_two_models_on_the_same_items_are_paired_by_test_case(service: Service, tmp_path: Path) -> None:
    same = {"task": unique("sums").replace("-", "_"), "questions": unique("q")}
    [good] = service.imported(a_log(tmp_path / "a", (1, 1, 1, 0), **same))
    [bad] = service.imported(a_log(tmp_path / "b", (0, 1, 0, 0), **same))
    assert (good["dataset_id"], good["benchmark_id"]) == (bad["dataset_id"], bad["benchmark_id"])
    answer = service.client.get("/v1/comparisons", params={"run": [good["id"], bad["id"]]})
    assert answer.status_code == 200, answer.text
    metric = answer.json()["metrics"]["exact_match,strict"]
    [pair] = metric["pairs"]
    assert (pair["difference"], pair["test"], pair["wins_a"], pair["ties"], pair["wins_b"]) == (
        0.5, "mcnemar_exact", 2, 2, 0,
    )  # fmt: skip
    assert pair["won_items"] == [0, 2]


def test_the_imported_items_are_the_dataset_that_their_file_makes(service: Service, tmp_path: Path) -> None:
    questions = unique("q")
    path = a_log(tmp_path, questions=questions)
    docs = [json.loads(line)["doc"] for line in next(tmp_path.glob("samples_*")).read_text().splitlines()[:4]]
    mapping = {"input": "question", "expected": "answer"}
    own = created(service.client, "/v1/datasets", {"name": unique("own"), "test_cases": docs, "mapping": mapping})
    [run] = service.imported(path)
    assert run["dataset_id"] == own["id"]


def test_under_a_benchmark_of_ours_the_completions_are_scored_by_it_as_well(service: Service, tmp_path: Path) -> None:
    suite = own_benchmark(service, order=(3, 1, 0, 2))
    path = lm_eval_log(tmp_path, model=unique("org/large"))
    [run] = service.imported(path, benchmark=suite["name"])
    values = {name: result["value"] for name, result in run["aggregated_results"].items()}
    assert values == {"numeric_match": 1.0, "exact_match,strict": 0.5, "exact_match,loose": 0.75}
    assert (run["benchmark"], run["dataset_id"], run["primary_metric"]) == (
        suite["name"], suite["dataset_id"], "numeric_match",
    )  # fmt: skip
    assert [(row["test_case_index"], row["test_case_id"]) for row in service.rows(run["id"])] == [
        (0, "q-3"), (1, "q-1"), (2, "q-0"), (3, "q-2"),
    ]  # fmt: skip


def test_completions_without_scores_get_those_of_a_benchmark_of_ours(service: Service, tmp_path: Path) -> None:
    rows = lm_eval_rows(metrics=["bypass"], bypass=None)
    results = {"sums": {"bypass,strict": 999, "bypass,loose": 999}}
    path = lm_eval_log(tmp_path, {"sums": rows}, results, model=unique("org/large"))
    [run] = service.imported(path, benchmark=own_benchmark(service)["name"])
    values = {name: result["value"] for name, result in run["aggregated_results"].items()}
    assert values == {"numeric_match": 1.0, "bypass,strict": None, "bypass,loose": None}


def test_items_without_ids_are_paired_by_the_whole_question(service: Service, tmp_path: Path) -> None:
    instruction = "Answer the following question with one number and nothing else, however hard it may be. " * 2
    texts = [instruction + question for question in QUESTIONS]
    cases = [{"input": texts[n], "expected_output": str(n)} for n in (2, 0, 3, 1)]
    dataset = created(service.client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})
    rows = [{**row, "input": {**row["input"], "raw": texts[n]}} for n, row in enumerate(eee_rows((1, 0, 1, 1)))]
    path = eee_log(tmp_path, rows, model_info={"name": "x", "id": unique("org/x")})
    [run] = service.imported(path, dataset=dataset["name"], benchmark=unique("b"))
    assert [row["test_case_id"] for row in service.rows(run["id"])] == ["q-2", "q-0", "q-3", "q-1"]
    assert [row["metrics"]["accuracy"] for row in service.rows(run["id"])] == [1.0, 1.0, 1.0, 0.0]


def test_an_imported_run_is_compared_with_one_of_ours(served: Served, service: Service, tmp_path: Path) -> None:
    suite = own_benchmark(service)
    ours = Bench(served, service.client).run(suite["name"], [1.0, 0.0, 0.0, 1.0], "numeric_match")
    path = lm_eval_log(tmp_path, model=unique("org/large"))
    [theirs] = service.imported(path, benchmark=suite["name"])
    answer = service.client.get("/v1/comparisons", params={"run": [theirs["id"], ours], "metric": "numeric_match"})
    assert answer.status_code == 200, answer.text
    [pair] = answer.json()["metrics"]["numeric_match"]["pairs"]
    assert (pair["difference"], pair["won_items"], pair["lost_items"]) == (0.5, [1, 2], [])


def test_items_that_are_not_the_datasets_are_refused(service: Service, tmp_path: Path) -> None:
    other = own_benchmark(service, prefix="Something else: ")
    status, detail = service.refused(lm_eval_log(tmp_path, model=unique("m")), benchmark=other["name"])
    assert (status, "no test case like the log's item 'q-0'" in detail) == (409, True)
    fewer = own_benchmark(service, order=(0, 1, 2))
    status, detail = service.refused(lm_eval_log(tmp_path, model=unique("m")), dataset=fewer["dataset"])
    assert (status, "no test case like the log's item 'q-3'" in detail) == (409, True)


def test_the_first_items_of_a_dataset_are_a_run_with_a_limit(service: Service, tmp_path: Path) -> None:
    suite = own_benchmark(service)
    samples = [inspect_sample(n, 1, "C") for n in (0, 1)]
    header = inspect_header(1.0, 2)
    [run] = service.imported(inspect_json(tmp_path, samples, header), dataset=suite["dataset"], model=unique("m"))
    assert (run["total_test_cases"], run["dataset_id"]) == (2, suite["dataset_id"])
    assert run["evaluation_config"] == {"limit": 2}
    gap = inspect_json(tmp_path / "gap", [inspect_sample(n, 1, "C") for n in (0, 2)], header)
    status, detail = service.refused(gap, dataset=suite["dataset"], model=unique("m"))
    assert (status, "are not the first of the 4 test cases" in detail) == (409, True)


def test_tokens_errors_and_epochs_of_a_log_are_the_runs(service: Service, tmp_path: Path) -> None:
    path = zstd_zipped(tmp_path / "log.eval", inspect_members())
    [run] = service.imported(path, model=unique("m"), benchmark=unique("b"))
    assert (run["input_tokens"], run["output_tokens"], run["total_tokens"]) == (80, 16, 96)
    assert (run["failed_test_cases"], run["duration_seconds"]) == (0, 60.0)
    assert run["aggregated_results"]["match"]["coverage"] == 7 / 8
    failing = service.rows(run["id"])[2]
    assert (failing["success"], failing["actual_output"]) == (True, ["", "answer C"])
    samples = failing["score_details"]["scores"]["imported"]["samples"]
    assert [sample["status"] for sample in samples] == ["model_failed", "scored"]


def test_the_cost_of_a_log_is_kept_to_the_last_digit(service: Service, tmp_path: Path) -> None:
    usage = {"openai/large": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "total_cost": 0.0000525}}
    path = inspect_json(tmp_path, [inspect_sample(0, 1, "C", model_usage=usage)], inspect_header(1.0, 1))
    [run] = service.imported(path, model=unique("m"), benchmark=unique("b"))
    assert Decimal(run["total_cost"]) == Decimal("0.0000525")


@pytest.fixture
def counted(served: Served) -> Callable[[], list[int]]:
    """How many rows each table that an import writes has."""
    tables = ("evaluation_models", "evaluation_datasets", "benchmark_suites", "evaluation_runs", "evaluation_results")

    def count() -> list[int]:
        with psycopg.connect(served.database) as connection:
            rows = (connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for table in tables)
            return [row[0] for row in rows if row is not None]

    return count


def test_a_log_that_contradicts_itself_is_refused_and_leaves_nothing(
    service: Service, served: Served, counted: Any, tmp_path: Path
) -> None:
    before, folders = counted(), sorted(served.data_root.rglob("datasets/*"))
    results = {"sums": {"exact_match,strict": 0.9, "exact_match,loose": 0.75}}
    rows = lm_eval_rows(doc={"question": unique("q")})
    status, detail = service.refused(lm_eval_log(tmp_path, {"sums": rows}, results))
    assert status == 409
    assert "exact_match,strict: stated 0.9, but 0.5 from the rows of 4 test cases" in detail
    assert "--force" in detail
    assert (counted(), sorted(served.data_root.rglob("datasets/*"))) == (before, folders)


def test_a_forced_log_keeps_its_rows_and_what_they_contradict(service: Service, tmp_path: Path) -> None:
    path = eee_log(tmp_path, eee_rows((1, 0, 0, 0)), 0.75, model_info={"name": "x", "id": unique("org/x")})
    [run] = service.imported(path, force=True, benchmark=unique("b"))
    assert run["aggregated_results"]["accuracy"]["value"] == 0.25
    assert run["provenance"]["imported"]["contradictions"] == [
        "accuracy: stated 0.75, but 0.25 from the rows of 4 samples"
    ]


def test_a_log_of_which_one_task_is_bad_is_refused_as_a_whole(service: Service, counted: Any, tmp_path: Path) -> None:
    before = counted()
    bad = lm_eval_rows()
    bad[1]["doc"]["question"] = "half a surrogate \ud800"
    results = {task: {"exact_match,strict": 0.5, "exact_match,loose": 0.75} for task in ("good", "bad")}
    path = lm_eval_log(tmp_path, {"good": lm_eval_rows(), "bad": bad}, results, model=unique("m"))
    status, _ = service.refused(path)
    assert (status, counted()) == (422, before)
    lm_eval_log(tmp_path, {"good": lm_eval_rows(), "bad": lm_eval_rows()}, results)
    status, detail = service.refused(path, benchmark="one-name")
    assert (status, "several tasks (good, bad)" in detail) == (422, True)


def test_what_came_with_a_log_can_be_neither_run_nor_scored_again(service: Service, tmp_path: Path) -> None:
    [run] = service.imported(a_log(tmp_path))
    model = service.client.get(f"/v1/models/{run['model_id']}").json()
    assert (model["platform"], model["metadata"]["imported"]["tool"]) == ("imported", "lm-eval")
    suite = own_benchmark(service)["name"]
    for body, said in (
        ({"model": run["model"], "benchmark": suite}, "it is known from imported logs only"),
        ({"model": a_model(service.client)["name"], "benchmark": run["benchmark"]}, "its scores come with imported"),
    ):
        answer = service.client.post("/v1/evaluation-runs", json=body)
        assert (answer.status_code, said in answer.json()["detail"]) == (422, True)
    answer = service.client.post(f"/v1/evaluation-runs/{run['id']}/rescore")
    assert (answer.status_code, "was imported with its scores" in answer.json()["detail"]) == (409, True)


def test_a_log_without_expected_outputs_is_a_dataset_without(service: Service, tmp_path: Path) -> None:
    rows = [{**row, "input": {**row["input"], "reference": []}} for row in eee_rows()]
    path = eee_log(tmp_path, rows, model_info={"name": "x", "id": unique("org/x")})
    [run] = service.imported(path, benchmark=unique("b"))
    dataset = service.client.get(f"/v1/datasets/{run['dataset_id']}").json()
    assert (dataset["has_ground_truth"], run["aggregated_results"]["accuracy"]["value"]) == (False, 0.75)


def test_a_truncated_log_is_told_by_its_number_of_rows_and_its_values(service: Service, tmp_path: Path) -> None:
    path = a_log(tmp_path)
    [samples] = tmp_path.glob("samples_*")
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:2]))
    status, detail = service.refused(path)
    assert status == 409
    assert "4 test cases are stated, the rows have 2" in detail
    assert "exact_match,loose: stated 0.75, but no row has it" in detail


def test_a_registered_model_is_found_by_what_its_platform_calls_it(service: Service, tmp_path: Path) -> None:
    called = unique("large")
    model = a_model(service.client, name=unique("mine"), model_id=called)
    [run] = service.imported(a_log(tmp_path, model=f"openai/{called}"))
    assert run["model_id"] == model["id"]
    assert service.client.get(f"/v1/models/{model['id']}").json()["total_evaluations"] == 1


def test_another_organization_sees_nothing_of_an_import_and_cannot_read_its_upload(
    served: Served, service: Service, tmp_path: Path
) -> None:
    log = the_log(a_log(tmp_path))
    files = service.sent(log)
    with served.client(served.theirs) as theirs:
        assert theirs.post("/v1/imports", json={"files": files}).status_code == 404
        [run] = service.imported(log.path)
        assert theirs.get(f"/v1/evaluation-runs/{run['id']}").status_code == 404
        [own] = Service(theirs).imported(log.path)
        assert own["id"] != run["id"]
    with served.client(served.mine, "viewer") as viewer:
        assert viewer.post("/v1/imports", json={"files": files}).status_code == 403


@pytest.mark.parametrize("name", ["../x.json", "a/b.json", "..", ".hidden", ""])
def test_a_files_name_is_no_path(service: Service, name: str) -> None:
    answer = service.client.post("/v1/imports", json={"files": [{"name": name, "file_path": "x"}]})
    assert (answer.status_code, answer.json()["field"]) == (422, "files.0.name")


def test_the_command_line_sends_a_folder_and_says_what_became_of_each_log(
    served: Served, evalservice_home: Path, tmp_path: Path
) -> None:
    remote = Cli(evalservice_home, {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": served.mine.keys["owner"]})
    uploads = sorted(served.data_root.rglob("uploads/*"))
    a_log(tmp_path / "good")
    eee_log(tmp_path / "bad", eee_rows((0, 0, 0, 0)))
    ended = remote("import", tmp_path, "--json")
    assert ended.code == 1
    document = ended.json()
    assert [run["imported"] for run in document["runs"]] == ["lm-eval"]
    assert "contradict" in document["refused"][0]["detail"]
    assert sorted(served.data_root.rglob("uploads/*")) == uploads
    again = remote.ok("results", "import", tmp_path / "good")
    assert again["runs"][0]["id"] == document["runs"][0]["id"]
    out = tmp_path / "out"
    out.mkdir()
    remote.ok("runs", "export", again["runs"][0]["id"], "--format", "every-eval-ever", "--output", out)
    assert [path.suffix for path in sorted(out.rglob("*.json*"))] == [".json", ".jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.eval",), "a file that exists"),
        ((".", "--format", "excel"), "accepted are auto, lm-eval, inspect, every-eval-ever"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(
    served: Served, evalservice_home: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = Cli(evalservice_home)("import", *arguments)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert said in ended.err

"""A standard benchmark over HTTP: every organization reads and runs it, and none changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from evalservice.catalog.standard.definition import standard_benchmark
from evalservice.catalog.standard.install import Installed, details_of, install, prepare
from evalservice.database import make_engine, transaction
from tests.api.conftest import Served, a_benchmark, a_dataset, a_model, created, unique
from tests.evalservice.catalog.standard_copies import COPIES, write


@pytest.fixture(scope="module")
def installed(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """GSM8K, as the operator installs it."""
    folder: Path = write(tmp_path_factory.mktemp("gsm8k"), COPIES["gsm8k"][0])
    prepared = prepare(standard_benchmark("gsm8k"), folder, str(served.data_root))
    engine = make_engine(served.database, pool_size=1)
    with transaction(engine) as session:
        done = install(session, prepared, details_of(prepared, None))
    engine.dispose()
    return done


def test_lists_count_the_worked_examples_of_each_group_and_the_benchmark_itself_has_them(
    served: Served, owner: httpx.Client, tmp_path: Path
) -> None:
    prepared = prepare(standard_benchmark("mmlu"), write(tmp_path, COPIES["mmlu"][0]), str(served.data_root))
    engine = make_engine(served.database, pool_size=1)
    with transaction(engine) as session:
        done = install(session, prepared, details_of(prepared, None))
    engine.dispose()
    created(owner, "/v1/evaluation-runs", {"model": a_model(owner)["name"], "benchmark": str(done.benchmark_id)})
    [listed] = owner.get("/v1/benchmarks", params={"name": "mmlu"}).json()["items"]
    [run] = owner.get("/v1/evaluation-runs", params={"benchmark": "mmlu"}).json()["items"]
    for criteria in (listed["evaluation_criteria"], run["provenance"]["criteria"]):
        assert criteria["few_shot"]["groups"] == {"college_chemistry": 5}
    whole = owner.get(f"/v1/evaluation-runs/{run['id']}").json()["provenance"]["criteria"]
    assert whole == owner.get("/v1/benchmarks/mmlu").json()["evaluation_criteria"]
    assert len(whole["few_shot"]["groups"]["college_chemistry"]) == 5


@pytest.fixture
def shown(owner: httpx.Client, installed: Installed) -> dict[str, Any]:
    """The benchmark as the first organization reads it."""
    document: dict[str, Any] = owner.get(f"/v1/benchmarks/gsm8k@{installed.version}").json()
    assert document["id"] == str(installed.benchmark_id)
    return document


def test_every_organization_lists_it_and_reads_its_test_cases(served: Served, installed: Installed) -> None:
    for tenant in (served.mine, served.theirs):
        with served.client(tenant, "viewer") as client:
            [found] = client.get("/v1/benchmarks", params={"is_standard": True, "name": "gsm8k"}).json()["items"]
            assert (found["is_public"], found["version"]) == (True, installed.version)
            cases = client.get(f"/v1/datasets/{found['dataset_id']}/test-cases").json()["items"]
            assert [case["expected_output"] for case in cases] == ["36", "1,250"]


def test_a_run_of_it_is_the_tenants_own(served: Served, owner: httpx.Client, shown: dict[str, Any]) -> None:
    run = created(owner, "/v1/evaluation-runs", {"model": a_model(owner)["name"], "benchmark": shown["id"]})
    assert (run["status"], run["total_test_cases"]) == ("pending", 2)
    with served.client(served.theirs) as other:
        assert other.get(f"/v1/evaluation-runs/{run['id']}").status_code == 404
        assert run["id"] not in [each["id"] for each in other.get("/v1/evaluation-runs").json()["items"]]


def test_a_tenants_benchmark_may_ask_its_dataset_otherwise(owner: httpx.Client, shown: dict[str, Any]) -> None:
    assert a_benchmark(owner, shown["dataset"])["dataset_id"] == shown["dataset_id"]


@pytest.mark.parametrize("noun", ["benchmarks", "datasets"])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_no_tenant_changes_it(owner: httpx.Client, shown: dict[str, Any], noun: str, method: str) -> None:
    path = f"/v1/{noun}/{shown['id'] if noun == 'benchmarks' else shown['dataset_id']}"
    answer = owner.request(method, path, json={"description": "mine"} if method == "PATCH" else None)
    assert (answer.status_code, answer.json()["detail"].endswith("only the operator changes it")) == (403, True)


def test_no_tenant_publishes_one(owner: httpx.Client) -> None:
    body = {
        "name": unique("mine"),
        "dataset": a_dataset(owner)["name"],
        "category": "qa",
        "evaluation_criteria": {"scorers": ["exact_match"]},
    }
    answer = owner.post("/v1/benchmarks", json={**body, "is_standard": True})
    assert (answer.status_code, "is_standard" in answer.json()["detail"]) == (422, True)
    found = created(owner, "/v1/benchmarks", body)
    assert (found["is_standard"], found["is_public"]) == (False, False)


def test_what_is_published_later_takes_no_name_from_a_tenant(
    served: Served, owner: httpx.Client, shown: dict[str, Any]
) -> None:
    dataset = a_dataset(owner)["name"]
    criteria = {"scorers": ["numeric_match"]}
    body = {"name": "gsm8k", "dataset": dataset, "category": "qa", "evaluation_criteria": criteria}
    own = created(owner, "/v1/benchmarks", body)
    assert owner.get("/v1/benchmarks/gsm8k").json()["id"] == own["id"]
    with served.client(served.theirs) as other:
        assert other.get("/v1/benchmarks/gsm8k").json()["id"] == shown["id"]
    owner.delete(f"/v1/benchmarks/{own['id']}")

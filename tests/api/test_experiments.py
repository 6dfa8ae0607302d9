"""`/v1/experiments`: a grid that is checked whole, numbered runs that reuse what was measured, pause, and the report.

No model is asked here: the rows that a driver would store are written, and turns are taken as a supervisor does.
"""

from __future__ import annotations

import json
import random
import uuid
import xml.etree.ElementTree as ElementTree
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from evalservice.comparisons.experiments import take_turn
from evalservice.comparisons.reporting import pareto_front
from evalservice.comparisons.running import running_experiments
from evalservice.database import tenant_transaction, transaction
from tests.api.conftest import Served, a_benchmark, a_model, created, unique
from tests.conftest import Cli

N = 200


class Bench:
    """A benchmark, and what the drivers of an experiment's cells would write."""

    def __init__(self, served: Served, client: httpx.Client) -> None:
        self.served, self.client = served, client
        cases = [{"input": f"What is {i}?", "expected_output": str(i)} for i in range(N)]
        self.benchmark = a_benchmark(
            client, created(client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})["name"]
        )
        self.models = [a_model(client)["name"] for _ in range(2)]

    def grid(self, **changes: Any) -> dict[str, Any]:
        grid = {"models": self.models, "benchmarks": [self.benchmark["name"]], "parameters": {"temperature": [0, 0.7]}}
        return {**grid, **changes}

    def experiment(self, **changes: Any) -> dict[str, Any]:
        body = {"name": unique("e"), "hypothesis": "<b>heat</b> hurts", "experiment_config": self.grid(**changes)}
        return created(self.client, "/v1/experiments", body)

    def refused(self, **changes: Any) -> str:
        body = {"name": unique("e"), "experiment_config": self.grid(**changes)}
        answer = self.client.post("/v1/experiments", json=body)
        assert answer.status_code in (404, 422), answer.text
        return str(answer.json()["detail"])

    def post(self, experiment: dict[str, Any], what: str, status: int = 200) -> dict[str, Any]:
        answer = self.client.post(f"/v1/experiments/{experiment['id']}/{what}")
        assert answer.status_code == status, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def measure(self, cell: dict[str, Any], right: float, cost: float) -> None:
        """The cell's run as its driver would leave it."""
        rng = random.Random(f"{cell['model']} {right}")
        with psycopg.connect(self.served.database) as connection:
            for index in range(N):
                value = float(rng.random() < right)
                details = {"scores": {"numeric_match": {"status": "scored", "values": {"numeric_match": value}}}}
                connection.execute(
                    "INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, success, "
                    "metrics, score_details, input_data, actual_output) "
                    "VALUES (gen_random_uuid(), %s, %s, %s, true, %s, %s, '{}', 'null')",
                    (
                        self.served.mine.organization,
                        cell["evaluation_run_id"],
                        index,
                        json.dumps({"numeric_match": value}),
                        json.dumps(details),
                    ),
                )
            connection.execute(
                "UPDATE evaluation_runs SET status = 'completed', completed_test_cases = %s, total_cost = %s "
                "WHERE id = %s",
                (N, cost, cell["evaluation_run_id"]),
            )

    def turn(self, run: dict[str, Any]) -> dict[str, Any]:
        with tenant_transaction(self.served.wiring.engine, self.served.mine.organization) as session:
            take_turn(session, uuid.UUID(run["id"]))
        return self.runs(run["experiment_id"])[0]

    def runs(self, experiment_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get(f"/v1/experiments/{experiment_id}/runs").json()["items"]
        return items


@pytest.fixture
def bench(served: Served, owner: httpx.Client) -> Bench:
    return Bench(served, owner)


def test_a_grid_runs_cell_by_cell_and_a_finished_cell_costs_nothing_the_next_time(bench: Bench) -> None:
    experiment = bench.experiment()
    run = bench.post(experiment, "start", 201)
    assert (run["run_number"], run["status"], len(run["cells"])) == (1, "running", 4)
    assert [(cell["model"], cell["parameters"]["temperature"], cell["status"]) for cell in run["cells"]] == [
        (model, temperature, "pending") for model in bench.models for temperature in (0, 0.7)
    ]
    for cell in run["cells"][:-1]:
        bench.measure(cell, 0.8, 0.5)
    assert bench.turn(run)["status"] == "running"
    bench.measure(run["cells"][-1], 0.8, 0.5)
    ended = bench.turn(run)
    assert (ended["status"], len(ended["results"]["cells"]), ended["results"]["error"]) == ("completed", 4, "")
    again = bench.post(experiment, "start", 201)
    assert (again["run_number"], [cell["is_shared"] for cell in again["cells"]]) == (2, [True] * 4)
    assert bench.turn(again)["status"] == "completed"
    assert bench.client.get(f"/v1/experiments/{experiment['id']}/report").json()["model_calls"] == 0
    seen = bench.client.get(f"/v1/experiments/{experiment['id']}").json()
    assert (seen["status"], seen["total_runs"], seen["last_run_at"] is not None) == ("active", 2, True)


def test_a_pause_stops_its_runs_and_a_resume_goes_on_with_them(bench: Bench) -> None:
    experiment = bench.experiment()
    run = bench.post(experiment, "start", 201)
    bench.measure(run["cells"][0], 0.8, 0.5)
    assert bench.post(experiment, "pause")["status"] == "paused"
    [paused] = bench.runs(experiment["id"])
    assert (paused["status"], [cell["status"] for cell in paused["cells"]]) == (
        "pending",
        ["completed", *["cancelled"] * 3],
    )
    assert bench.post(experiment, "start", 409)["detail"].endswith("only a draft or an active one can be started")
    assert bench.post(experiment, "resume")["status"] == "active"
    [resumed] = bench.runs(experiment["id"])
    assert (resumed["status"], [cell["status"] for cell in resumed["cells"]]) == (
        "running",
        ["completed", *["pending"] * 3],
    )
    with transaction(bench.served.wiring.engine) as session:
        assert (bench.served.mine.organization, uuid.UUID(run["id"])) in running_experiments(session)


def test_an_active_experiment_is_not_archived_and_what_was_paused_is_over_then(bench: Bench) -> None:
    experiment = bench.experiment()
    bench.post(experiment, "start", 201)
    path = f"/v1/experiments/{experiment['id']}"
    refused = bench.client.patch(path, json={"status": "archived"})
    assert (refused.status_code, "pause it first" in refused.json()["detail"]) == (409, True)
    bench.post(experiment, "pause")
    assert bench.client.patch(path, json={"status": "archived"}).json()["status"] == "archived"
    assert [run["status"] for run in bench.runs(experiment["id"])] == ["cancelled"]


def test_a_shared_cell_that_ended_during_the_pause_goes_on_with_the_resume(bench: Bench) -> None:
    first, second = bench.experiment(), bench.experiment()
    bench.post(first, "start", 201)
    shared = bench.post(second, "start", 201)
    assert [cell["is_shared"] for cell in shared["cells"]] == [True] * 4
    bench.post(second, "pause")
    bench.post(first, "pause")
    assert {cell["status"] for cell in bench.runs(second["id"])[0]["cells"]} == {"cancelled"}
    bench.post(second, "resume")
    assert {cell["status"] for cell in bench.runs(second["id"])[0]["cells"]} == {"pending"}


def test_the_report_has_levels_differences_and_the_pareto_front_in_every_form(
    bench: Bench, evalservice_home: Path, tmp_path: Path
) -> None:
    experiment = bench.experiment()
    run = bench.post(experiment, "start", 201)
    for cell, right, cost in zip(run["cells"], (0.9, 0.5, 0.6, 0.3), (1.0, 2.0, 0.1, 0.2), strict=True):
        bench.measure(cell, right, cost)
    bench.turn(run)
    document = bench.client.get(f"/v1/experiments/{experiment['id']}/report").json()
    [found] = document["benchmarks"]
    assert (found["metric"], found["test_cases"], found["problem"], found["warnings"]) == ("numeric_match", N, "", [])
    assert [cell["pareto"] for cell in found["cells"]] == [True, False, True, False]
    assert [Decimal(cell["cost"]) for cell in found["cells"]] == [5, 10, Decimal("0.5"), 1]
    assert [(row["factor"], row["cells"]) for row in found["levels"]] == [
        ("model", 2),
        ("model", 2),
        ("temperature", 2),
        ("temperature", 2),
    ]
    cold, hot = found["levels"][2:]
    assert cold["ci_low"] > hot["ci_high"]
    assert [row["better"] for row in found["differences"]] == [False] * 3
    rows = sorted(found["differences"], key=lambda row: row["p_value"])
    assert rows[0]["p_corrected"] == pytest.approx(min(1.0, 3 * rows[0]["p_value"]))  # Holm over three
    assert rows[-1]["p_corrected"] == pytest.approx(max(rows[-1]["p_value"], rows[1]["p_corrected"]))
    environment = {"EVALSERVICE_URL": bench.served.url, "EVALSERVICE_API_KEY": bench.served.mine.keys["viewer"]}
    cli = Cli(evalservice_home, environment)
    markdown = cli("experiments", "report", experiment["name"])
    assert (markdown.code, "| worse |" in markdown.out, markdown.out.count("<svg")) == (0, True, 3), markdown.err
    assert "&lt;b>heat&lt;/b> hurts" in markdown.out
    page = tmp_path / "report.html"
    assert cli("experiments", "report", experiment["id"], "--format", "html", "-o", page).code == 0
    text = page.read_text()
    assert "&lt;b&gt;heat" in text
    for figure in text.split("<figure>")[1:]:
        ElementTree.fromstring(figure.split("</figure>")[0])  # well formed
    assert cli("experiments", "report", experiment["name"], "--format", "pdf").code == 2


def test_cells_that_come_to_the_same_are_one_run(bench: Bench) -> None:
    model = a_model(bench.client, config={"temperature": 0})["name"]
    run = bench.post(bench.experiment(models=[model], parameters={"temperature": [0, 0.0]}), "start", 201)
    assert len({cell["evaluation_run_id"] for cell in run["cells"]}) == 1


def test_a_grid_that_cannot_run_is_refused_before_anything_starts(bench: Bench) -> None:
    assert "a grid of 204 cells; at most 200" in bench.refused(
        parameters={"seed": list(range(17)), "top_k": list(range(6))}
    )
    assert "each value once" in bench.refused(parameters={"temperature": [0, 0]})
    assert "parameters.temperature: 'hot' is not valid" in bench.refused(parameters={"temperature": ["hot"]})
    assert "parameters.heat" in bench.refused(parameters={"heat": [1]})
    assert "each once" in bench.refused(models=[bench.models[0]] * 2)
    assert "does not exist" in bench.refused(benchmarks=["nothing"])
    empty = created(bench.client, "/v1/experiments", {"name": unique("e")})
    assert "a grid of models" in bench.post(empty, "start", 422)["detail"]


def test_an_experiment_is_made_from_a_template(bench: Bench) -> None:
    name = unique("t")
    body = {"name": name, "hypothesis": "heat hurts", "experiment_config": bench.grid(), "tags": ["heat"]}
    template = created(bench.client, "/v1/experiment-templates", body)
    assert bench.client.post("/v1/experiment-templates", json=body).status_code == 409
    made = created(bench.client, "/v1/experiments", {"name": unique("e"), "template": name})
    assert (made["template_id"], made["hypothesis"], made["tags"]) == (template["id"], "heat hurts", ["heat"])
    assert made["experiment_config"] == template["experiment_config"]
    assert len(bench.post(made, "start", 201)["cells"]) == 4


def test_anothers_experiment_does_not_exist(bench: Bench) -> None:
    experiment = bench.experiment()
    with bench.served.client(bench.served.theirs) as them:
        for what in ("start", "pause", "resume"):
            assert them.post(f"/v1/experiments/{experiment['id']}/{what}").status_code == 404
        assert them.get(f"/v1/experiments/{experiment['id']}/report").status_code == 404


def test_the_pareto_front_is_what_nothing_is_as_good_and_as_cheap_as() -> None:
    points = [(0.9, Decimal(5)), (0.9, Decimal(4)), (0.5, Decimal(1)), (0.4, Decimal(2)), (0.99, None)]
    assert pareto_front(points, higher_is_better=True) == [False, True, True, False, False]
    assert pareto_front([(0.1, Decimal(1)), (0.2, Decimal(1))], higher_is_better=False) == [True, False]

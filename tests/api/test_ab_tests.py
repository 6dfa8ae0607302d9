"""`/v1/ab-tests`: planned before anything is spent, run through the queue, looked at, stopped, concluded.

No model is asked here: the rows that a driver would store are written, and turns are taken as a supervisor does.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from evalservice.catalog.blocks import random_order
from evalservice.comparisons.running import running_tests
from evalservice.comparisons.turns import take_turn
from evalservice.database import tenant_transaction, transaction
from tests.api.conftest import Served, Tenant, a_model, created, unique
from tests.conftest import Cli

N = 400
SEQUENTIAL = {"design": "sequential", "minimum_detectable_effect": 0.12}


class Bench:
    """A benchmark, models on it, and what their drivers would write."""

    def __init__(self, served: Served, client: httpx.Client) -> None:
        self.served, self.client = served, client
        cases = [{"input": f"What is {i}?", "expected_output": str(i)} for i in range(N)]
        self.dataset = created(client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})["name"]
        self.benchmark = self.made(["exact_match"])

    def made(self, scorers: Sequence[Any], dataset: str = "", **criteria: Any) -> str:
        body = {"name": unique("b"), "dataset": dataset or self.dataset, "category": "qa"}
        body["evaluation_criteria"] = {"scorers": list(scorers), **criteria}  # type: ignore[assignment]
        name: str = created(self.client, "/v1/benchmarks", body)["name"]
        return name

    def models(self, count: int) -> list[str]:
        return [a_model(self.client)["name"] for _ in range(count)]

    def body(self, models: Sequence[str], config: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "name": unique("test"),
            "benchmark": self.benchmark,
            "models": list(models),
            "test_config": config,
            **more,
        }

    def started(
        self, models: int | Sequence[str] = 2, config: dict[str, Any] = SEQUENTIAL, **more: Any
    ) -> dict[str, Any]:
        names = self.models(models) if isinstance(models, int) else models
        test = created(self.client, "/v1/ab-tests", self.body(names, config, **more))
        return self.post(test, "start")

    def post(self, test: dict[str, Any], what: str) -> dict[str, Any]:
        answer = self.client.post(f"/v1/ab-tests/{test['id']}/{what}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def refused(self, config: dict[str, Any], models: int = 2, **more: Any) -> str:
        answer = self.client.post("/v1/ab-tests", json=self.body(self.models(models), config, **more))
        assert answer.status_code == 422, answer.text
        return str(answer.json()["detail"])

    def answers(self, run: str, test: dict[str, Any], part: slice, right: float, status: str = "running") -> None:
        """Rows of the test cases of this part of the test's order: the share `right` of them is right."""
        organization = self.served.mine.organization
        order = random_order(N, test["test_config"]["seed"])[: test["plan"]["test_cases"]][part]
        with psycopg.connect(self.served.database) as connection:
            for index in order.tolist():
                value = float(random.Random(f"{index} {right}").random() < right)
                details = {"scores": {"exact_match": {"status": "scored", "values": {"exact_match": value}}}}
                connection.execute(
                    "INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, success, "
                    "metrics, score_details, input_data, actual_output) "
                    "VALUES (gen_random_uuid(), %s, %s, %s, true, %s, %s, '{}', 'null')",
                    (organization, run, index, json.dumps({"exact_match": value}), json.dumps(details)),
                )
            connection.execute(
                "UPDATE evaluation_runs SET status = %s, completed_test_cases = completed_test_cases + %s "
                "WHERE id = %s",
                (status, len(order), run),
            )

    def status(self, run: str, status: str = "", **values: Any) -> str:
        """A run's status, after it was set where one is given."""
        with psycopg.connect(self.served.database) as connection:
            if status:
                message = values.get("error_message", "")
                connection.execute(
                    "UPDATE evaluation_runs SET status = %s, error_message = %s WHERE id = %s", (status, message, run)
                )
            row = connection.execute("SELECT status FROM evaluation_runs WHERE id = %s", (run,)).fetchone()
        assert row is not None
        return str(row[0])

    def dies_in_a_turn(self, test: dict[str, Any]) -> None:
        with tenant_transaction(self.served.wiring.engine, self.served.mine.organization) as session:
            take_turn(session, uuid.UUID(test["id"]))
            raise ZeroDivisionError

    def turn(self, test: dict[str, Any], tenant: Tenant | None = None) -> dict[str, Any]:
        """The test after a turn, taken in a tenant's transaction."""
        organization = (tenant or self.served.mine).organization
        with tenant_transaction(self.served.wiring.engine, organization) as session:
            take_turn(session, uuid.UUID(test["id"]))
        document: dict[str, Any] = self.client.get(f"/v1/ab-tests/{test['id']}").json()
        return document


@pytest.fixture
def bench(served: Served, owner: httpx.Client) -> Bench:
    return Bench(served, owner)


def runs_of(test: dict[str, Any]) -> list[str]:
    return [run["evaluation_run_id"] for run in test["runs"]]


def test_the_better_model_wins_early_and_the_calls_that_were_not_made_are_counted(bench: Bench) -> None:
    test = bench.started()
    good, bad = runs_of(test)
    assert (test["status"], bench.status(good), test["runs"][0]["is_shared"]) == ("running", "pending", False)
    bench.answers(good, test, slice(0, 20), 1.0)
    bench.answers(bad, test, slice(0, 3), 0.0)
    early = bench.turn(test)
    assert (early["status"], early["results"]["test_cases"], early["results"]["verdict"]) == ("running", 3, None)
    bench.answers(bad, test, slice(3, 20), 0.0)
    ended = bench.turn(test)
    results = ended["results"]
    assert (ended["status"], results["verdict"], results["test_cases"]) == ("completed", "winner", 20)
    assert ended["winner_model_id"] == ended["models"][0] == results["leaders"][0]
    assert [bench.status(run) for run in (good, bad)] == ["cancelled", "cancelled"]
    planned = 2 * test["plan"]["test_cases"]
    assert results["calls"] == {
        "planned": planned,
        "made": 40,
        "saved_by_stopping": planned - 40,
        "saved_by_sharing": 0,
    }
    assert [look["test_cases"] for look in results["looks"]] == [3, 20]
    assert results["models"][test["models"][1]]["stopped"]
    comparison = results["comparison"]
    [pair] = comparison["metrics"]["exact_match"]["pairs"]
    assert (comparison["gate"], comparison["test_cases"]) == ("go", 20)
    assert (pair["test"], pair["interval"], pair["wins_a"]) == ("e_process", "confidence_sequence", 20)
    assert pair["p_corrected"] < 0.05
    assert "is better than the other, decided after 20 of at most" in results["said"]
    assert "tends to look too large" in results["said"]


def test_a_fixed_design_waits_for_every_answer_and_says_what_a_comparison_of_the_runs_says(bench: Bench) -> None:
    test = bench.started(config={"test_cases": 100, "seed": 7})
    first, second = runs_of(test)
    assert test["runs"][0]["total_test_cases"] == 100
    bench.answers(first, test, slice(0, 100), 0.9, "completed")
    bench.answers(second, test, slice(0, 60), 0.5)
    assert bench.turn(test)["status"] == "running"
    bench.answers(second, test, slice(60, 100), 0.5, "completed")
    ended = bench.turn(test)
    found = bench.client.get("/v1/comparisons", params={"run": [first, second], "seed": 7}).json()
    assert (ended["status"], ended["results"]["verdict"]) == ("completed", "winner")
    assert ended["results"]["comparison"] == found
    assert found["test_cases"] == 100
    assert ended["results"]["calls"]["saved_by_stopping"] == 0


def test_three_models_the_loser_is_stopped_and_the_others_are_said_to_tie(bench: Bench) -> None:
    test = bench.started(3, {**SEQUENTIAL, "test_cases": 60})
    one, two, bad = runs_of(test)
    for run, right in ((one, 1.0), (two, 1.0), (bad, 0.0)):
        bench.answers(run, test, slice(0, 30), right)
    half = bench.turn(test)
    assert (half["status"], bench.status(bad), bench.status(one)) == ("running", "cancelled", "running")
    for run in (one, two):
        bench.answers(run, test, slice(30, 60), 1.0, "completed")
    ended = bench.turn(test)
    assert (ended["status"], ended["results"]["verdict"], ended["winner_model_id"]) == (
        "completed",
        "inconclusive",
        None,
    )
    assert ended["results"]["leaders"] == test["models"][:2]
    assert ended["results"]["models"][test["models"][2]]["test_cases"] == 30
    assert ended["results"]["said"].startswith(
        f"no winner: {test['runs'][0]['model']} and {test['runs'][1]['model']} tie"
    )
    assert ended["results"]["calls"]["made"] == 150


def test_a_process_that_dies_in_a_turn_leaves_what_the_next_ones_turn_goes_on_from(bench: Bench) -> None:
    test = bench.started(config={**SEQUENTIAL, "test_cases": 50})
    for run in runs_of(test):
        bench.answers(run, test, slice(0, 30), 0.6)
    with pytest.raises(ZeroDivisionError):
        bench.dies_in_a_turn(test)
    assert bench.client.get(f"/v1/ab-tests/{test['id']}").json()["results"]["test_cases"] == 0
    assert bench.turn(test)["results"]["test_cases"] == 30
    with tenant_transaction(bench.served.wiring.engine, bench.served.mine.organization) as session:
        take_turn(session, uuid.UUID(test["id"]))  # holds the test's lock
        with tenant_transaction(bench.served.wiring.engine, bench.served.mine.organization) as other:
            assert take_turn(other, uuid.UUID(test["id"])) is None
    for run in runs_of(test):
        bench.answers(run, test, slice(30, 50), 0.6, "completed")
    ended = bench.turn(test)
    assert (ended["status"], ended["results"]["pairs"][0]["n"]) == ("completed", 50)


def test_a_run_of_the_same_configuration_is_shared_and_never_stopped(bench: Bench) -> None:
    models = bench.models(2)
    whole = [created(bench.client, "/v1/evaluation-runs", {"model": models[0], "benchmark": bench.benchmark})["id"]]
    first = bench.started(models)
    assert [run["is_shared"] for run in first["runs"]] == [False, False]  # a pending run may never be driven
    bench.post(first, "cancel")
    bench.answers(whole[0], {**first, "plan": {"test_cases": N}}, slice(0, N), 0.0, "completed")
    test = bench.started(models)
    assert [run["is_shared"] for run in test["runs"]] == [True, False]
    assert runs_of(test)[0] == whole[0]
    assert not any(run["is_shared"] for run in bench.started(models, {**SEQUENTIAL, "share": False})["runs"])
    bench.answers(runs_of(test)[1], test, slice(0, 40), 1.0)
    ended = bench.turn(test)
    assert (ended["results"]["verdict"], ended["winner_model_id"]) == ("winner", test["models"][1])
    assert (bench.status(whole[0]), ended["results"]["comparison"]["gate"]) == ("completed", "no_go")
    assert ended["results"]["calls"]["saved_by_sharing"] == test["plan"]["test_cases"]


def test_a_run_that_another_test_uses_is_not_stopped_with_the_one_that_made_it(bench: Bench) -> None:
    models = bench.models(2)
    first = bench.started(models)
    mine = runs_of(first)[0]
    with psycopg.connect(bench.served.database) as connection:
        connection.execute(
            "UPDATE evaluation_runs SET status = 'running', lease_owner = 'a driver', "
            "lease_expires_at = now() + interval '1 hour' WHERE id = %s",
            (mine,),
        )
    second = bench.started(models)
    assert second["runs"][0] == {**first["runs"][0], "is_shared": True, "status": "running"}
    bench.post(first, "cancel")
    run = bench.client.get(f"/v1/evaluation-runs/{mine}").json()
    assert (run["status"], run["cancel_requested"], bench.status(runs_of(first)[1])) == ("running", False, "pending")
    assert bench.post(second, "cancel")["status"] == "cancelled"
    assert bench.client.get(f"/v1/evaluation-runs/{mine}").json()["cancel_requested"]  # it is nobody's any more


def test_a_run_that_somebody_made_for_its_own_sake_is_never_stopped(bench: Bench) -> None:
    models = bench.models(2)
    own = created(bench.client, "/v1/evaluation-runs", {"model": models[0], "benchmark": bench.benchmark})["id"]
    with psycopg.connect(bench.served.database) as connection:
        connection.execute(
            "UPDATE evaluation_runs SET status = 'running', lease_owner = 'a driver', "
            "lease_expires_at = now() + interval '1 hour' WHERE id = %s",
            (own,),
        )
    test = bench.started(models)
    assert runs_of(test)[0] == own
    bench.answers(own, test, slice(0, 30), 0.0)
    bench.answers(runs_of(test)[1], test, slice(0, 30), 1.0)
    bench.turn(test)
    assert bench.turn(test)["results"]["verdict"] == "winner"
    assert not bench.client.get(f"/v1/evaluation-runs/{own}").json()["cancel_requested"]


def test_a_run_with_a_budget_is_not_shared_before_it_has_kept_it(bench: Bench) -> None:
    models = bench.models(2)
    asked = {"model": models[0], "benchmark": bench.benchmark}
    own = created(bench.client, "/v1/evaluation-runs", asked)["id"]
    with psycopg.connect(bench.served.database) as connection:
        connection.execute(
            "UPDATE evaluation_runs SET status = 'running', lease_owner = 'a driver', "
            "lease_expires_at = now() + interval '1 hour', evaluation_config = '{\"max_cost\": \"1\"}' WHERE id = %s",
            (own,),
        )
    first = bench.started(models)
    assert own not in runs_of(first)
    bench.post(first, "cancel")
    bench.answers(own, {**first, "plan": {"test_cases": N}}, slice(0, N), 0.0, "completed")
    assert runs_of(bench.started(models))[0] == own


def test_two_tests_that_are_started_together_share_what_waits(bench: Bench) -> None:
    models = bench.models(2)
    first, second = bench.started(models), bench.started(models)
    assert runs_of(second) == runs_of(first)
    bench.post(first, "cancel")
    assert {bench.status(run) for run in runs_of(second)} == {"pending"}
    bench.post(second, "cancel")
    assert {bench.status(run) for run in runs_of(second)} == {"cancelled"}


def test_a_decision_stands_whatever_answers_were_missing_of_those_who_are_left(bench: Bench) -> None:
    test = bench.started(3)
    best, middle, worst = runs_of(test)
    for run, right in ((best, 0.95), (middle, 0.7), (worst, 0.0)):
        bench.answers(run, test, slice(0, 20), right)
    early = bench.turn(test)["results"]
    assert (early["verdict"], early["models"][test["models"][2]]["stopped"]) == (None, True)
    total = test["plan"]["test_cases"]
    for run, right in ((best, 0.95), (middle, 0.7)):
        bench.answers(run, test, slice(20, total), right)
    with psycopg.connect(bench.served.database) as connection:  # 98.8 % of theirs came, all of the one that is out
        late = random_order(N, test["test_config"]["seed"])[total - 4 : total - 1].tolist()
        connection.execute(
            "UPDATE evaluation_results SET success = false, metrics = '{}' "
            "WHERE evaluation_run_id = ANY(%s) AND test_case_index = ANY(%s)",
            ([best, middle], late),
        )
    ended = bench.turn(test)
    assert (ended["status"], ended["results"]["error"]) == ("completed", "")
    assert (ended["results"]["verdict"], ended["winner_model_id"]) == ("winner", test["models"][0])
    assert "1.0% apart" in " ".join(ended["results"]["comparison"]["warnings"])


def test_a_test_whose_run_fails_says_why_and_goes_on_when_it_is_started_again(bench: Bench) -> None:
    test = bench.started(config={**SEQUENTIAL, "test_cases": 30})
    good, bad = runs_of(test)
    bench.answers(good, test, slice(0, 10), 1.0)
    bench.status(bad, "failed", error_message="every request failed")
    failed = bench.turn(test)
    assert (failed["status"], bench.status(good)) == ("failed", "cancelled")
    assert failed["results"]["error"] == f"run {bad} of {test['runs'][1]['model']} has failed: every request failed"
    again = bench.post(test, "start")
    assert (again["status"], runs_of(again), bench.status(bad)) == ("running", [good, bad], "pending")
    bench.answers(good, test, slice(10, 30), 1.0, "completed")
    bench.answers(bad, test, slice(0, 30), 0.0, "completed")
    assert bench.turn(test)["results"]["verdict"] == "winner"


def test_cancelling_ends_the_tests_runs_and_what_has_ended_is_neither_started_nor_cancelled(bench: Bench) -> None:
    test = bench.started()
    cancelled = bench.post(test, "cancel")
    assert (cancelled["status"], {bench.status(run) for run in runs_of(test)}) == ("cancelled", {"cancelled"})
    for what in ("start", "cancel"):
        answer = bench.client.post(f"/v1/ab-tests/{test['id']}/{what}")
        assert (answer.status_code, "is cancelled" in answer.json()["detail"]) == (409, True)
    changed = bench.client.patch(f"/v1/ab-tests/{test['id']}", json={"test_config": {}})
    assert (changed.status_code, "only a draft's" in changed.json()["detail"]) == (409, True)


def test_a_draft_is_planned_by_effect_power_and_budget(bench: Bench) -> None:
    def plan(**config: Any) -> dict[str, Any]:
        body = bench.body(bench.models(2), config)
        found: dict[str, Any] = created(bench.client, "/v1/ab-tests", body)["plan"]
        return found

    assert plan()["test_cases"] == N
    fixed = plan(minimum_detectable_effect=0.1)
    assert (fixed["test_cases"], fixed["model_calls"]) == (194, 388)  # Connor (1987): 193.8
    assert fixed["noticeable"] == pytest.approx(0.1, abs=0.001)
    assert plan(minimum_detectable_effect=0.1, design="sequential")["test_cases"] == 272  # 1.4 times
    assert plan(minimum_detectable_effect=0.1, design="sequential", max_model_calls=300)["test_cases"] == 150
    assert plan(max_model_calls=90)["test_cases"] == 45


def test_what_cannot_work_is_refused_before_a_model_is_asked(bench: Bench) -> None:
    assert "at least 2" in bench.refused({}, 1)
    assert "each model once" in str(
        bench.client.post("/v1/ab-tests", json=bench.body([bench.models(1)[0]] * 2, {})).json()["detail"]
    )
    assert "significance_level" in bench.refused({}, significance_level=1.0)
    assert "the benchmark has exact_match" in bench.refused({"metrics": ["bleu"]})
    assert "at most the dataset's 400" in bench.refused({"test_cases": 401})
    assert "it needs 8," in bench.refused({"minimum_detectable_effect": 0.015})
    assert "at most the discordance" in bench.refused({"minimum_detectable_effect": 0.3, "discordance": 0.2})
    assert "more than the margin" in bench.refused({"minimum_detectable_effect": 0.1, "margin": 0.1})
    assert "at least 388 for this design" in bench.refused({"minimum_detectable_effect": 0.1, "max_model_calls": 387})
    assert "at least 4 for this design" in bench.refused({"max_model_calls": 3})
    assert "test_config" in bench.refused({"desing": "fixed"})
    bench.benchmark = bench.made(["bleu"])
    assert "is computed over all test cases at once" in bench.refused({"design": "sequential"})
    bench.benchmark = bench.made(["exact_match"], epochs=3)
    assert "difference_sd" in bench.refused({"minimum_detectable_effect": 0.1})
    cases = [{"input": f"{i}", "expected_output": "1", "cluster": f"c{i // 2}"} for i in range(20)]
    clustered = created(bench.client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})["name"]
    bench.benchmark = bench.made(["exact_match"], clustered)
    assert "depend on each other" in bench.refused({"design": "sequential"})


def test_anothers_test_does_not_exist_and_no_turn_of_theirs_moves_it(bench: Bench) -> None:
    test = bench.started()
    with bench.served.client(bench.served.theirs) as them:
        for what in ("start", "cancel"):
            assert them.post(f"/v1/ab-tests/{test['id']}/{what}").status_code == 404
        assert test["id"] not in [each["id"] for each in them.get("/v1/ab-tests").json()["items"]]
    with bench.served.client(bench.served.mine, "viewer") as viewer:
        assert viewer.post(f"/v1/ab-tests/{test['id']}/start").status_code == 403
    with transaction(bench.served.wiring.engine) as session:
        assert (bench.served.mine.organization, uuid.UUID(test["id"])) in running_tests(session)
    for run in runs_of(test):
        bench.answers(run, test, slice(0, 5), 1.0)
    assert bench.turn(test, bench.served.theirs)["results"]["test_cases"] == 0


def test_the_command_line_makes_shows_and_judges_a_test(bench: Bench, evalservice_home: Path) -> None:
    environment = {"EVALSERVICE_URL": bench.served.url, "EVALSERVICE_API_KEY": bench.served.mine.keys["member"]}
    cli, name = Cli(evalservice_home, environment), unique("cli")
    first, second = bench.models(2)
    both = ("--benchmark", bench.benchmark, "--model", first, "--model", second)
    made = cli("abtests", "create", name, *both, "--design", "sequential", "--effect", 0.12)
    assert (made.code, "at most 376 model calls" in made.out) == (0, True), made.out + made.err
    test = cli.ok("abtests", "start", name, "--no-wait")
    bench.answers(runs_of(test)[0], test, slice(0, 30), 0.0)
    bench.answers(runs_of(test)[1], test, slice(0, 30), 1.0)
    bench.turn(test)
    shown = cli("abtests", "show", name, "--gate")
    assert (shown.code, f"{second} is better than the other" in shown.out) == (1, True), shown.out + shown.err
    assert "60 of 376 model calls made: 316 saved by stopping" in shown.out
    assert cli("abtests", "start", name).code == 0
    assert name in cli("abtests", "list", "--status", "completed").out
    refused = cli("abtests", "cancel", name)
    assert (refused.code, "is completed" in refused.err) == (1, True)
    assert cli("abtests", "show", "nothing").code == 1

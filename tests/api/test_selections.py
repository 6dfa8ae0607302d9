"""Which model for this request: decisions over HTTP, their log, their replay and their outcomes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import httpx
import pytest
from sqlalchemy import text

from cluster.outcomes import apply_waiting
from evalservice.database import tenant_transaction
from evalservice.errors import Unauthenticated
from evalservice.organizations.identity import hash_of
from evalservice.organizations.remembered import RememberedKeys
from evalservice.selection import applying
from evalservice.selection.applying import apply_outcomes
from tests.api.conftest import Served, Tenant, a_benchmark, a_dataset, a_tenant, created, unique
from tests.postgres import as_organization


class Router:
    """An organization of its own with models and evidence, and what is asked of it."""

    def __init__(self, served: Served, tenant: Tenant) -> None:
        self.served, self.tenant = served, tenant
        self.client = served.client(tenant)
        self.benchmark = ""

    def model(self, name: str, *, price: float | None = 1.0, **values: Any) -> str:
        """A model with one price for a million tokens in and out; gives its id."""
        prices = {} if price is None else {"input_price_per_million": price, "output_price_per_million": price}
        body = {"name": name, "platform": "openai", "model_id": unique(name), "base_url": "https://llm.example.com/v1"}
        return str(created(self.client, "/v1/models", {**body, **prices, **values})["id"])

    def measured(self, benchmark: str, **quality: float) -> None:
        """A run of 400 test cases a day ago, for each model by name."""
        with as_organization(self.served.database, self.tenant.organization) as connection:
            for name, value in quality.items():
                stderr = (value * (1 - value) / 400) ** 0.5
                connection.execute(
                    """
                    INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, benchmark_id,
                                               evaluation_run_id, metadata, timestamp)
                    SELECT gen_random_uuid(), m.organization_id, m.id, 'accuracy', %s, b.id, gen_random_uuid(),
                           jsonb_build_object('name', 'numeric_match', 'n', 400, 'stderr', %s::float8), %s
                    FROM evaluation_models AS m, benchmark_suites AS b WHERE m.name = %s AND b.name = %s
                    """,
                    (value, stderr, datetime.now(UTC) - timedelta(days=1), name, benchmark),
                )
            connection.commit()

    def ask(self, **request: Any) -> httpx.Response:
        return self.client.post("/v1/selections", json=request)

    def select(self, **request: Any) -> dict[str, Any]:
        """A decision that must succeed, stored."""
        answer = self.ask(durable=True, **request)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def learn(self) -> int:
        """Apply the outcomes that wait."""
        with tenant_transaction(self.served.wiring.engine, self.tenant.organization) as session:
            return apply_outcomes(session, self.tenant.organization)


@pytest.fixture
def router(served: Served) -> Iterator[Router]:
    """Three models: dear and good, cheap and fair, and one of which nothing is known."""
    router = Router(served, a_tenant(served.database, served.wiring.engine))
    with as_organization(served.database, router.tenant.organization) as connection:
        connection.execute("UPDATE evaluation_models SET status = 'archived'")
        connection.execute("DELETE FROM selection_outcomes")
        connection.execute("DELETE FROM model_metrics")
        connection.commit()
    benchmark = a_benchmark(router.client, a_dataset(router.client)["name"])["name"]
    router.benchmark = benchmark
    for name, price in (("good", 10.0), ("fair", 1.0), ("new", 0.1)):
        router.model(name, price=price)
    router.measured(benchmark, good=0.9, fair=0.7)
    yield router
    router.client.close()


def chosen(document: dict[str, Any]) -> str:
    name: str = document["selected"]["name"]
    return name


def test_the_answer_says_which_model_how_to_call_it_and_why(router: Router) -> None:
    answer = router.select(weights={"quality": 1, "cost": 0, "latency": 0}, use_case="qa")
    assert chosen(answer) == "good"
    assert answer["selected"]["base_url"] == "https://llm.example.com/v1"
    assert [each["name"] for each in answer["fallbacks"]] == ["fair", "new"]
    assert answer["propensity"] == 1.0
    assert answer["evidence"] == "category:qa"
    assert "good" in answer["explanation"]
    assert "fair" in answer["explanation"]


def test_a_model_without_evidence_is_not_chosen_by_a_quality_constraint(router: Router) -> None:
    floor = {"value": 0.3, "benchmark": router.benchmark}
    answer = router.select(constraints={"min_quality": floor}, policy="weighted", weights={"quality": 0, "cost": 1})
    assert chosen(answer) == "fair"
    rejected = next(each for each in answer["candidates"] if each["name"].startswith("new@"))
    assert rejected["rejected"]["constraint"] == "min_quality"
    assert rejected["rejected"]["value"] == "no evidence"


def test_nothing_eligible_is_a_conflict_that_says_what_relaxing_would_give(router: Router) -> None:
    answer = router.ask(constraints={"min_quality": {"value": 0.8, "category": "qa"}, "max_cost": 0.002}, durable=True)
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["type"].endswith("/nothing-eligible")
    relaxed = {each["constraint"]: each for each in problem["relaxations"]}
    assert relaxed["max_cost"]["models"] == ["good@1.0.0"]
    assert relaxed["min_quality"]["models"] == ["fair@1.0.0", "new@1.0.0"]
    assert relaxed["max_cost"]["eligible_at"] == pytest.approx(0.01)
    logged = router.client.get(f"/v1/selections/{problem['selection_id']}").json()
    assert logged["selected_model_id"] is None


def test_the_relaxed_limit_that_is_told_lets_the_model_in(router: Router) -> None:
    constraints: dict[str, Any] = {"min_quality": {"value": 0.8, "category": "qa"}, "max_cost": 0.002}
    problem = router.ask(constraints=constraints).json()
    relaxed = {each["constraint"]: each for each in problem["relaxations"]}
    for name in ("max_cost", "min_quality"):
        limit = relaxed[name]["eligible_at"]
        # evidence ages between the two requests
        new = {**constraints["min_quality"], "value": limit - 1e-6} if name == "min_quality" else limit
        assert router.ask(constraints={**constraints, name: new}).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"constraints": {"max_costs": 1}}, "constraints.max_costs"),
        ({"constraints": {"max_cost": -1}}, "constraints.max_cost"),
        (
            {"constraints": {"min_quality": {"value": 0.5, "benchmark": "a", "category": "b"}}},
            "constraints.min_quality",
        ),
        ({"policy": "cleverest"}, "policy"),
        ({"policy": "weighted", "weights": {"price": 1}}, "weights.price"),
        ({"policy": "thompson", "parameters": {"arms": 3}}, "parameters.arms"),
        ({"required_capabilities": "qa"}, "required_capabilities"),
        ({"seed": -1}, "seed"),
        ({"text": "a\u0000b", "store_text": True}, "text"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(router: Router, body: dict[str, Any], field: str) -> None:
    answer = router.client.post("/v1/selections", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_without_any_evidence_the_answer_is_by_price_and_says_so(router: Router) -> None:
    with as_organization(router.served.database, router.tenant.organization) as connection:
        connection.execute("DELETE FROM model_metrics")
        connection.commit()
    answer = router.select()
    assert chosen(answer) == "new"
    assert "no evidence" in answer["explanation"]


@pytest.mark.parametrize(
    ("policy", "parameters"),
    [
        ("weighted", {}),
        ("pareto", {}),
        ("thompson", {"cost_weight": 5.0}),
        ("cheapest_above_quality", {"min_quality": 0.6}),
        ("nearest", {"cost_weight": 1.0}),
        ("pinned", {"model": "fair"}),
        ("canary", {"model": "good", "candidate": "fair", "share": 0.5}),
        ("weighted", {"exploration": 0.05}),
    ],
)
def test_a_logged_decision_is_made_again_bit_for_bit(router: Router, policy: str, parameters: dict[str, Any]) -> None:
    for seed in range(5):
        answer = router.select(policy=policy, parameters=parameters, seed=seed, constraints={"max_cost": 0.02})
        replay = router.client.get(f"/v1/selections/{answer['id']}/replay").json()
        assert replay["same"], replay
        assert replay["selected_model_id"] == answer["selected"]["model_id"]


def test_a_changed_log_does_not_replay(router: Router) -> None:
    answer = router.select(policy="weighted", weights={"quality": 1, "cost": 0, "latency": 0})
    with as_organization(router.served.database, router.tenant.organization) as connection:
        connection.execute(
            "UPDATE model_selection_logs SET candidate_models = jsonb_set(candidate_models, '{1,quality}', '0.99') "
            "WHERE id = %s",
            (answer["id"],),
        )
        connection.commit()
    replay = router.client.get(f"/v1/selections/{answer['id']}/replay").json()
    assert not replay["same"]
    assert replay["differences"]


def test_the_text_is_stored_only_when_that_is_asked_for(router: Router) -> None:
    kept, not_kept = (router.select(text="a secret", store_text=store)["id"] for store in (True, False))
    assert router.client.get(f"/v1/selections/{kept}").json()["request_text"] == "a secret"
    stored = router.client.get(f"/v1/selections/{not_kept}")
    assert "a secret" not in stored.text
    assert stored.json()["request_hash"]


def test_an_idempotency_key_gives_the_same_decision_again(router: Router) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (router.client.post("/v1/selections", json={}, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    other = router.client.post("/v1/selections", json={"use_case": "qa"}, headers=headers)
    assert other.status_code == 422


def test_outcomes_change_what_is_chosen(router: Router) -> None:
    for _ in range(300):
        answer = router.ask(policy="pinned", parameters={"model": "good"}).json()
        body = {"success": True, "quality": 0.0, "latency_ms": 100.0}
        assert router.client.post(f"/v1/selections/{answer['id']}/outcome", json=body).status_code == 200
    router.select()  # what was decided before is stored
    assert router.learn() == 300
    assert chosen(router.select(weights={"quality": 1, "cost": 0, "latency": 0})) != "good"


def test_an_outcome_in_parts_is_applied_once_and_noted_on_the_decision(router: Router) -> None:
    answer = router.select(use_case="support")
    path = f"/v1/selections/{answer['id']}/outcome"
    for body in ({"success": True}, {"success": True, "latency_ms": 80.0}, {"quality": 0.5}):
        assert router.client.post(path, json=body).status_code == 200
        router.learn()
    router.client.post(path, json={"quality": 0.5})
    assert router.learn() == 0
    logged = router.client.get(f"/v1/selections/{answer['id']}").json()
    assert logged["execution_successful"] is True
    assert logged["actual_performance"] == {"latency_ms": 80.0, "quality": 0.5}
    with as_organization(router.served.database, router.tenant.organization) as connection:
        row = connection.execute("SELECT beliefs FROM selection_beliefs WHERE use_case = 'support'").fetchone()
        names = connection.execute("SELECT metadata ->> 'name' FROM model_metrics WHERE evaluation_run_id IS NULL")
        assert sorted(name for (name,) in names) == ["outcome_latency_ms", "outcome_quality", "outcome_success"]
    assert row is not None
    assert sum(row[0]["quality_n"]) == 1.0


def test_an_outcome_that_says_otherwise_is_refused(router: Router) -> None:
    path = f"/v1/selections/{router.select()['id']}/outcome"
    assert router.client.post(path, json={"success": True}).status_code == 200
    answer = router.client.post(path, json={"success": False})
    assert answer.status_code == 409
    assert "success" in answer.json()["detail"]


def test_an_outcome_may_come_before_its_decision_is_stored(router: Router) -> None:
    early = uuid.uuid4()
    assert router.client.post(f"/v1/selections/{early}/outcome", json={"success": True}).status_code == 200
    assert router.learn() == 0  # it waits


def test_a_burst_of_errors_takes_a_model_out(router: Router) -> None:
    for _ in range(30):
        answer = router.ask(policy="pinned", parameters={"model": "good"}).json()
        router.client.post(f"/v1/selections/{answer['id']}/outcome", json={"success": False, "error_kind": "server"})
    router.select()
    router.learn()
    answer = router.select(weights={"quality": 1, "cost": 0, "latency": 0})
    assert chosen(answer) == "fair"
    rejected = {each["name"]: each["rejected"] for each in answer["candidates"] if "rejected" in each}
    assert rejected["good@1.0.0"]["constraint"] == "circuit_breaker"


def test_one_probe_at_a_time_and_successes_bring_a_model_back(router: Router) -> None:
    for _ in range(30):
        answer = router.ask(policy="pinned", parameters={"model": "good"}).json()
        router.client.post(f"/v1/selections/{answer['id']}/outcome", json={"success": False})
    router.select()
    router.learn()
    with as_organization(router.served.database, router.tenant.organization) as connection:
        # its cool-down has ended
        connection.execute(
            "UPDATE selection_breakers SET state = jsonb_set(state, '{3}', to_jsonb((state ->> 3)::float8 - 600)) "
            "WHERE state ->> 3 IS NOT NULL"
        )
        connection.commit()
    best = {"weights": {"quality": 1, "cost": 0, "latency": 0}}
    for _ in range(3):
        probe, meanwhile = router.select(**best), router.select(**best)
        assert (chosen(probe), chosen(meanwhile)) == ("good", "fair")
        router.client.post(f"/v1/selections/{probe['id']}/outcome", json={"success": True})
        router.learn()
    assert [chosen(router.select(**best)) for _ in range(3)] == ["good"] * 3


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_nobody_can_have_is_refused(router: Router, moment: str) -> None:
    path = f"/v1/selections/{router.select()['id']}/outcome"
    answer = router.client.post(path, json={"success": True, "occurred_at": moment})
    assert (answer.status_code, answer.json()["field"]) == (422, "occurred_at")


def test_an_outcome_that_cannot_be_applied_holds_up_no_other(router: Router) -> None:
    for _ in range(2):
        router.client.post(f"/v1/selections/{router.select()['id']}/outcome", json={"success": True})
    with as_organization(router.served.database, router.tenant.organization) as connection:
        connection.execute(
            "UPDATE selection_outcomes SET occurred_at = '0044-03-15 12:00:00+00 BC' "
            "WHERE id = (SELECT id FROM selection_outcomes ORDER BY updated_at, id LIMIT 1)"
        )
        connection.commit()
    for _ in range(3):
        apply_waiting(router.served.wiring)  # type: ignore[arg-type]  # it needs the engine alone
    with as_organization(router.served.database, router.tenant.organization) as connection:
        rows = connection.execute("SELECT applied_at IS NULL, metadata ? 'error' FROM selection_outcomes").fetchall()
    assert sorted(rows) == [(False, False), (False, True)]


def test_names_made_up_for_each_request_are_no_use_cases(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "MOST_USE_CASES", 3)
    for number in range(6):
        own = router.select(use_case=f"session-{number}")["id"]
        router.client.post(f"/v1/selections/{own}/outcome", json={"quality": 1.0})
    assert router.learn() == 6
    with as_organization(router.served.database, router.tenant.organization) as connection:
        rows = dict(connection.execute("SELECT use_case, beliefs -> 'quality_n' FROM selection_beliefs").fetchall())
    assert len(rows) <= 5
    assert sum(rows[""]) == pytest.approx(6, abs=0.1)


def test_what_is_told_late_neither_opens_nor_closes_a_breaker(router: Router) -> None:
    before = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for _ in range(30):
        own = router.ask(policy="pinned", parameters={"model": "good"}).json()["id"]
        router.client.post(f"/v1/selections/{own}/outcome", json={"success": False, "occurred_at": before})
    router.select()
    router.learn()
    assert chosen(router.select(weights={"quality": 1, "cost": 0, "latency": 0})) == "good"


def test_one_dear_or_failed_request_shuts_no_model_out(router: Router) -> None:
    own = router.select(policy="pinned", parameters={"model": "fair"})["id"]
    body = {"success": False, "cost": "0.01"}
    assert router.client.post(f"/v1/selections/{own}/outcome", json=body).status_code == 200
    router.learn()
    constraints = {"max_error_rate": 0.1, "max_cost": 0.002, "models": ["fair"]}
    assert chosen(router.select(constraints=constraints)) == "fair"


def test_a_revoked_key_is_refused_to_all_who_ask_at_once(served: Served) -> None:
    key = served.mine.keys["viewer"]

    async def asked() -> list[bool]:
        keys = RememberedKeys(served.wiring.engine, anyio.to_thread.run_sync)
        await keys.find(key)
        with tenant_transaction(served.wiring.engine, served.mine.organization) as session:
            session.execute(
                text("UPDATE api_keys SET revoked_at = now() WHERE key_hash = :hash"), {"hash": hash_of(key)}
            )
        keys.forget()
        found = await asyncio.gather(*(keys.find(key) for _ in range(5)), return_exceptions=True)
        return [isinstance(each, Unauthenticated) for each in found]

    assert asyncio.run(asked()) == [True] * 5


def test_a_decision_for_nothing_is_logged_also_under_an_idempotency_key(router: Router) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answer = router.client.post("/v1/selections", json={"constraints": {"max_cost": 1e-9}}, headers=headers)
    assert answer.status_code == 409
    router.select()  # what was decided before is stored
    logged = router.client.get(f"/v1/selections/{answer.json()['selection_id']}")
    assert logged.json()["selected_model_id"] is None


def test_a_budget_that_cannot_be_held_is_told_and_the_cheapest_serves(router: Router) -> None:
    body = {"name": "thrifty", "algorithm": "weighted", "budget": {"mean_cost_usd": 1e-6}}
    policy = created(router.client, "/v1/selection-policies", body)
    assert router.client.post(f"/v1/selection-policies/{policy['id']}/activate", json={}).status_code == 200
    answer = router.select(policy="thrifty", constraints={"models": ["good", "fair"]})
    assert chosen(answer) == "fair"
    assert "below what the cheapest eligible model costs" in answer["warnings"][0]

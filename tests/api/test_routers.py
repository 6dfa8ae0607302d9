"""Routers over HTTP: decisions of the service, decisions in this process while it is away, outcomes that arrive."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

import evalservice.client
from evalservice.api import create_app
from evalservice.client import AsyncRouter, Choice, NothingEligible, Router, ServiceUnreachable
from evalservice.database import tenant_transaction
from evalservice.errors import Forbidden, InvalidInput
from evalservice.selection.applying import apply_outcomes
from evalservice.selection.local import Evidence, decide_locally
from evalservice.selection.snapshot_json import from_json
from tests.api.conftest import Served, Tenant, a_benchmark, a_dataset, a_tenant, created, unique
from tests.conftest import wait_until
from tests.postgres import as_organization
from tests.proxy import Proxy, proxy_to

QUALITY = {"quality": 1.0, "cost": 0.0, "latency": 0.0}


@pytest.fixture(scope="module")
def service(served: Served) -> Iterator[str]:
    """The application with evidence that is kept fresh; gives its address."""
    app = create_app(served.wiring)
    app.state.routing.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the server")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def tenant(served: Served) -> Tenant:
    """Two models: dear and good, cheap and fair."""
    tenant = a_tenant(served.database, served.wiring.engine)
    with as_organization(served.database, tenant.organization) as connection:
        connection.execute("UPDATE evaluation_models SET status = 'archived'")
        connection.execute("DELETE FROM selection_outcomes")
        connection.execute("DELETE FROM model_metrics")
        connection.commit()
    with served.client(tenant) as client:
        benchmark = a_benchmark(client, a_dataset(client)["name"])["name"]
        for name, price in (("good", 10.0), ("fair", 1.0)):
            prices = {"input_price_per_million": price, "output_price_per_million": price}
            body = {"name": name, "platform": "openai", "model_id": unique(name), "base_url": "https://llm.example/v1"}
            created(client, "/v1/models", {**body, **prices})
    with as_organization(served.database, tenant.organization) as connection:
        for name, value in (("good", 0.9), ("fair", 0.7)):
            connection.execute(
                """
                INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, benchmark_id,
                                           evaluation_run_id, metadata, timestamp)
                SELECT gen_random_uuid(), m.organization_id, m.id, 'accuracy', %s, b.id, gen_random_uuid(),
                       '{"name": "numeric_match", "n": 400, "stderr": 0.02}', now()
                FROM evaluation_models AS m, benchmark_suites AS b WHERE m.name = %s AND b.name = %s
                """,
                (value, name, benchmark),
            )
        connection.commit()
    return tenant


@pytest.fixture
def proxy(service: str) -> Iterator[Proxy]:
    """What stands between the router and the service."""
    with proxy_to(service) as proxy:
        yield proxy


def router_of(proxy: Proxy, tenant: Tenant, role: str = "member", **options: Any) -> Router:
    return Router(proxy.url, tenant.keys[role], **{"timeout": 20.0, **options})


def stored(served: Served, tenant: Tenant, selection_id: str) -> dict[str, Any]:
    """What is known of an outcome."""
    with as_organization(served.database, tenant.organization) as connection:
        row = connection.execute(
            "SELECT success, latency_ms, error_kind, cost, quality FROM selection_outcomes WHERE selection_id = %s",
            (selection_id,),
        ).fetchone()
    return dict(zip(("success", "latency_ms", "error_kind", "cost", "quality"), row, strict=True)) if row else {}


def without_times(choice: Choice) -> dict[str, Any]:
    """What two decisions have in common that were made of the same evidence with the same seed."""
    kept = ("selected", "fallbacks", "score", "propensity", "explanation", "policy", "evidence", "seed", "candidates")
    return {name: getattr(choice, name) for name in kept}


def test_the_public_surface_is_this() -> None:
    assert evalservice.client.__all__ == [
        "AsyncRouter",
        "Choice",
        "Client",
        "ModelToCall",
        "NothingEligible",
        "Router",
        "ServiceUnreachable",
        "path_of",
    ]


def test_a_choice_says_how_to_call_the_model_and_what_to_fall_back_to(proxy: Proxy, tenant: Tenant) -> None:
    with router_of(proxy, tenant) as router:
        choice = router.select(weights=QUALITY, required_capabilities=(), constraints={"max_cost": 1}, use_case="qa")
    assert choice.selected.name == "good"
    assert choice.selected.base_url == "https://llm.example/v1"
    assert [model.name for model in choice.fallbacks] == ["fair"]
    assert (choice.propensity, choice.local, choice.warnings) == (1.0, False, ())
    assert choice.policy == "weighted"


@pytest.mark.parametrize("local", ["never", "always"])
def test_what_cannot_be_chosen_is_raised_with_what_to_relax(proxy: Proxy, tenant: Tenant, local: Any) -> None:
    with router_of(proxy, tenant, local=local) as router:
        assert router.ready(20) == (local == "always")
        with pytest.raises(NothingEligible) as nothing:
            router.select(constraints={"min_quality": {"value": 0.999}})
        assert nothing.value.relaxations[0]["constraint"] == "min_quality"
        with pytest.raises(InvalidInput) as invalid:
            router.select(constraints={"max_costs": 1})
        assert invalid.value.field == "constraints.max_costs"
        with pytest.raises(TypeError, match="max_cost"):
            router.select(max_cost=1)  # type: ignore[call-arg]


def test_a_key_that_may_not_select_is_told_so_and_nothing_is_tried_again(proxy: Proxy, tenant: Tenant) -> None:
    with router_of(proxy, tenant, "viewer") as router, pytest.raises(Forbidden):
        router.select()
    assert proxy.connections == 1


def test_connections_are_used_again(proxy: Proxy, tenant: Tenant) -> None:
    with router_of(proxy, tenant) as router:
        for _ in range(10):
            router.select()
    assert proxy.connections == 1


def test_an_outcome_measures_itself_and_takes_more_parts(proxy: Proxy, served: Served, tenant: Tenant) -> None:
    with router_of(proxy, tenant) as router:
        with router.choose(use_case="qa") as good:
            time.sleep(0.05)
            router.outcome(good.id, cost=0.00042, quality=1.0)
        with pytest.raises(ZeroDivisionError), router.choose() as bad:
            1 / 0  # noqa: B018
        with pytest.raises(KeyboardInterrupt), router.choose() as given_up:
            raise KeyboardInterrupt
        assert router.close() == 0
    found = stored(served, tenant, good.id)
    assert found.pop("latency_ms") >= 50
    assert {**found, "cost": float(found["cost"])} == {"success": True, "error_kind": "", "cost": 0.00042, "quality": 1}
    assert stored(served, tenant, bad.id)["error_kind"] == "ZeroDivisionError"
    assert stored(served, tenant, given_up.id) == {}


@pytest.mark.parametrize("parts", [{}, {"quality": 1.1}, {"latency_ms": -1.0}, {"cost": float("nan")}])
def test_an_outcome_that_cannot_be_is_refused_where_it_is_given(parts: dict[str, Any]) -> None:
    with Router("http://127.0.0.1:9", "evs_0") as router, pytest.raises(InvalidInput):
        router.outcome(str(uuid.uuid4()), **parts)


def test_outcomes_wait_for_the_service_in_bounded_memory(proxy: Proxy, served: Served, tenant: Tenant) -> None:
    with router_of(proxy, tenant) as router:
        choice = router.select()
        proxy.close()
        assert router.outcome(choice.id, success=True)
        kept = [router.outcome(str(uuid.uuid4()), success=True) for _ in range(80_000)]
        assert not kept[-1]
        assert router.lost == kept.count(False)
        assert router.close(0.5) == kept.count(True) + 1  # they could not be sent, which is told


def test_outcomes_that_waited_arrive_when_the_service_is_back(proxy: Proxy, served: Served, tenant: Tenant) -> None:
    with router_of(proxy, tenant) as router:
        choice = router.select()
        proxy.close()
        router.outcome(choice.id, success=True)
        time.sleep(0.5)
        proxy.open()
        assert router.close(20) == 0
    assert stored(served, tenant, choice.id)["success"] is True


def test_an_outcome_that_the_service_refuses_is_counted_and_holds_up_no_other(
    proxy: Proxy, served: Served, tenant: Tenant
) -> None:
    with router_of(proxy, tenant) as router:
        first, second = router.select(), router.select()
        router.outcome(first.id, success=True, served_model="nobody's")
        router.outcome(second.id, success=True)
        assert router.close(20) == 0
        assert router.lost == 1
    assert stored(served, tenant, first.id) == {}
    assert stored(served, tenant, second.id)["success"] is True


def test_a_durable_decision_that_is_asked_for_twice_is_made_once(proxy: Proxy, served: Served, tenant: Tenant) -> None:
    use_case = unique("durable")
    with router_of(proxy, tenant) as router:
        router.select()
        proxy.hang_answers()
        threading.Timer(2.0, lambda: (proxy.cut(), proxy.flow())).start()
        choice = router.select(use_case=use_case, durable=True)
    with served.client(tenant) as client:
        logged = client.get("/v1/selections", params={"use_case": use_case}).json()["items"]
    assert [each["id"] for each in logged] == [choice.id]


def test_connections_that_are_cut_under_load_are_nobodys_error(proxy: Proxy, tenant: Tenant) -> None:
    failures: list[Exception] = []
    done: list[Choice] = []
    with router_of(proxy, tenant) as router:

        def ask() -> None:
            try:
                for _ in range(40):
                    done.append(router.select(durable=False))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):  # one less than a request is tried
            time.sleep(0.4)
            proxy.cut()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(done) == 160
    assert proxy.cuts > 0


def test_without_an_answer_in_time_it_fails_in_time(proxy: Proxy, tenant: Tenant) -> None:
    with router_of(proxy, tenant, timeout=0.5) as router:
        proxy.hang()
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            router.select()
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("outage", ["close", "hang"])
def test_while_the_service_is_away_this_process_decides_as_it_would(proxy: Proxy, tenant: Tenant, outage: str) -> None:
    with router_of(proxy, tenant, local="fallback", refresh_seconds=0.5, timeout=5.0) as router:
        assert router.ready(20)
        asked: dict[str, Any] = {"policy": "thompson", "parameters": {"cost_weight": 5.0}, "seed": 11}
        there = router.select(**asked)
        getattr(proxy, outage)()
        here = router.select(**asked)
        assert not there.local
        assert here.local
        assert "decided locally on evidence" in here.warnings[0]
        assert without_times(here).keys() == without_times(there).keys()
        assert here.selected == there.selected
        started = time.monotonic()
        assert router.select(**asked).local  # known to be away: nobody waits for it twice
        assert time.monotonic() - started < 0.3
        proxy.open() if outage == "close" else proxy.flow()
        wait_until(lambda: not router.select(**asked).local, 30)
        assert router.close(20) == 0


def test_a_durable_decision_is_never_made_here(proxy: Proxy, tenant: Tenant) -> None:
    with router_of(proxy, tenant, local="always") as router:
        assert router.ready(20)
        assert not router.select(durable=True).local
        proxy.close()
        with pytest.raises(ServiceUnreachable):
            router.select(durable=True)


def test_without_evidence_an_outage_is_an_error(tenant: Tenant) -> None:
    router = Router("http://127.0.0.1:9", tenant.keys["member"], local="fallback", timeout=1.0)
    with router, pytest.raises(ServiceUnreachable, match="no evidence here"):
        router.select()


def test_the_asynchronous_router_does_the_same(proxy: Proxy, served: Served, tenant: Tenant) -> None:
    async def use() -> list[str]:
        options: dict[str, Any] = {"local": "fallback", "refresh_seconds": 0.5, "timeout": 20.0}
        async with AsyncRouter(proxy.url, tenant.keys["member"], **options) as router:
            assert await router.ready(20)
            choices = await asyncio.gather(*(router.select(weights=QUALITY) for _ in range(20)))
            assert {choice.selected.name for choice in choices} == {"good"}
            async with router.choose(use_case="qa") as good:
                await asyncio.sleep(0.01)
            with pytest.raises(ZeroDivisionError):
                async with router.choose() as bad:
                    raise ZeroDivisionError
            with pytest.raises(NothingEligible):
                await router.select(constraints={"models": ["nothing"]})
            proxy.close()
            assert (await router.select()).local
            proxy.open()
            assert await router.close(20) == 0
            return [good.id, bad.id]

    good, bad = asyncio.run(use())
    assert stored(served, tenant, good)["success"] is True
    assert stored(served, tenant, bad)["success"] is False


@pytest.mark.parametrize(
    "asked",
    [
        {"weights": QUALITY, "constraints": {"max_cost": 0.005}, "text": "a secret"},
        {"policy": "thompson", "parameters": {"cost_weight": 5.0}, "use_case": "qa"},
        {"policy": "canary", "parameters": {"model": "good", "candidate": "fair", "share": 0.5, "exploration": 0.05}},
        {"policy": "nearest", "text": "a secret"},
        {"policy": "cheap", "use_case": "qa"},
    ],
)
def test_a_decision_of_this_process_is_logged_and_made_again_by_the_service(
    proxy: Proxy, served: Served, tenant: Tenant, cheap: str, asked: dict[str, Any]
) -> None:
    with router_of(proxy, tenant, local="always", refresh_seconds=0.5) as router:
        assert router.ready(20)
        choices = [router.select(**asked) for _ in range(5)]
        with router.choose(**asked) as choice:
            pass
        with pytest.raises(NothingEligible) as nothing:
            router.select(constraints={"models": ["nothing"]})
        assert router.close(20) == 0
    with served.client(tenant) as client:
        for each in (*choices, choice):
            logged = client.get(f"/v1/selections/{each.id}").json()
            assert logged["selected_model_id"] == each.selected.model_id
            assert logged["metadata"]["local"]
            assert "secret" not in str(logged)
            assert client.get(f"/v1/selections/{each.id}/replay").json()["same"]
        assert client.get(f"/v1/selections/{nothing.value.selection_id}").json()["selected_model_id"] is None
        with tenant_transaction(served.wiring.engine, tenant.organization) as session:
            apply_outcomes(session, tenant.organization)
        assert client.get(f"/v1/selections/{choice.id}").json()["execution_successful"] is True


@pytest.fixture(scope="module")
def cheap(served: Served, service: str, tenant: Tenant) -> str:
    """A stored policy of that name, which is in use and known to the service."""
    body = {"name": "cheap", "algorithm": "cheapest_above_quality", "parameters": {"min_quality": 0.5}}
    with served.client(tenant) as client:
        created(client, "/v1/selection-policies", {**body, "budget": {"mean_cost_usd": 0.5}})
        assert client.post("/v1/selection-policies/cheap/activate", json={}).status_code == 200
        wait_until(lambda: "cheap" in evidence_of(service, tenant).policies.named, 30)
    return "cheap"


def evidence_of(service: str, tenant: Tenant) -> Evidence:
    """What the service decides on."""
    headers = {"Authorization": f"Bearer {tenant.keys['viewer']}"}
    return Evidence(*from_json(httpx.get(f"{service}/v1/selections/snapshot", headers=headers).content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(propensity=0.5), "replays"),
        (lambda d: d["candidate_models"][0].update(quality=0.1), "replays"),
        (lambda d: d.update(selected_model_id=d["candidate_models"][1]["model_id"]), "replays"),
        (lambda d: d["request"]["constraints"].update(max_cost=1e-9), "cost of at most"),
        (lambda d: d["candidate_models"][0].update(model_id=str(uuid.uuid4())), "does not exist"),
        (lambda d: d["candidate_models"].append(d["candidate_models"][0]), "each model once"),
        (lambda d: d.update(policy_id=str(uuid.uuid4())), "policy_id"),
        (lambda d: d.update(policy_name="theirs"), "decided_by"),
        (lambda d: d["request"]["decided_by"]["parameters"].update(arms=3), "decided_by.parameters.arms"),
        (lambda d: d["request"].update(text="a secret"), "request.text"),
        (lambda d: d["request"].update(use_case=3), "use_case"),
        (lambda d: d.update(price=3.0), "price"),
        (lambda d: d.update(decided_at="2020-01-01T00:00:00Z"), "decided_at"),
        (lambda d: d["request"].update(seed=1), "seed"),
    ],
)
def test_a_decision_that_cannot_have_been_is_not_logged(
    service: str, served: Served, tenant: Tenant, change: Any, reason: str
) -> None:
    own, honest = str(uuid.uuid4()), str(uuid.uuid4())
    asked = orjson.dumps({"weights": QUALITY, "constraints": {"max_cost": 1.0}})
    evidence = evidence_of(service, tenant)
    forged, other = (
        orjson.loads(decide_locally(evidence, asked, own=each, seed=7, now=time.time(), age=0.0).logged)
        for each in (own, honest)
    )
    change(forged)
    with served.client(tenant, "member") as client:
        answer = client.post("/v1/selections/log", json={"decisions": [forged, other]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["logged"] == 1
        assert [each["id"] for each in answer.json()["refused"]] == [own]
        assert reason in answer.json()["refused"][0]["reason"]
        assert client.get(f"/v1/selections/{own}").status_code == 404
        again = client.post("/v1/selections/log", json={"decisions": [other]})
        assert (again.json()["logged"], again.json()["refused"]) == (1, [])


def test_the_evidence_is_sent_once_and_then_only_when_it_changed(service: str, tenant: Tenant) -> None:
    headers = {"Authorization": f"Bearer {tenant.keys['viewer']}"}
    with httpx.Client(base_url=service, headers=headers) as client:
        client.get("/v1/selections/snapshot")
        first = client.get("/v1/selections/snapshot")
        assert first.headers["content-encoding"] == "gzip"
        again = client.get("/v1/selections/snapshot", headers={"If-None-Match": first.headers["etag"]})
        plain = client.get("/v1/selections/snapshot", headers={"Accept-Encoding": "identity"})
    assert first.json()["models"][0]["call"]["base_url"]
    # a refresh may come between them
    assert (again.status_code, again.content) == (304, b"") or again.headers["etag"] != first.headers["etag"]
    assert plain.json()["format"] == first.json()["format"]

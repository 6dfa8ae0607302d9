"""`/v1/selection-policies`: versions and which of them decides, whoever asks at once; and what one would have got."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from evalservice.database import tenant_transaction
from evalservice.tables import ModelSelectionLog, SelectionOutcome
from tests.api.conftest import Served, a_model, created, unique
from tests.conftest import Cli

PATH = "/v1/selection-policies"


def a_policy(client: httpx.Client, name: str, **values: Any) -> dict[str, Any]:
    return created(client, PATH, {"name": name, "algorithm": "weighted", **values})


def post(client: httpx.Client, reference: object, action: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """An action that must succeed."""
    answer = client.post(f"{PATH}/{reference}/{action}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def statuses(client: httpx.Client, name: str) -> dict[int, str]:
    """Version → status."""
    found = client.get(PATH, params={"name": name}).json()["items"]
    return {item["version"]: item["status"] for item in found}


def test_each_version_of_a_name_is_a_draft_with_all_its_parameters(owner: httpx.Client) -> None:
    name = unique("support")
    first = a_policy(owner, name, parameters={"weights": {"cost": 2}}, budget={"mean_cost_usd": 0.001}, use_case="chat")
    assert (first["version"], first["status"], first["is_default"]) == (1, "draft", False)
    weights = {"quality": 1, "cost": 2, "latency": 1, "reliability": 0}
    assert first["parameters"] == {"exploration": 0, "weights": weights}
    assert (first["budget"], first["use_case"]) == ({"mean_cost_usd": 0.001}, "chat")
    second = a_policy(owner, name, algorithm="thompson")
    assert second["version"] == 2
    for reference, found in ((first["id"], first), (f"{name}@1", first), (name, second)):
        assert owner.get(f"{PATH}/{reference}").json() == found
    post(owner, f"{name}@1", "activate")
    assert owner.get(f"{PATH}/{name}").json()["version"] == 1
    for unknown in (f"{name}@3", f"{name}@", f"{name}@x", uuid.uuid4()):
        assert owner.get(f"{PATH}/{unknown}").status_code == 404


def test_lists_are_narrowed_by_name_status_and_use_case_and_come_in_pages(owner: httpx.Client) -> None:
    name, use_case = unique("p"), unique("u")
    made = [a_policy(owner, name, use_case=use_case)["id"] for _ in range(3)]
    post(owner, made[1], "activate")
    page = owner.get(PATH, params={"use_case": use_case, "limit": 2}).json()
    rest = owner.get(PATH, params={"use_case": use_case, "limit": 2, "cursor": page["next_cursor"]}).json()
    assert [item["id"] for item in (*page["items"], *rest["items"])] == made[::-1]
    active = owner.get(PATH, params={"name": name, "status": "active"}).json()["items"]
    assert [item["id"] for item in active] == [made[1]]
    assert owner.get(PATH, params={"status": "live"}).status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"algorithm": "greedy"}, 422, "one of: weighted"),
        ({"parameters": {"weights": {"speed": 1}}}, 422, "parameters.weights.speed"),
        ({"budget": {"usd_per_day": 1, "mean_cost_usd": 1}}, 422, "either mean_cost_usd or usd_per_day"),
        ({"algorithm": "pinned", "parameters": {"model": "nobody"}}, 404, "parameters.model: 'nobody' does not exist"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_field(
    owner: httpx.Client, body: dict[str, Any], status: int, told: str
) -> None:
    answer = owner.post(PATH, json={"name": unique("p"), "algorithm": "weighted", **body})
    assert (answer.status_code, told in answer.text) == (status, True), answer.text


def test_models_are_kept_by_id_so_that_a_later_version_of_one_changes_no_policy(owner: httpx.Client) -> None:
    stable, candidate = a_model(owner), a_model(owner)
    parameters = {"model": stable["name"], "candidate": candidate["name"], "share": 0.1}
    policy = a_policy(owner, unique("p"), algorithm="canary", parameters=parameters)
    assert (policy["parameters"]["model"], policy["parameters"]["candidate"]) == (stable["id"], candidate["id"])
    assert owner.delete(f"/v1/models/{candidate['id']}").status_code == 204
    answer = owner.post(f"{PATH}/{policy['id']}/activate")
    assert (answer.status_code, answer.json()["field"]) == (422, "parameters.candidate")


def test_the_default_of_a_use_case_passes_on_with_the_version_and_moves_on_request(owner: httpx.Client) -> None:
    use_case, one, other = unique("u"), unique("one"), unique("other")
    for name in (one, one, other):
        a_policy(owner, name, use_case=use_case)
    assert post(owner, f"{one}@1", "activate", {"is_default": True})["is_default"]
    assert post(owner, f"{one}@2", "activate")["is_default"]
    assert not post(owner, other, "activate")["is_default"]
    assert post(owner, other, "activate", {"is_default": True})["is_default"]
    assert not owner.get(f"{PATH}/{one}@2").json()["is_default"]
    back = post(owner, one, "rollback")
    assert (back["version"], back["is_default"]) == (1, False)


def test_a_rollback_goes_back_through_the_versions_that_were_active(owner: httpx.Client) -> None:
    name = unique("p")
    for version in (1, 2, 3):
        a_policy(owner, name)
        post(owner, f"{name}@{version}", "activate", {"is_default": version == 2})
    assert statuses(owner, name) == {1: "retired", 2: "retired", 3: "active"}
    back = post(owner, name, "rollback")
    assert (back["version"], back["is_default"], back["retired_at"]) == (2, True, None)
    assert post(owner, name, "rollback")["version"] == 1
    assert statuses(owner, name) == {1: "active", 2: "retired", 3: "retired"}
    nothing = owner.post(f"{PATH}/{name}/rollback")
    assert (nothing.status_code, "was active before" in nothing.text) == (409, True)
    post(owner, f"{name}@3", "activate")
    assert post(owner, name, "rollback")["version"] == 1
    assert owner.post(f"{PATH}/{name}@3/rollback").status_code == 409


def test_a_share_of_the_requests_is_had_beside_an_active_version_by_one_at_most(owner: httpx.Client) -> None:
    name = unique("p")
    for _ in range(4):
        a_policy(owner, name)
    assert owner.post(f"{PATH}/{name}@2/canary", json={"share": 0.1}).status_code == 409
    post(owner, f"{name}@1", "activate")
    assert post(owner, f"{name}@2", "canary", {"share": 0.1})["traffic_share"] == 0.1
    assert post(owner, f"{name}@2", "ab", {"share": 0.5})["status"] == "ab"
    assert owner.post(f"{PATH}/{name}@3/ab", json={"share": 0.5}).status_code == 409
    assert owner.post(f"{PATH}/{name}@1/retire").status_code == 409
    assert post(owner, f"{name}@4", "shadow")["status"] == "shadow"
    for action, body in (("shadow", None), ("canary", {"share": 0.1}), ("ab", {"share": 0.1})):
        assert owner.post(f"{PATH}/{name}@1/{action}", json=body).status_code == 409
    assert post(owner, f"{name}@2", "activate")["traffic_share"] is None
    assert statuses(owner, name) == {1: "retired", 2: "active", 3: "draft", 4: "shadow"}
    assert post(owner, name, "retire")["retired_at"] is not None
    for share in (0, 1, 1.5):
        assert owner.post(f"{PATH}/{name}@3/canary", json={"share": share}).status_code == 422


def test_a_repetition_does_nothing_twice_and_a_stale_if_match_nothing_at_all(owner: httpx.Client) -> None:
    name, key = unique("p"), unique("key")
    body = {"name": name, "algorithm": "weighted"}
    first, second = (created(owner, PATH, body, **{"Idempotency-Key": key}) for _ in range(2))
    assert first == second
    assert statuses(owner, name) == {1: "draft"}
    stale = owner.get(f"{PATH}/{name}").headers["etag"]
    post(owner, name, "shadow", None, **{"If-Match": stale})
    assert owner.post(f"{PATH}/{name}/activate", headers={"If-Match": stale}).status_code == 412
    once = {"Idempotency-Key": unique("key")}
    assert post(owner, name, "activate", None, **once) == post(owner, name, "activate", None, **once)


def test_members_make_drafts_and_admins_put_them_to_use(served: Served) -> None:
    name = unique("p")
    with (
        served.client(served.mine, "viewer") as viewer,
        served.client(served.mine, "member") as member,
        served.client(served.mine, "admin") as admin,
    ):
        assert viewer.post(PATH, json={"name": name, "algorithm": "weighted"}).status_code == 403
        a_policy(member, name)
        for action in ("activate", "shadow", "rollback", "retire"):
            assert member.post(f"{PATH}/{name}/{action}").status_code == 403
        for action in ("canary", "ab"):
            assert member.post(f"{PATH}/{name}/{action}", json={"share": 0.5}).status_code == 403
        assert viewer.get(f"{PATH}/{name}").status_code == 200
        assert post(admin, name, "activate")["status"] == "active"


def test_whoever_activates_at_once_one_version_of_each_name_and_one_default_is_active(
    owner: httpx.Client, served: Served
) -> None:
    use_case, names = unique("u"), [unique("one"), unique("other")]
    body = {"algorithm": "weighted", "use_case": use_case}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: created(owner, PATH, {"name": names[i % 2], **body}), range(8)))
        assert sorted(each["version"] for each in made) == [1, 1, 2, 2, 3, 3, 4, 4]
        answers = list(
            pool.map(lambda each: owner.post(f"{PATH}/{each['id']}/activate", json={"is_default": True}), made * 3)
        )
    assert {answer.status_code for answer in answers} == {200}
    active = owner.get(PATH, params={"use_case": use_case, "status": "active"}).json()["items"]
    assert sorted(each["name"] for each in active) == sorted(names)
    assert sum(each["is_default"] for each in active) == 1
    [lasting] = [each for each in active if each["is_default"]]
    assert lasting["updated_at"] == max(each["updated_at"] for each in active)


# what a policy would have got


QUALITY, COST = (0.6, 0.9), (0.0001, 0.002)
CHEAPEST = {"weights": {"quality": 0, "cost": 1, "latency": 0}}


def logged(served: Served, use_case: str, exploration: float, n: int = 1200, **values: Any) -> None:
    """Decisions between a poor cheap model and a good dear one, which is taken but for the exploration; all outcomes
    have come but every tenth."""
    rng, models = random.Random(5), [uuid.uuid4() for _ in range(2)]
    share = (exploration / 2, 1 - exploration / 2)
    rejected = {"constraint": "max_cost_usd", "value": 1.0, "limit": 0.01}
    candidates = [
        *(
            {"model_id": str(m), "name": f"m{i}", "score": None, "probability": share[i], "quality": QUALITY[i] - 0.1,
             "quality_sd": None, "cost": COST[i], "latency_ms": None, "error_rate": None if i else 0.01}
            for i, m in enumerate(models)
        ),
        {"model_id": str(uuid.uuid4()), "name": "m2", "rejected": rejected},
    ]  # fmt: skip
    mine = {"organization_id": served.mine.organization}
    with tenant_transaction(served.wiring.engine, served.mine.organization) as session:
        for i in range(n):
            chosen = int(rng.random() >= share[0])
            row = ModelSelectionLog(
                id=uuid.uuid4(), **mine, use_case=use_case, selected_model_id=models[chosen], propensity=share[chosen],
                candidate_models=candidates, selection_algorithm="weighted", **values,
            )  # fmt: skip
            session.add(row)
            if i % 10:
                quality = min(1.0, max(0.0, rng.gauss(QUALITY[chosen], 0.1)))
                session.add(
                    SelectionOutcome(
                        **mine, selection_id=row.id, success=rng.random() < 0.99, quality=quality, cost=COST[chosen]
                    )
                )


def test_a_policy_is_estimated_from_the_log_of_another(owner: httpx.Client, served: Served) -> None:
    use_case = unique("u")
    logged(served, use_case, 0.5)
    logged(served, use_case, 0.5, n=20, is_shadow=True)
    logged(served, unique("another"), 0.5, n=20)
    policy = a_policy(owner, unique("cheap"), use_case=use_case, parameters=CHEAPEST)
    found = owner.get(f"{PATH}/{policy['id']}/evaluation").json()
    assert (found["n"], found["without_outcome"], found["unusable"], found["without_support"]) == (1080, 120, 0, 0.0)
    assert found["refusal"] is None
    for estimate in found["estimators"].values():
        assert estimate["ci_low"] < QUALITY[0] < estimate["ci_high"]
    assert list(found["estimators"]) == ["ips", "snips", "dr"]
    assert found["logged"]["ci_low"] > QUALITY[0]
    utility = owner.get(f"{PATH}/{policy['id']}/evaluation", params={"reward": "utility", "cost_weight": 100}).json()
    assert utility["estimators"]["dr"]["value"] == pytest.approx(found["estimators"]["dr"]["value"] - 0.01, abs=0.002)
    success = owner.get(f"{PATH}/{policy['id']}/evaluation", params={"reward": "success"}).json()
    assert success["estimators"]["snips"]["value"] == pytest.approx(0.99, abs=0.02)
    missing = owner.get(f"{PATH}/{policy['id']}/evaluation", params={"reward": "utility"})
    assert (missing.status_code, missing.json()["field"]) == (422, "cost_weight")


def test_decisions_that_do_not_say_how_they_were_made_are_counted_and_not_used(
    owner: httpx.Client, served: Served
) -> None:
    use_case = unique("u")
    logged(served, use_case, 0.5, n=5)
    with psycopg.connect(served.database) as connection:
        broken: list[Any] = [[], [{"name": "m0"}], "x", [{"model_id": str(uuid.uuid4()), "probability": 1.0}]]
        rows = connection.execute("SELECT id FROM model_selection_logs WHERE use_case = %s", (use_case,)).fetchall()
        for (row,), value in zip(rows, broken, strict=False):
            connection.execute(
                "UPDATE model_selection_logs SET candidate_models = %s WHERE id = %s", (Jsonb(value), row)
            )
    policy = a_policy(owner, unique("cheap"), use_case=use_case, parameters=CHEAPEST)
    found = owner.get(f"{PATH}/{policy['id']}/evaluation").json()
    assert (found["unusable"], found["n"] + found["without_outcome"]) == (4, 1)
    assert (found["estimators"], found["refusal"]["reason"]) == ({}, "effective_n" if found["n"] else "no_outcomes")


@pytest.fixture
def remote(served: Served, evalservice_home: Any) -> Cli:
    """The command line of the first organization's owner."""
    return Cli(evalservice_home, {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": served.mine.keys["owner"]})


def test_a_policy_is_made_used_and_taken_back_from_the_command_line(remote: Cli) -> None:
    name = unique("p")
    parameters = ("--algorithm", "thompson", "--parameters", '{"cost_weight": 5}', "--per-day", "20")
    made = remote.ok("policies", "create", name, *parameters, "--use-case", name)
    assert (made["version"], made["budget"], made["parameters"]["cost_weight"]) == (1, {"usd_per_day": 20}, 5)
    assert remote.ok("policies", "activate", name, "--default")["is_default"]
    remote.ok("policies", "create", name, "--algorithm", "weighted", "--use-case", name)
    assert remote.ok("policies", "shadow", f"{name}@2")["status"] == "shadow"
    assert remote.ok("policies", "canary", f"{name}@2", "--share", "0.05")["traffic_share"] == 0.05
    assert remote.ok("policies", "ab", f"{name}@2")["traffic_share"] == 0.5
    assert remote.ok("policies", "activate", f"{name}@2")["is_default"]
    assert remote.ok("policies", "rollback", name)["version"] == 1
    assert remote.ok("policies", "show", name)["id"] == made["id"]
    assert remote.ok("policies", "retire", name)["status"] == "retired"
    listed = remote.ok("policies", "list", "--use-case", name, "--status", "retired")["items"]
    assert [item["version"] for item in listed] == [2, 1]
    wrong = remote("policies", "create", name, "--algorithm", "weighted", "--parameters", '{"weights": {"cost": -1}}')
    assert (wrong.code, wrong.err) == (
        2,
        "error: parameters.weights.cost: -1 is not valid: greater than or equal to 0\n",
    )


def test_estimates_are_printed_side_by_side_and_a_refusal_is_exit_code_1(remote: Cli, served: Served) -> None:
    explored, fixed = unique("u"), unique("u")
    logged(served, explored, 0.5)
    logged(served, fixed, 0.0)
    name = unique("cheap")
    remote.ok("policies", "create", name, "--algorithm", "thompson", "--parameters", '{"cost_weight": 1000}')
    shown = remote("policies", "evaluate", name, "--use-case", explored, "--reward", "utility", "--since", "2020-01-01")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "as logged",
        f"{name}@1, IPS",
        f"{name}@1, self-normalised IPS",
        f"{name}@1, doubly robust",
    ]
    assert lines[5].startswith("1080 decisions with an outcome, worth ")
    refused = remote("policies", "evaluate", name, "--use-case", fixed)
    assert refused.code == 1
    assert refused.out.startswith("refused: for 100.0% of 1080 requests the policy may choose what the logging policy")
    document = remote("policies", "evaluate", name, "--use-case", fixed, "--json")
    assert (document.code, document.json()["refusal"]["reason"]) == (1, "support")
    assert remote("policies", "evaluate", name, "--until", "2020-01-01").code == 1
    assert remote("policies", "evaluate", name, "--since", "yesterday").code == 2

"""Two versions of a policy that share its requests: which is better, at every look; a canary that fails is stopped."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.database import tenant_transaction
from evalservice.selection.applying import apply_outcomes
from evalservice.selection.contest import Contest
from evalservice.tables import ModelSelectionLog, SelectionOutcome, SelectionTrial
from tests.api.conftest import Served, Tenant, a_model, a_tenant, created, unique
from tests.api.test_selections import Router, router  # noqa: F401
from tests.conftest import Cli

PATH = "/v1/selection-policies"


class Trial:
    """A policy of an organization of its own: version 1 is active, version 2 has a share."""

    def __init__(self, served: Served, tenant: Tenant) -> None:
        self.served, self.tenant, self.name = served, tenant, unique("p")
        self.client = served.client(tenant)
        self.model = a_model(self.client)["id"]
        self.rng = random.Random(7)
        self.versions = [self.version() for _ in range(2)]
        self.act(1, "activate")
        self.act(2, "canary", {"share": 0.2})

    def version(self, **parameters: Any) -> str:
        body = {"name": self.name, "algorithm": "thompson", "parameters": {"cost_weight": 100, **parameters}}
        return str(created(self.client, PATH, body)["id"])

    def act(self, version: int, action: str, body: Any = None) -> None:
        answer = self.client.post(f"{PATH}/{self.name}@{version}/{action}", json=body)
        assert answer.status_code == 200, answer.text

    def status(self, version: int) -> tuple[str, float | None]:
        found = self.client.get(f"{PATH}/{self.name}@{version}").json()
        return found["status"], found["traffic_share"]

    def served_by(self, version: int, *outcomes: dict[str, Any], **values: Any) -> None:
        """Decisions of a version with what came of them, stored and not applied."""
        mine = {"organization_id": self.tenant.organization}
        values = {"request": {}, "decided_at": datetime.now(UTC), **values}
        with tenant_transaction(self.served.wiring.engine, self.tenant.organization) as session:
            for outcome in outcomes:
                own = uuid.uuid4()
                session.add(
                    ModelSelectionLog(
                        id=own,
                        **mine,
                        selected_model_id=self.model,
                        selected_model_ref_id=self.model,
                        selection_algorithm="thompson",
                        policy_id=self.versions[version - 1],
                        policy_name=self.name,
                        policy_version=version,
                        **values,
                    )
                )
                session.add(SelectionOutcome(**mine, selection_id=own, **outcome))

    def learn(self) -> None:
        with tenant_transaction(self.served.wiring.engine, self.tenant.organization) as session:
            while apply_outcomes(session, self.tenant.organization):
                pass

    def mixed(
        self, n: int, share: float, failing: tuple[float, float], quality: tuple[float, float] = (0.8, 0.8)
    ) -> None:
        """So many outcomes by chance."""
        for _ in range(n):
            version = int(self.rng.random() < share)
            success = self.rng.random() >= failing[version]
            good = min(1.0, max(0.0, self.rng.gauss(quality[version], 0.1)))
            self.served_by(version + 1, {"success": success, "quality": good, "cost": "0.001"})

    def result(self, reference: str | None = None, **query: Any) -> dict[str, Any]:
        answer = self.client.get(f"{PATH}/{reference or self.name}/ab-result", params=query)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


@pytest.fixture
def trial(served: Served) -> Iterator[Trial]:
    made = Trial(served, a_tenant(served.database, served.wiring.engine))
    yield made
    made.client.close()


def test_a_canary_that_fails_more_often_loses_its_share_and_says_so(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "evalservice.selection.trials"):
        for _ in range(12):
            trial.mixed(20, 0.2, failing=(0.02, 0.6))
            trial.learn()
            if trial.status(2)[0] == "retired":
                break
    assert trial.status(2) == ("retired", None)
    assert trial.status(1)[0] == "active"
    [event] = [each for each in caplog.records if each.message == "canary_stopped"]
    assert (event.policy, event.version, event.against_version) == (trial.name, 2, 1)  # type: ignore[attr-defined]
    found = trial.result(f"{trial.name}@2", reward="success")
    assert (found["status"], found["traffic_share"]) == ("ended", None)
    assert found["stopped_at"] is not None
    assert found["failure_p_value"] <= 0.05
    assert trial.result()["trial"]["policy_id"] == trial.versions[1]


def test_a_canary_as_good_as_the_active_version_and_an_ab_version_keep_their_share(trial: Trial) -> None:
    trial.mixed(200, 0.2, failing=(0.1, 0.1))
    trial.learn()
    assert trial.status(2) == ("canary", 0.2)
    trial.act(2, "ab", {"share": 0.5})
    trial.mixed(150, 0.5, failing=(0.02, 0.7))
    trial.learn()
    assert trial.status(2) == ("ab", 0.5)
    assert trial.result()["failure_p_value"] <= 0.05


def test_the_result_says_which_version_is_better_with_an_interval_for_every_look(trial: Trial) -> None:
    trial.act(2, "ab", {"share": 0.5})
    nothing = trial.result()
    assert (nothing["verdict"], nothing["trial"]["n"], nothing["difference"]["ci_low"]) == ("continue", 0, None)
    trial.mixed(10, 0.5, (0.0, 0.0), quality=(0.4, 0.8))
    trial.learn()
    assert trial.result()["verdict"] == "continue"
    widths = []
    for _ in range(3):
        trial.mixed(60, 0.5, (0.0, 0.0), quality=(0.4, 0.8))
        trial.learn()
        difference = trial.result()["difference"]
        assert difference["ci_low"] < 0.4 < difference["ci_high"]
        widths.append(difference["ci_high"] - difference["ci_low"])
    assert widths == sorted(widths, reverse=True)
    found = trial.result()
    assert (found["verdict"], found["status"], found["traffic_share"]) == ("trial", "ab", 0.5)
    assert found["active"]["n"] + found["trial"]["n"] == 190
    assert (found["active"]["mean"], found["trial"]["mean"]) == (
        pytest.approx(0.4, abs=0.05),
        pytest.approx(0.8, abs=0.05),
    )
    utility = trial.result(reward="utility")
    assert utility["cost_weight"] == 100
    assert utility["trial"]["mean"] == pytest.approx(found["trial"]["mean"] - 0.1)
    assert trial.result(reward="success")["verdict"] == "continue"


def test_outcomes_of_requests_that_chance_did_not_assign_do_not_count(trial: Trial) -> None:
    good, now = {"success": True, "quality": 1.0}, datetime.now(UTC)
    trial.served_by(1, good)
    trial.served_by(2, good, request={"policy": trial.name})
    trial.served_by(2, good, request={"policy": f"{trial.name}@2"})
    trial.served_by(2, good, request={"seed": 7})
    trial.served_by(2, good, is_shadow=True)
    trial.served_by(1, good, decided_at=now - timedelta(days=1))
    trial.learn()
    found = trial.result()
    assert (found["active"]["n"], found["trial"]["n"], found["difference"]["n"]) == (1, 1, 1)


def test_parts_count_once_when_they_become_known(trial: Trial) -> None:
    trial.served_by(2, {"success": True})
    trial.learn()
    with tenant_transaction(trial.served.wiring.engine, trial.tenant.organization) as session:
        selection = session.query(ModelSelectionLog.id).filter_by(policy_version=2).one()[0]
    for body in ({"quality": 0.5}, {"cost": "0.001"}, {"success": True}):
        assert trial.client.post(f"/v1/selections/{selection}/outcome", json=body).status_code == 200
        trial.learn()
    found = {kind: trial.result(reward=kind)["trial"] for kind in ("success", "quality", "utility")}
    assert [found[kind]["n"] for kind in found] == [1, 1, 1]
    assert found["utility"]["mean"] == pytest.approx(0.4)


def test_another_share_or_another_active_version_is_another_trial(trial: Trial) -> None:
    for _ in range(2):
        trial.served_by(2, {"quality": 0.5})
        trial.learn()
    assert trial.result()["trial"]["n"] == 2
    trial.act(2, "canary", {"share": 0.4})
    assert trial.result()["trial"]["n"] == 0
    trial.served_by(2, {"quality": 0.5})
    trial.learn()
    trial.versions.append(trial.version())
    trial.act(3, "activate")
    trial.served_by(2, {"quality": 0.5})
    trial.served_by(3, {"quality": 0.9})
    trial.learn()
    found = trial.result()
    assert (found["trial"]["n"], found["active"]["version"], found["active"]["n"]) == (1, 3, 1)
    with tenant_transaction(trial.served.wiring.engine, trial.tenant.organization) as session:
        assert session.query(SelectionTrial).filter_by(policy_id=uuid.UUID(trial.versions[1])).count() == 3


def test_without_a_trial_or_a_cost_weight_there_is_no_result(trial: Trial) -> None:
    name = unique("p")
    for _ in range(2):
        created(trial.client, PATH, {"name": name, "algorithm": "weighted"})
    trial.client.post(f"{PATH}/{name}@1/activate")
    never = trial.client.get(f"{PATH}/{name}/ab-result")
    assert (never.status_code, "has had no share" in never.text) == (409, True)
    trial.client.post(f"{PATH}/{name}@2/ab", json={"share": 0.5})
    utility = trial.client.get(f"{PATH}/{name}/ab-result", params={"reward": "utility"})
    assert (utility.status_code, utility.json()["field"]) == (422, "reward")
    assert trial.client.get(f"{PATH}/nobody/ab-result").status_code == 404


def test_what_the_router_serves_by_share_counts(router: Router) -> None:  # noqa: F811
    name = unique("p")
    for model in ("good", "fair"):
        created(router.client, PATH, {"name": name, "algorithm": "pinned", "parameters": {"model": model}})
    router.client.post(f"{PATH}/{name}@1/activate")
    assert router.client.post(f"{PATH}/{name}@2/ab", json={"share": 0.5}).status_code == 200
    for number in range(40):
        answer = router.ask(policy=name, durable=number == 39).json()
        router.client.post(f"/v1/selections/{answer['id']}/outcome", json={"success": True})
    for asked in ({"policy": f"{name}@2"}, {"policy": name, "seed": 3}):
        answer = router.select(**asked)
        router.client.post(f"/v1/selections/{answer['id']}/outcome", json={"success": True})
    router.learn()
    found = router.client.get(f"{PATH}/{name}/ab-result", params={"reward": "success"}).json()
    assert found["active"]["n"] + found["trial"]["n"] == 40
    assert min(found["active"]["n"], found["trial"]["n"]) > 5


def test_the_command_shows_both_versions_and_the_verdict(trial: Trial, evalservice_home: Any) -> None:
    environment = {"EVALSERVICE_URL": trial.served.url, "EVALSERVICE_API_KEY": trial.tenant.keys["viewer"]}
    remote = Cli(evalservice_home, environment)
    trial.act(2, "ab", {"share": 0.5})
    trial.mixed(150, 0.5, (0.0, 0.0), quality=(0.3, 0.9))
    trial.learn()
    shown = remote("policies", "ab-result", trial.name)
    assert shown.code == 0, shown.err
    assert f"{trial.name}@2 is better" in shown.out
    assert "(95 %, at every look)" in shown.out
    assert remote.ok("policies", "ab-result", f"{trial.name}@2", "--reward", "success")["verdict"] == "continue"
    assert remote("policies", "ab-result", trial.name, "--reward", "latency").code == 2


OUTCOMES = st.tuples(
    st.integers(0, 1), st.dictionaries(st.sampled_from(["success", "quality", "utility"]), st.floats(-9, 9))
)


@settings(max_examples=30, deadline=None)
@given(st.lists(OUTCOMES, max_size=80), st.sampled_from([None, 2.0]))
def test_a_contest_that_is_stored_between_outcomes_goes_on_the_same(outcomes: Any, cost_weight: float | None) -> None:
    kept, whole = Contest.begin(cost_weight), Contest.begin(cost_weight)
    for version, rewards in outcomes:
        whole.take(version, rewards)
        kept.take(version, rewards)
        kept = Contest.restored(kept.stored())
    assert kept == whole

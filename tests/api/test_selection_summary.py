"""The log of decisions as a whole, and searched: `/v1/selections/summary`, `/v1/selections`, and both as commands."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evalservice.database import tenant_transaction
from evalservice.selection import summarizing
from evalservice.tables import ModelSelectionLog, SelectionOutcome
from tests.api.conftest import Served, unique
from tests.api.test_selections import Router, router  # noqa: F401
from tests.conftest import Cli

GOOD, FAIR, GONE = (uuid.UUID(int=number) for number in (1, 2, 3))


def candidate(model: uuid.UUID, quality: float | None, cost: float | None, deviation: float = 0.03) -> dict[str, Any]:
    sd = None if quality is None else deviation
    return {"model_id": str(model), "name": f"{model.int}@1", "quality": quality, "quality_sd": sd, "cost": cost}


def rejected(model: uuid.UUID, constraint: str) -> dict[str, Any]:
    about = {"constraint": constraint, "value": 2.0, "limit": 1.0}
    return {"model_id": str(model), "name": f"{model.int}@1", "rejected": about}


class Log:
    """Decisions of a use case of its own, written as the router does."""

    def __init__(self, served: Served) -> None:
        self.served, self.use_case = served, unique("u")

    def add(
        self, chosen: uuid.UUID | None, candidates: Any, outcome: dict[str, Any] | None = None, **values: Any
    ) -> uuid.UUID:
        mine = {"organization_id": self.served.mine.organization}
        with tenant_transaction(self.served.wiring.engine, self.served.mine.organization) as session:
            row = ModelSelectionLog(
                **mine,
                use_case=self.use_case,
                selected_model_id=chosen,
                candidate_models=candidates,
                selection_algorithm="weighted",
                execution_successful=None if outcome is None else outcome.get("success"),
                **values,
            )
            session.add(row)
            session.flush()
            if outcome is not None:
                session.add(SelectionOutcome(**mine, selection_id=row.id, **outcome))
            return row.id

    def get(self, path: str = "/v1/selections/summary", **query: Any) -> dict[str, Any]:
        with self.served.client(self.served.mine, "viewer") as client:
            answer = client.get(path, params={"use_case": self.use_case, **query})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def ids(self, **query: Any) -> list[str]:
        return [each["id"] for each in self.get("/v1/selections", **query)["items"]]


@pytest.fixture
def log(served: Served) -> Log:
    return Log(served)


def test_shares_rejections_and_nothing_eligible_are_counted_with_shadows_apart(log: Log) -> None:
    both = [candidate(GOOD, 0.9, 0.01), candidate(FAIR, 0.7, 0.001)]
    for _ in range(3):
        log.add(GOOD, both)
    log.add(FAIR, [candidate(FAIR, 0.7, 0.001), rejected(GOOD, "max_cost"), rejected(GONE, "max_cost")])
    log.add(None, [rejected(GOOD, "max_cost"), rejected(FAIR, "tags")])
    log.add(FAIR, both, is_shadow=True)
    log.add(None, "not a list")
    found = log.get()
    served, shadows = found["served"], found["shadows"]
    assert (served["decisions"], served["nothing_eligible"], shadows["decisions"]) == (6, 2, 1)
    shares = {each["model_id"]: (each["decisions"], each["share"]) for each in served["models"]}
    assert shares == {str(GOOD): (3, 0.75), str(FAIR): (1, 0.25)}
    assert served["rejections"] == [
        {"constraint": "max_cost", "candidates": 3, "decisions": 2},
        {"constraint": "tags", "candidates": 1, "decisions": 1},
    ]
    assert [each["model_id"] for each in shadows["models"]] == [str(FAIR)]
    assert (found["complete"], shadows["rejections"], shadows["outcomes"]) == (True, [], [])


def test_regret_and_savings_are_against_the_best_eligible_estimate(log: Log) -> None:
    best, cheap = candidate(GOOD, 0.9, 0.01, 0.03), candidate(FAIR, 0.7, 0.002, 0.04)
    dearer_as_good = candidate(GONE, 0.9, 0.05, 0.03)
    log.add(GOOD, [best, cheap, dearer_as_good])
    log.add(FAIR, [best, cheap, dearer_as_good], {"success": True, "quality": 0.8})
    log.add(FAIR, [cheap, rejected(GOOD, "max_cost")], {"quality": 0.5})
    log.add(GONE, [candidate(GONE, None, 0.05), cheap])
    log.add(FAIR, [best, cheap], {"quality": 0.1, "served_model_id": GOOD})  # by a fallback: not what FAIR got
    part = log.get()["served"]
    estimated, realised = part["regret"]["estimated"], part["regret"]["realised"]
    assert (estimated["n"], realised["n"]) == (4, 2)
    assert estimated["value"] == pytest.approx((0 + 0.2 + 0 + 0.2) / 4)
    assert estimated["stderr"] == pytest.approx(2 * math.hypot(0.03, 0.04) / 4)
    assert realised["value"] == pytest.approx((0.1 + 0.2) / 2)
    assert realised["stderr"] == pytest.approx(math.hypot(0.05, 0.035))
    savings = part["savings"]
    assert (savings["n"], savings["unknown"]) == (5, 0)
    assert savings["total_usd"] == pytest.approx(0 + 0.008 + 0 + (0.002 - 0.05) + 0.008)
    assert savings["quality_given_up"] == pytest.approx(0.1)


def test_outcomes_are_those_of_the_model_that_served(log: Log) -> None:
    candidates = [candidate(GOOD, 0.9, 0.01)]
    for quality in (0.4, 0.6, 0.8):
        log.add(GOOD, candidates, {"success": True, "quality": quality, "latency_ms": 100.0, "cost": "0.002"})
    log.add(GOOD, candidates, {"success": False})
    log.add(GOOD, candidates, {"success": False, "served_model_id": FAIR})
    outcomes = {each["model_id"]: each for each in log.get()["served"]["outcomes"]}
    good = outcomes[str(GOOD)]
    assert (good["success_rate"]["n"], good["success_rate"]["value"], good["quality"]["n"]) == (4, 0.75, 3)
    assert (good["quality"]["value"], good["quality"]["stderr"]) == (pytest.approx(0.6), pytest.approx(0.2 / 3**0.5))
    assert good["cost"]["value"] == pytest.approx(0.002)
    assert outcomes[str(FAIR)]["success_rate"]["value"] == 0
    assert outcomes[str(FAIR)]["quality"] == {"n": 0, "value": None, "stderr": None, "ci_low": None, "ci_high": None}


def test_a_summary_looks_at_a_week_and_at_no_more_decisions_than_it_may_and_says_so(log: Log) -> None:
    now = datetime.now(UTC)
    for days in (1, 2, 3, 8):
        log.add(GOOD, [candidate(GOOD, 0.9, 0.01)], created_at=now - timedelta(days=days))
    assert log.get()["served"]["decisions"] == 3
    wide = log.get(since=(now - timedelta(days=30)).isoformat())
    assert (wide["served"]["decisions"], wide["complete"]) == (4, True)
    assert log.get(until=(now - timedelta(days=2.5)).isoformat())["served"]["decisions"] == 2
    part = log.get(limit=2)
    assert (part["served"]["decisions"], part["complete"]) == (2, False)
    assert datetime.fromisoformat(part["looked_at_since"]) == now - timedelta(days=2)
    assert log.get(limit=3)["complete"]
    assert log.get(policy_name="nobody")["served"]["decisions"] == 0


def test_a_summary_of_an_empty_time_is_refused(log: Log) -> None:
    with log.served.client(log.served.mine) as client:
        answer = client.get(
            "/v1/selections/summary", params={"since": "2026-01-02T00:00Z", "until": "2026-01-01T00:00Z"}
        )
        unknown = client.get("/v1/selections", params={"outcome": "good"})
    assert (answer.status_code, answer.json()["field"], unknown.status_code) == (422, "since", 422)


def test_a_summary_that_takes_too_long_is_refused_with_the_way_out(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summarizing, "SECONDS", 0.001)
    for _ in range(200):
        log.add(GOOD, [candidate(GOOD, 0.9, 0.01)] * 50)
    with log.served.client(log.served.mine) as client:
        answer = client.get("/v1/selections/summary", params={"use_case": log.use_case})
    assert (answer.status_code, answer.json()["field"]) == (422, "limit")


def test_what_the_router_logs_is_summed_up(router: Router) -> None:  # noqa: F811
    for _ in range(2):
        router.select(weights={"quality": 1, "cost": 0, "latency": 0}, use_case="qa")
    cheap = {"weights": {"quality": 0, "cost": 1, "latency": 0}, "constraints": {"exclude": ["new"]}}
    candidates = router.select(use_case="qa", **cheap)["candidates"]
    quality = {each["name"]: each["quality"] for each in candidates if "rejected" not in each}
    found = router.client.get("/v1/selections/summary", params={"use_case": "qa"}).json()["served"]
    assert [(each["name"], each["decisions"]) for each in found["models"]] == [("good@1.0.0", 2), ("fair@1.0.0", 1)]
    assert {"constraint": "exclude", "candidates": 1, "decisions": 1} in found["rejections"]
    assert found["regret"]["estimated"]["value"] == pytest.approx(
        (quality["good@1.0.0"] - quality["fair@1.0.0"]) / 3, abs=1e-4
    )
    assert found["savings"]["total_usd"] > 0


def test_the_log_is_searched_by_time_outcome_and_shadow(log: Log) -> None:
    now = datetime.now(UTC)
    worked, failed = (log.add(GOOD, [], {"success": success}) for success in (True, False))
    old = log.add(GOOD, [], created_at=now - timedelta(days=9))
    shadow = log.add(FAIR, [], is_shadow=True)
    week = (now - timedelta(days=7)).isoformat()
    assert log.ids(outcome="success") == [str(worked)]
    assert log.ids(outcome="failed") == [str(failed)]
    assert log.ids(outcome="none") == [str(shadow), str(old)]
    assert log.ids(until=week) == [str(old)]
    assert log.ids(since=week, shadow=False) == [str(failed), str(worked)]
    assert log.ids(shadow=True, selected_model_id=str(FAIR)) == [str(shadow)]


def test_the_commands_show_the_summary_and_search_the_log(log: Log, evalservice_home: Any) -> None:
    served = log.served
    remote = Cli(evalservice_home, {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": served.mine.keys["viewer"]})
    candidates = [candidate(GOOD, 0.9, 0.01), candidate(FAIR, 0.7, 0.001), rejected(GONE, "max_cost")]
    for success in (True, False):
        log.add(FAIR, candidates, {"success": success, "quality": 0.6, "cost": "0.001", "latency_ms": 90.0})
    log.add(FAIR, candidates, is_shadow=True)
    shown = remote("selections", "summary", "--use-case", log.use_case)
    assert shown.code == 0, shown.err
    for words in ("served: 2 decisions", "shadows: 1 decisions", "max_cost", "saved $0.018 against always", "50.0%"):
        assert words in shown.out, shown.out
    document = remote.ok("selections", "summary", "--use-case", log.use_case, "--since", "2020-01-01")
    assert document["served"]["savings"]["n"] == 2
    part = remote("selections", "summary", "--use-case", log.use_case, "--limit", "1")
    assert part.err.startswith("only the latest 1 decisions were looked at")
    assert len(remote.ok("selections", "list", "--use-case", log.use_case, "--shadow")["items"]) == 1
    assert len(remote.ok("selections", "list", "--use-case", log.use_case, "--outcome", "failed")["items"]) == 1
    assert remote("selections", "list", "--since", "yesterday").code == 2

"""`/v1/regression-alerts`: completed runs are compared with their baseline once, and what is worse is told."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import select

from cluster.regressions import CHECKS_A_TURN, check_due
from evalservice.comparisons.regressions import check_run
from evalservice.database import tenant_transaction
from evalservice.tables import RegressionCheck
from tests.api.conftest import Served, a_model, unique
from tests.api.test_comparisons import Bench, N
from tests.conftest import Cli


class Watched(Bench):
    """Repeated runs of one model on one benchmark."""

    def start(self) -> Watched:
        self.model, self.bench_name = a_model(self.client)["name"], self.benchmark(self.dataset())
        return self

    def again(self, values: Sequence[float | None], **options: Any) -> str:
        """A run of the same configuration, completed and not checked yet."""
        return self.run(self.bench_name, values, model=self.model, **options)

    def check(self, run: str) -> str | None:
        with tenant_transaction(self.served.wiring.engine, self.served.mine.organization) as session:
            found = check_run(session, uuid.UUID(run))
            return None if found is None else found.outcome

    def checked(self, values: Sequence[float | None]) -> tuple[str, str | None]:
        run = self.again(values)
        return run, self.check(run)

    def row(self, run: str) -> RegressionCheck:
        with tenant_transaction(self.served.wiring.engine, self.served.mine.organization) as session:
            return session.scalars(
                select(RegressionCheck).where(RegressionCheck.evaluation_run_id == uuid.UUID(run))
            ).one()

    def alerts(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.client.get("/v1/regression-alerts", params={"model": self.model, **query})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


@pytest.fixture
def watched(served: Served, owner: httpx.Client) -> Watched:
    return Watched(served, owner).start()


def flipped(values: Sequence[float], count: int, seed: int, *, to: float = 0.0) -> list[float]:
    """The answers with `count` of those that are not yet `to` turned to it."""
    changed = list(values)
    for index in random.Random(seed).sample([i for i, v in enumerate(values) if v != to], count):
        changed[index] = to
    return changed


GOOD = [float(i % 10 != 0) for i in range(N)]


def test_a_worse_run_raises_one_alert_with_its_evidence_and_is_the_next_baseline(watched: Watched) -> None:
    first, outcome = watched.checked(GOOD)
    assert (outcome, watched.alerts()) == ("baseline", [])
    assert watched.checked(flipped(GOOD, 2, 1))[1] == "passed"
    bad = flipped(GOOD, 40, 2)
    worse, outcome = watched.checked(bad)
    assert outcome == "regressed"
    [alert] = watched.alerts(acknowledged=False, benchmark=watched.bench_name)
    assert (alert["evaluation_run_id"], alert["baseline_run_id"]) == (worse, first)
    assert (alert["metric"], alert["test"], alert["n"], alert["look_number"]) == ("exact_match", "mcnemar_exact", N, 2)
    assert alert["difference"] == pytest.approx(alert["value"] - alert["baseline_value"]) == pytest.approx(-0.1)
    assert alert["ci_low"] < alert["difference"] < alert["ci_high"] < 0
    assert alert["p_value"] <= alert["alpha"] == pytest.approx(0.05 * 6 / 3.14159265**2 / 4)
    assert alert["retest_stderr"] == pytest.approx(2 / N)
    assert watched.checked(bad)[1] == "passed"
    recovered, outcome = watched.checked(GOOD)
    assert (outcome, str(watched.row(recovered).baseline_run_id)) == ("baseline", worse)
    assert len(watched.alerts()) == 1
    assert watched.checked(bad)[1] == "regressed"  # what has recovered may fall again
    assert watched.alerts()[0]["baseline_run_id"] == recovered


def test_a_run_is_checked_once_however_many_look_at_once(watched: Watched) -> None:
    watched.checked(GOOD)
    worse = watched.again(flipped(GOOD, 60, 3))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(watched.check, [worse] * 8))
    assert sorted(filter(None, outcomes)) == ["regressed"]
    assert len(watched.alerts()) == 1


def test_looks_at_one_baseline_are_counted_one_after_the_other(watched: Watched) -> None:
    watched.checked(GOOD)
    runs = [watched.again(flipped(GOOD, 1, seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(watched.check, runs)) == ["passed"] * 4
    assert sorted(watched.row(run).look_number or 0 for run in runs) == [1, 2, 3, 4]


def test_what_cannot_be_paired_says_why_spends_nothing_and_raises_nothing(watched: Watched) -> None:
    watched.checked(GOOD)
    run, outcome = watched.checked([None if i % 5 == 0 else 0.0 for i in range(N)])
    row = watched.row(run)
    assert (outcome, row.look_number, watched.alerts()) == ("not_compared", None, [])
    assert "80.0%" in row.reason
    assert watched.row(watched.checked(GOOD)[0]).look_number == 1


def test_a_run_of_more_coverage_takes_over_from_a_baseline_that_nothing_can_be_paired_with(watched: Watched) -> None:
    watched.checked([None if i % 5 == 0 else 1.0 for i in range(N)])
    whole, outcome = watched.checked(GOOD)
    assert outcome == "baseline"
    assert "takes over" in watched.row(whole).reason
    assert watched.checked(flipped(GOOD, 60, 4))[1] == "regressed"


def test_only_completed_runs_of_the_same_configuration_are_looked_at(watched: Watched) -> None:
    watched.checked(GOOD)
    assert watched.check(watched.again(flipped(GOOD, 60, 5), status="failed")) is None
    watched.model = a_model(watched.client)["name"]
    assert watched.checked(flipped(GOOD, 60, 5))[1] == "baseline"


def test_a_supervisors_turn_checks_the_oldest_of_every_organization_and_a_fault_holds_up_no_other(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    class Here:
        engine = watched.served.wiring.engine

    while _due(watched.served):
        check_due(Here())  # type: ignore[arg-type]
    first, broken = watched.again(GOOD), watched.again(GOOD)
    with psycopg.connect(watched.served.database) as connection:
        connection.execute("UPDATE evaluation_runs SET provenance = '{}' WHERE id = %s", (broken,))
    worse = [watched.again(flipped(GOOD, 60, 6)) for _ in range(CHECKS_A_TURN)]
    check_due(Here())  # type: ignore[arg-type]
    assert _due(watched.served) == 2
    check_due(Here())  # type: ignore[arg-type]
    assert [watched.row(run).outcome for run in (first, broken, *worse)] == [
        *("baseline", "not_compared", "regressed"),
        *["passed"] * (CHECKS_A_TURN - 1),
    ]
    assert "KeyError" in watched.row(broken).reason
    assert {"regression_check_failed", "run_regressed"} <= {record.message for record in caplog.records}


def _due(served: Served) -> int:
    with psycopg.connect(served.database) as connection:
        row = connection.execute("SELECT count(*) FROM regression_checks WHERE outcome IS NULL").fetchone()
        assert row is not None
        return int(row[0])


def test_an_alert_is_acknowledged_once_and_who_was_first_stays(watched: Watched) -> None:
    watched.checked(GOOD)
    watched.checked(flipped(GOOD, 60, 7))
    [alert] = watched.alerts()
    path = f"/v1/regression-alerts/{alert['id']}"
    assert watched.client.get(path).json() == alert
    with watched.served.client(watched.served.mine, "viewer") as viewer:
        assert viewer.patch(path, json={"acknowledged": True}).status_code == 403
    seen = watched.client.patch(path, json={"acknowledged": True}).json()
    with watched.served.client(watched.served.mine, "member") as other:
        assert other.patch(path, json={"acknowledged": True}).json() == seen
    assert seen["acknowledged_at"]
    assert (watched.alerts(acknowledged=False), watched.alerts(acknowledged=True)) == ([], [seen])
    assert watched.client.patch(path, json={"acknowledged": False}).status_code == 422
    assert watched.client.get("/v1/regression-alerts", params={"model": unique("none")}).status_code == 404


def test_alerts_are_listed_by_pages(watched: Watched) -> None:
    watched.checked(GOOD)
    worse = flipped(GOOD, 60, 8)
    runs = [watched.checked(worse)[0], watched.checked(flipped(worse, 60, 9))[0]]
    first = watched.client.get("/v1/regression-alerts", params={"model": watched.model, "limit": 1}).json()
    second = watched.client.get(
        "/v1/regression-alerts", params={"model": watched.model, "limit": 1, "cursor": first["next_cursor"]}
    ).json()
    assert [page["items"][0]["evaluation_run_id"] for page in (first, second)] == runs[::-1]
    assert second["next_cursor"] is None


def test_the_command_lists_and_acknowledges_alerts(watched: Watched, tmp_path: Any) -> None:
    watched.checked(GOOD)
    watched.checked(flipped(GOOD, 60, 10))
    [alert] = watched.alerts()
    key = watched.served.mine.keys["owner"]
    cli = Cli(tmp_path, {"EVALSERVICE_URL": watched.served.url, "EVALSERVICE_API_KEY": key})
    assert cli.ok("alerts", "list", "--model", watched.model)["items"] == [alert]
    [seen] = cli.ok("alerts", "ack", alert["id"])["items"]
    assert seen["acknowledged_at"]
    assert "no alerts" in cli("alerts", "list", "--model", watched.model).out
    assert watched.model in cli("alerts", "list", "--all", "--model", watched.model).out
    assert cli("alerts", "ack", "0193").code == 2

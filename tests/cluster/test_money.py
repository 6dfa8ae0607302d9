"""What a driver hands out of a run's budget: on a real Postgres, whatever becomes of who was given it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from actors.purse import Ask
from cluster.budget import LOST_AFTER_SECONDS, Budget
from evalservice.database import make_engine, tenant_transaction
from evalservice.errors import DatabaseUnavailable, LeaseLost
from evalservice.runs.lifecycle import Lease, claim
from evalservice.tables import new_id
from tests.postgres import fill, service_login

DOLLAR = 10**10


@dataclass
class Money:
    """A run with a budget of one dollar, and a clock that is told to go on."""

    url: str
    engine: Engine
    organization: uuid.UUID
    now: float = 100.0
    exhausted: list[str] = field(default_factory=list)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """SQL as the database's owner."""
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement.encode(), values)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def run(self, budget: str | None = "1") -> tuple[Lease, Budget]:
        """Another run, claimed."""
        run_id, same = new_id(), "organization_id, model_id, benchmark_id, dataset_id"
        config = "{}" if budget is None else f'{{"max_cost": "{budget}"}}'
        self.sql(
            f"INSERT INTO evaluation_runs (id, evaluation_config, {same}) SELECT %s, %s::jsonb, {same} "
            "FROM evaluation_runs WHERE organization_id = %s LIMIT 1",
            *(run_id, config, self.organization),
        )
        with tenant_transaction(self.engine, self.organization) as session:
            lease = claim(session, run_id, "me")
        noted = self.exhausted.append
        made = Budget(self.engine, self.organization, lease, lambda: noted(str(run_id)), lambda: self.now)
        return lease, made

    def reserved(self, lease: Lease) -> Decimal:
        """What counts against the run's budget."""
        [amount] = self.sql("SELECT reserved_cost FROM evaluation_runs WHERE id = %s", lease.run_id)
        return Decimal(amount)

    def limit(self, daily: str) -> None:
        """The organization's daily limit."""
        self.sql("UPDATE organizations SET daily_spend_limit = %s WHERE id = %s", daily, self.organization)
        self.sql("DELETE FROM daily_spend")
        self.sql("DELETE FROM evaluation_results")

    def spent_today(self) -> Decimal:
        """What counts against it."""
        [amount] = self.sql("SELECT reserved_cost FROM daily_spend WHERE organization_id = %s", self.organization)
        return Decimal(amount)


@pytest.fixture
def money(database_url: str) -> Iterator[Money]:
    engine = make_engine(service_login(database_url))
    yield Money(database_url, engine, fill(database_url))
    engine.dispose()


@contextmanager
def failing(target: Any, name: str, when: Callable[[], bool]) -> Iterator[None]:
    """Postgres's connection breaks at this event."""

    def lose(*_: Any) -> None:
        if when():
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    event.listen(target, name, lose)
    try:
        yield
    finally:
        event.remove(target, name, lose)


def test_an_actor_that_was_only_slow_comes_back_with_its_money(money: Money) -> None:
    lease, budget = money.run()
    assert budget.answers({1: Ask("a", wanted=DOLLAR // 2, least=1)}) == {1: DOLLAR // 2}
    money.now += 10 * LOST_AFTER_SECONDS
    assert budget.answers({2: Ask("b", wanted=DOLLAR // 4, least=1)}) == {2: DOLLAR // 4}
    budget.answers({3: Ask("a", spent=DOLLAR // 10, returned=DOLLAR // 2 - DOLLAR // 10)})
    assert money.reserved(lease) == Decimal("0.35")


def test_nobody_waits_for_the_money_of_the_dead(money: Money) -> None:
    _, budget = money.run()
    budget.answers({1: Ask("dead", wanted=DOLLAR, least=DOLLAR)})
    for waited in range(3):
        assert budget.answers({2 + waited: Ask("b", wanted=1, least=1)}) == {2 + waited: 0}
        assert not money.exhausted
        money.now += LOST_AFTER_SECONDS / 4
    money.now += LOST_AFTER_SECONDS
    budget.answers({9: Ask("b", wanted=1, least=1)})
    assert budget.exhausted == "its budget of $1"


def test_nobody_is_dead_because_postgres_let_the_driver_wait(money: Money) -> None:
    _, budget = money.run()
    budget.answers({1: Ask("a", wanted=DOLLAR, least=DOLLAR)})

    def long_wait() -> bool:
        money.now += 2 * LOST_AFTER_SECONDS
        return True

    with failing(money.engine, "begin", long_wait), pytest.raises(DatabaseUnavailable):
        budget.answers({2: Ask("b", wanted=1, least=1)})
    assert budget.answers({2: Ask("b", wanted=1, least=1)}) == {2: 0}
    assert not budget.exhausted

    with failing(money.engine, "begin", lambda: not long_wait()):  # a stalled one fails nothing
        assert budget.answers({3: Ask("b", wanted=1, least=1)}) == {3: 0}
    assert budget.answers({4: Ask("b", wanted=1, least=1)}) == {4: 0}
    assert not budget.exhausted


def test_what_was_committed_is_not_done_again_when_the_answer_was_lost(money: Money) -> None:
    lease, budget = money.run()
    budget.answers({1: Ask("a", wanted=DOLLAR // 2, least=1)})
    asks = {2: Ask("a", spent=DOLLAR // 10, returned=DOLLAR // 5), 3: Ask("b", wanted=DOLLAR // 10, least=1)}
    with failing(Session, "after_commit", lambda: True), pytest.raises(DatabaseUnavailable):
        budget.answers(asks)
    assert budget.answers(asks) == {2: 0, 3: DOLLAR // 10}
    assert money.reserved(lease) == Decimal("0.4")
    budget.answers({4: Ask("a", returned=DOLLAR // 5), 5: Ask("b", returned=DOLLAR // 10)})
    assert money.reserved(lease) == Decimal("0.1")


def test_what_costs_more_than_its_worst_case_is_charged_and_ends_the_run(money: Money) -> None:
    money.limit("5")
    lease, budget = money.run()
    budget.answers({1: Ask("a", wanted=DOLLAR // 2, least=1)})
    beyond = 3 * DOLLAR - DOLLAR // 2
    assert budget.answers({2: Ask("a", spent=3 * DOLLAR)}) == {2: beyond}, "it is owed to nobody any more"
    assert money.reserved(lease) == money.spent_today() == 3
    budget.answers({3: Ask("a", wanted=10, least=10)})
    assert budget.exhausted == "its budget of $1"


def test_a_request_whose_worst_case_never_fits_ends_the_run_and_does_not_wait(money: Money) -> None:
    _, budget = money.run()
    assert budget.answers({1: Ask("a", wanted=2 * DOLLAR, least=2 * DOLLAR)}) == {1: 0}
    assert budget.exhausted


def test_two_runs_at_once_never_reserve_more_than_the_daily_limit(money: Money) -> None:
    money.limit("1")
    runs = [money.run(None) for _ in range(2)]
    together = threading.Barrier(2)

    def spend(budget: Budget) -> int:
        together.wait()
        total = 0
        for number in range(40):
            got = budget.answers({number: Ask("a", wanted=DOLLAR // 7, least=DOLLAR // 70)})[number]
            back = got // 3
            budget.answers({number: Ask("a", spent=got - back, returned=back)})
            total += got - back
        return total

    with ThreadPoolExecutor(2) as pool:
        spent = list(pool.map(spend, (budget for _, budget in runs)))
    assert all(spent)
    assert Decimal(sum(spent)) / DOLLAR == sum(money.reserved(lease) for lease, _ in runs) == money.spent_today() <= 1
    assert [budget.exhausted for _, budget in runs] == ["the organization's daily spend limit of $1"] * 2


def test_a_driver_whose_run_was_taken_over_hands_out_nothing(money: Money) -> None:
    lease, budget = money.run()
    money.sql("UPDATE evaluation_runs SET attempt = attempt + 1 WHERE id = %s", lease.run_id)
    with pytest.raises(LeaseLost):
        budget.answers({1: Ask("a", wanted=1, least=1)})
    assert money.reserved(lease) == 0

"""Who is served next: organizations in turn, within one by priority, never over a limit, orphans with patience."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from evalservice.database import make_engine, tenant_transaction, transaction
from evalservice.runs.lifecycle import Lease, close
from evalservice.runs.queue import Work, claim_work
from tests.postgres import fill, fresh_database, service_login


class Queue:
    """A database with nothing to do, and shortcuts to give it work."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(service_login(url), pool_size=10)

    def organization(self, limit: int | None = None) -> uuid.UUID:
        organization = fill(self.url)
        with psycopg.connect(self.url) as owner:
            owner.execute("UPDATE organizations SET max_concurrent_runs = %s WHERE id = %s", (limit, organization))
            owner.execute(
                "UPDATE evaluation_runs SET status = 'cancelled', lease_owner = NULL, requested_work = NULL "
                "WHERE organization_id = %s",
                (organization,),
            )
        return organization

    def pending(self, organization: uuid.UUID, count: int = 1, priority: int = 0) -> list[uuid.UUID]:
        """Copies of the organization's first run, pending, in the order in which they are given."""
        with psycopg.connect(self.url) as owner:
            return [
                owner.execute(
                    "INSERT INTO evaluation_runs "
                    "(id, organization_id, model_id, benchmark_id, dataset_id, priority, created_at) "
                    "SELECT gen_random_uuid(), organization_id, model_id, benchmark_id, dataset_id, %s, "
                    "clock_timestamp() FROM evaluation_runs WHERE organization_id = %s ORDER BY created_at LIMIT 1 "
                    "RETURNING id",
                    (priority, organization),
                ).fetchone()[0]  # type: ignore[index]
                for _ in range(count)
            ]

    def claim(self, owner: str = "a supervisor") -> Work | None:
        with transaction(self.engine) as session:
            return claim_work(session, owner)

    def end(self, work: Work) -> None:
        with tenant_transaction(self.engine, work.organization_id) as session:
            close(session, work.lease, "completed")

    def change(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.url) as owner:
            owner.execute(statement.encode(), values)


@pytest.fixture
def work_queue(postgres_server: str, template_database: str) -> Iterator[Queue]:
    with fresh_database(postgres_server, template=template_database) as url:
        made = Queue(url)
        yield made
        made.engine.dispose()


def test_organizations_take_turns_however_much_one_asks_for(work_queue: Queue) -> None:
    greedy, modest = work_queue.organization(), work_queue.organization()
    work_queue.pending(greedy, 10, priority=100)
    work_queue.pending(modest, 2)
    claimed = [work_queue.claim() for _ in range(4)]
    assert [work.organization_id for work in claimed if work].count(modest) == 2


def test_within_an_organization_the_higher_priority_and_then_the_older_comes_first(work_queue: Queue) -> None:
    organization = work_queue.organization()
    low, high = work_queue.pending(organization, 2), work_queue.pending(organization, 2, priority=5)
    claimed = [work_queue.claim() for _ in range(4)]
    assert [work.lease.run_id for work in claimed if work][:2] == high
    assert {work.lease.run_id for work in claimed[2:] if work} == set(low)


def test_a_limit_holds_however_many_supervisors_claim_at_once(work_queue: Queue) -> None:
    organization = work_queue.organization(limit=3)
    work_queue.pending(organization, 20)
    found: list[Work] = []

    def supervise() -> None:
        for _ in range(5):
            if (work := work_queue.claim()) is not None:
                found.append(work)

    threads = [threading.Thread(target=supervise) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (late := work_queue.claim()) is not None:  # claims that met each other gave way
        found.append(late)
    assert len(found) == 3
    work_queue.end(found[0])
    assert work_queue.claim() is not None
    assert work_queue.claim() is None


def test_a_run_is_given_to_one_supervisor_only(work_queue: Queue) -> None:
    organization = work_queue.organization()
    runs = set(work_queue.pending(organization, 12))
    found: list[uuid.UUID] = []

    def supervise() -> None:
        while (work := work_queue.claim()) is not None:
            found.append(work.lease.run_id)

    threads = [threading.Thread(target=supervise) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (late := work_queue.claim()) is not None:
        found.append(late.lease.run_id)
    assert (len(found), set(found)) == (12, runs)


def test_an_orphan_is_claimed_again_counted_and_then_waits_longer(work_queue: Queue) -> None:
    organization = work_queue.organization()
    [run] = work_queue.pending(organization)
    first = work_queue.claim()
    assert first is not None
    assert work_queue.claim() is None
    lapsed = "UPDATE evaluation_runs SET lease_expires_at = now() - interval '1 second' WHERE id = %s"
    work_queue.change(lapsed, run)
    second = work_queue.claim()
    assert second is not None
    assert (second.lease.attempt, second.orphaned) == (first.lease.attempt + 1, 1)
    work_queue.change(lapsed, run)
    assert work_queue.claim() is None, "it waits for its backoff"
    work_queue.change("UPDATE evaluation_runs SET claim_after = now() WHERE id = %s", run)
    third = work_queue.claim()
    assert third is not None
    assert third.orphaned == 2


def test_a_driver_that_was_taken_over_cannot_close_the_run(work_queue: Queue) -> None:
    from evalservice.errors import LeaseLost

    organization = work_queue.organization()
    [run] = work_queue.pending(organization)
    first = work_queue.claim()
    assert first is not None
    work_queue.change("UPDATE evaluation_runs SET lease_expires_at = now() - interval '1 second' WHERE id = %s", run)
    assert work_queue.claim("another") is not None
    with pytest.raises(LeaseLost), tenant_transaction(work_queue.engine, organization) as session:
        close(session, Lease(run, first.lease.owner, first.lease.attempt), "completed")

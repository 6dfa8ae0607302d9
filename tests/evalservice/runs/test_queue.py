"""The queue of runs: fair between organizations, within their limits, orphans after a while, whoever claims at once."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from sqlalchemy import Engine

from evalservice.database import make_engine, tenant_transaction, transaction
from evalservice.errors import InvalidTransition, LeaseHeld, LeaseLost
from evalservice.runs.leases import abandon, give_back, hand_over, held_at, note_waiting
from evalservice.runs.lifecycle import close, renew, request_cancel
from evalservice.runs.queue import QueueState, Work, claim_work, queue_state, request_rescore, request_resume
from evalservice.tables import new_id
from tests.postgres import fill, fresh_database, service_login

ORGANIZATIONS = 4


@dataclass(frozen=True)
class Queue:
    """A database with a few organizations, through the service's own login."""

    url: str
    engine: Engine
    organizations: list[uuid.UUID]

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """SQL as the database's owner."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def add(
        self, organization: uuid.UUID, count: int = 1, *, status: str = "pending", priority: int = 0
    ) -> list[uuid.UUID]:
        """Copies of the organization's first run, each a second younger than the one before."""
        ids = [new_id() for _ in range(count)]
        same = "organization_id, model_id, benchmark_id, dataset_id"
        self.sql(
            f"INSERT INTO evaluation_runs (id, created_at, status, priority, {same}) "
            f"SELECT copy.copy_id, clock_timestamp() + copy.n * interval '1 second', %s, %s, {same} "
            "FROM (SELECT * FROM evaluation_runs WHERE organization_id = %s ORDER BY created_at LIMIT 1) AS run, "
            "unnest(%s::uuid[]) WITH ORDINALITY AS copy (copy_id, n)",
            *(status, priority, organization, ids),
        )
        return ids

    def claim(self, owner: str = "me") -> Work | None:
        with transaction(self.engine) as session:
            return claim_work(session, owner)

    def claimed(self, owner: str = "me") -> Work:
        work = self.claim(owner)
        assert work is not None
        return work

    def run(self, run_id: uuid.UUID) -> dict[str, Any]:
        [row] = self.sql(
            "SELECT *, extract(epoch FROM claim_after - now()) AS wait FROM evaluation_runs WHERE id = %s", run_id
        )
        return row

    def act(self, organization: uuid.UUID, what: Any, *values: Any) -> Any:
        """Call a function of the tenant's session."""
        with tenant_transaction(self.engine, organization) as session:
            return what(session, *values)


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[Queue]:
    with fresh_database(postgres_server, template=template_database) as url:
        organizations = [fill(url) for _ in range(ORGANIZATIONS)]
        engine = make_engine(service_login(url), pool_size=10)
        yield Queue(url, engine, organizations)
        engine.dispose()


@pytest.fixture
def queue(database: Queue) -> Queue:
    """An empty queue; what `fill` made is the pattern of every run."""
    emptied(database)
    return database


def emptied(queue: Queue) -> None:
    queue.sql(
        "UPDATE evaluation_runs SET status = 'completed', lease_owner = NULL, lease_expires_at = NULL, "
        "claim_after = NULL, orphaned = 0, attempt = 0, requested_work = NULL, cancel_requested_at = NULL"
    )
    queue.sql("UPDATE organizations SET max_concurrent_runs = NULL")


RUNS = st.lists(st.tuples(st.integers(0, ORGANIZATIONS - 1), st.integers(-1, 2)), max_size=12)
LIMITS = st.lists(st.none() | st.integers(1, 3), min_size=ORGANIZATIONS, max_size=ORGANIZATIONS)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=RUNS, limits=LIMITS)
def test_the_organization_with_the_fewest_runs_is_served_first_within_its_limit_and_by_priority_then_age(
    database: Queue, runs: list[tuple[int, int]], limits: list[int | None]
) -> None:
    emptied(database)
    waiting: dict[int, list[tuple[int, int, uuid.UUID]]] = {}
    for place, (organization, priority) in enumerate(runs):
        [run_id] = database.add(database.organizations[organization], priority=priority)
        waiting.setdefault(organization, []).append((-priority, place, run_id))
    for organization, limit in zip(database.organizations, limits, strict=True):
        database.sql("UPDATE organizations SET max_concurrent_runs = %s WHERE id = %s", limit, organization)
    driven: Counter[int] = Counter()
    while True:
        able = [o for o in waiting if waiting[o] and (limits[o] is None or driven[o] < (limits[o] or 0))]
        expected = min(((driven[o], min(waiting[o])[1], min(waiting[o]), o) for o in able), default=None)
        work = database.claim()
        assert (work and work.lease.run_id) == (expected and expected[2][2])
        if expected is None:
            return
        waiting[expected[3]].remove(expected[2])
        driven[expected[3]] += 1


def test_an_organizations_limit_holds_however_many_claim_at_once_and_nobody_starves(queue: Queue) -> None:
    limited, *others = queue.organizations
    queue.sql("UPDATE organizations SET max_concurrent_runs = 3 WHERE id = %s", limited)
    queue.add(limited, 16, priority=9)
    for other in others:
        queue.add(other, 16)
    most, lock = 0, threading.Lock()
    ended: list[uuid.UUID] = []
    counting = "SELECT count(*) AS n FROM evaluation_runs WHERE organization_id = %s AND lease_owner IS NOT NULL"

    def supervise(name: str) -> None:
        nonlocal most
        until = time.monotonic() + 60
        while len(ended) < 64 and time.monotonic() < until:
            work = queue.claim(name)
            if work is None:
                time.sleep(0.005)
                continue
            with lock:
                most = max(most, queue.sql(counting, limited)[0]["n"])
            queue.act(work.organization_id, close, work.lease, "completed")
            ended.append(work.lease.run_id)

    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(supervise, f"supervisor-{n}") for n in range(8)]:
            outcome.result()
    assert len(ended) == len(set(ended)) == 64
    assert 1 <= most <= 3


def test_claims_that_meet_each_other_never_exceed_a_limit(queue: Queue) -> None:
    limited = queue.organizations[0]
    for _ in range(10):
        emptied(queue)
        queue.sql("UPDATE organizations SET max_concurrent_runs = 3 WHERE id = %s", limited)
        queue.add(limited, 20)
        together = threading.Barrier(8)

        def claim(together: threading.Barrier = together) -> list[Work | None]:
            together.wait()
            return [queue.claim() for _ in range(2)]

        with ThreadPoolExecutor(8) as pool:
            found = [work for each in [pool.submit(claim) for _ in range(8)] for work in each.result() if work]
        while (late := queue.claim()) is not None:  # claims that met each other gave way
            found.append(late)
        assert len(found) == 3


def test_a_run_whose_driver_died_waits_longer_each_time_before_it_is_started_again(queue: Queue) -> None:
    [run_id] = queue.add(queue.organizations[0])
    work = queue.claimed("first")
    assert (work.kind, work.orphaned, queue.claim()) == ("run", 0, None)
    waits = []
    for death in (1, 2, 3):
        queue.act(work.organization_id, abandon, work.lease)
        waits.append(round(float(queue.run(run_id)["wait"])))
        assert queue.claim() is None
        queue.sql("UPDATE evaluation_runs SET claim_after = now() WHERE id = %s", run_id)
        work = queue.claimed("next")
        assert (work.lease.run_id, work.orphaned, work.lease.attempt) == (run_id, death, death + 1)
    assert waits == [1, 2, 4]
    queue.sql("UPDATE evaluation_runs SET lease_expires_at = now(), claim_after = now() WHERE id = %s", run_id)
    assert queue.claimed("after a lapse that nobody noticed").orphaned == 4


def test_a_run_that_was_given_back_is_no_orphan_and_has_no_job_of_the_attempt_before(queue: Queue) -> None:
    queue.add(queue.organizations[0])
    work = queue.claimed("one that stops")
    queue.act(work.organization_id, give_back, work.lease)
    returned = queue.claimed("the next")
    assert (returned.orphaned, returned.lease.attempt) == (0, work.lease.attempt + 2)


def test_a_lease_that_is_handed_over_is_lost_to_who_had_it(queue: Queue) -> None:
    [run_id] = queue.add(queue.organizations[0])
    work = queue.claimed("supervisor")
    driver = queue.act(work.organization_id, hand_over, work.lease, "driver")
    for write in (lambda s, lease: close(s, lease, "completed"), renew, give_back, abandon):
        with pytest.raises(LeaseLost):
            queue.act(work.organization_id, write, work.lease)
    queue.act(work.organization_id, renew, driver)
    queue.act(work.organization_id, note_waiting, driver, "4 GPUs")
    assert queue.run(run_id)["metadata"]["waiting_for"] == "4 GPUs"
    queue.act(work.organization_id, note_waiting, driver, "")
    assert "waiting_for" not in queue.run(run_id)["metadata"]
    assert queue.act(work.organization_id, held_at, run_id, 1) == driver
    assert queue.act(work.organization_id, held_at, run_id, 0) is None


def test_a_failed_run_is_resumed_as_if_nobody_had_died(queue: Queue) -> None:
    organization = queue.organizations[0]
    [run_id] = queue.add(organization, status="failed")
    queue.sql("UPDATE evaluation_runs SET orphaned = 6, attempt = 7 WHERE id = %s", run_id)
    assert queue.act(organization, request_resume, run_id) == "pending"
    work = queue.claimed()
    assert (work.lease.run_id, work.orphaned, work.kind) == (run_id, 0, "run")
    for ask in (request_resume, request_rescore):
        with pytest.raises(LeaseHeld):
            queue.act(organization, ask, run_id)


def test_what_is_asked_of_a_completed_run_is_work_that_leaves_its_status(queue: Queue) -> None:
    organization = queue.organizations[0]
    [run_id] = queue.add(organization, status="completed")
    assert queue.act(organization, request_resume, run_id) == "completed"
    assert queue.claim() is None  # nothing has failed that may be asked again
    queue.sql(
        "INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, input_data, "
        "actual_output, success, is_retryable) VALUES (%s, %s, %s, 0, '1', '1', false, true)",
        *(new_id(), organization, run_id),
    )
    for ask, kind in ((request_resume, "resume"), (request_rescore, "rescore")):
        assert queue.act(organization, ask, run_id) == "completed"
        work = queue.claimed()
        assert (work.lease.run_id, work.kind, queue.run(run_id)["status"]) == (run_id, kind, "completed")
        queue.act(organization, close, work.lease, "failed")
        assert (queue.run(run_id)["status"], queue.run(run_id)["requested_work"]) == ("completed", None)
        assert queue.claim() is None
    queue.act(organization, request_rescore, run_id)
    with pytest.raises(InvalidTransition, match="rescore"):
        queue.act(organization, request_resume, run_id)
    assert queue.act(organization, request_cancel, run_id) == "completed"
    assert queue.claim() is None


def test_a_run_that_waits_for_its_next_start_is_cancelled_at_once(queue: Queue) -> None:
    organization = queue.organizations[0]
    [run_id] = queue.add(organization)
    work = queue.claimed()
    queue.act(organization, abandon, work.lease)
    assert queue.act(organization, request_cancel, run_id) == "cancelled"
    assert queue.claim() is None


def test_a_claim_among_ten_thousand_pending_runs_scans_no_table(queue: Queue) -> None:
    for organization in queue.organizations:
        queue.add(organization, 2500)
    queue.sql("ANALYZE evaluation_runs")
    seconds = []
    with psycopg.connect(service_login(queue.url)) as connection:
        for _ in range(50):
            started = time.monotonic()
            assert connection.execute("SELECT * FROM evalservice_claim_work('me', 15)").fetchone()
            seconds.append(time.monotonic() - started)
        scans = connection.execute(
            "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'evaluation_runs'"
        ).fetchone()
        connection.rollback()
    queue.sql("DELETE FROM evaluation_runs WHERE status = 'pending'")
    assert scans == (0,)
    assert sorted(seconds)[25] < 0.05, seconds


def test_the_queue_says_what_waits_how_long_and_what_is_driven_over_all_organizations(queue: Queue) -> None:
    def state() -> QueueState:
        with transaction(queue.engine) as session:
            return queue_state(session)

    assert state() == QueueState(0, 0.0, 0)
    for organization in queue.organizations[:2]:
        queue.add(organization, 2)
    queue.sql("UPDATE evaluation_runs SET updated_at = now() - interval '1 minute' WHERE status = 'pending'")
    backing_off = queue.add(queue.organizations[2])
    queue.sql("UPDATE evaluation_runs SET claim_after = now() + interval '1 hour' WHERE id = ANY(%s)", backing_off)
    driven = queue.claimed()
    found = state()
    assert (found.waiting, found.driven) == (4, 1)
    assert 60 <= found.oldest_seconds < 90
    lapsed = "UPDATE evaluation_runs SET lease_expires_at = now() - interval '5 minutes' WHERE id = %s"
    queue.sql(lapsed, driven.lease.run_id)
    orphaned = state()
    assert (orphaned.waiting, orphaned.driven) == (5, 0)
    assert 300 <= orphaned.oldest_seconds < 330

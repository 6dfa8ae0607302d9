"""Aggregates follow the rows: whatever is written, in whatever order, a roll-up gives what a recomputation would."""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from evalservice.database import make_engine, set_organization, tenant_transaction
from evalservice.metrics import rollups
from evalservice.metrics.periods import metric_key, period_end, period_start
from evalservice.metrics.queries import metric_series, models_by_metric
from evalservice.metrics.rollups import due_organizations, roll_up
from evalservice.statistics.sketches import Summary
from evalservice.tables import PERIOD_TYPES, Model, new_id
from tests.conftest import wait_until
from tests.postgres import fill, fresh_database, service_login

BENCHMARK = uuid.UUID("01970000-0000-7000-8000-000000000001")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """A database with an organization, as the service sees it."""

    url: str
    engine: Engine
    organization: uuid.UUID

    def model(self) -> uuid.UUID:
        """A model without measurements."""
        with tenant_transaction(self.engine, self.organization) as session:
            name = new_id().hex
            common = {"organization_id": self.organization, "name": name, "display_name": name}
            model = Model(**common, platform="openai", platform_model_id=name)
            session.add(model)
            session.flush()
            return model.id

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """SQL as the owner."""
        with psycopg.connect(self.url) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def measure(self, model: uuid.UUID, *rows: Row) -> None:
        """Store measurements in one statement, as the service."""
        with psycopg.connect(service_login(self.url)) as connection:
            connection.execute("SELECT set_config('evalservice.organization_id', %s, true)", (str(self.organization),))
            connection.execute(
                "INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, benchmark_id, metadata,"
                " timestamp) SELECT *  FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::float8[],"
                " %s::uuid[], %s::jsonb[], %s::timestamptz[])",
                (
                    [row.id for row in rows],
                    [self.organization] * len(rows),
                    [model] * len(rows),
                    [row.metric_type for row in rows],
                    [row.value for row in rows],
                    [row.benchmark for row in rows],
                    [Jsonb({} if row.name is None else {"name": row.name}) for row in rows],
                    [row.timestamp for row in rows],
                ),
            )

    def roll_up(self, **options: int) -> int:
        """Roll up and commit."""
        with tenant_transaction(self.engine, self.organization) as session:
            return roll_up(session, self.organization, **options)

    def aggregates(self, model: uuid.UUID) -> dict[tuple[str, datetime, datetime], tuple[int, dict[str, Summary]]]:
        """A model's aggregates by period."""
        rows = self.execute(
            "SELECT period_type, period_start, period_end, sample_count, metrics FROM metric_aggregations "
            "WHERE model_id = %s",
            model,
        )
        return {
            (kind, start, end): (count, {key: Summary.from_json(stored) for key, stored in metrics.items()})
            for kind, start, end, count, metrics in rows
        }


@dataclass(frozen=True)
class Row:
    """A measurement."""

    id: uuid.UUID
    metric_type: str
    value: float
    timestamp: datetime
    name: str | None = None
    benchmark: uuid.UUID | None = None

    @property
    def key(self) -> str:
        return metric_key(self.metric_type, self.name if self.metric_type == "custom" else None, self.benchmark)


def row(value: float, moment: datetime = NOON, metric_type: str = "accuracy", **fields: Any) -> Row:
    return Row(new_id(), metric_type, value, moment, **fields)


def from_scratch(rows: list[Row]) -> dict[tuple[str, datetime, datetime], tuple[int, dict[str, Summary]]]:
    """What the aggregates of these rows are."""
    values: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in rows:
        for period in PERIOD_TYPES:
            start = period_start(each.timestamp, period)  # type: ignore[arg-type]
            values[period, start, period_end(start, period)][each.key].append(each.value)  # type: ignore[arg-type]
    return {
        period: (sum(map(len, series.values())), {key: Summary.of(given) for key, given in series.items()})
        for period, series in values.items()
    }


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for the last digits of sums, which depend on the order of the rows."""
    assert found.keys() == expected.keys()
    for period, (count, series) in expected.items():
        assert found[period][0] == count, period
        assert found[period][1].keys() == series.keys(), period
        for key, summary in series.items():
            other = found[period][1][key]
            assert (other.n, other.unusable, other.min, other.max, other.sketch) == (
                summary.n, summary.unusable, summary.min, summary.max, summary.sketch,
            ), (period, key)  # fmt: skip
            assert other.sum_squares == pytest.approx(summary.sum_squares, rel=1e-12)
            assert other.sum == pytest.approx(summary.sum, abs=1e-12 * math.sqrt(summary.sum_squares * summary.n))


@pytest.fixture(scope="module")
def world(postgres_server: str, template_database: str) -> Iterator[World]:
    with fresh_database(postgres_server, template=template_database) as url:
        engine = make_engine(service_login(url))
        organization = fill(url)
        with tenant_transaction(engine, organization) as session:
            roll_up(session, organization)
        yield World(url, engine, organization)
        engine.dispose()


MOMENTS = st.datetimes(datetime(2025, 12, 27), datetime(2026, 1, 3)).map(lambda moment: moment.replace(tzinfo=UTC))
ROWS = st.builds(
    Row,
    st.builds(new_id),
    st.sampled_from(["accuracy", "latency_p50", "custom"]),
    st.floats(allow_nan=True, allow_infinity=True),
    MOMENTS,
    st.sampled_from([None, "f1", "pass@1", 'a"b\\c:', ""]),
    st.sampled_from([None, BENCHMARK]),
)
STEPS = st.lists(
    st.lists(ROWS, min_size=1, max_size=80)
    | st.tuples(st.just("delete"), st.integers(2, 3))
    | st.tuples(st.just("move"), MOMENTS)
    | st.tuples(st.just("roll up"), st.integers(1, 30)),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_is_written_a_roll_up_gives_what_a_recomputation_would(world: World, steps: list[Any]) -> None:
    model = world.model()
    rows: dict[uuid.UUID, Row] = {}
    for step in steps:
        if isinstance(step, list):
            world.measure(model, *step)
            rows |= {each.id: each for each in step}
        elif step[0] == "delete":
            gone = list(rows)[:: step[1]]
            world.execute("DELETE FROM model_metrics WHERE id = ANY(%s)", gone)
            rows = {key: each for key, each in rows.items() if key not in gone}
        elif step[0] == "move":
            moved = list(rows)[::3]
            world.execute("UPDATE model_metrics SET timestamp = %s WHERE id = ANY(%s)", step[1], moved)
            for key in moved:
                rows[key] = Row(**{**vars(rows[key]), "timestamp": step[1]})
        else:
            world.roll_up(limit=step[1])
    while world.roll_up(limit=50):
        pass
    assert_same(world.aggregates(model), from_scratch(list(rows.values())))


def test_hours_read_whole_and_model_by_model_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.model()
    rows = [row(math.exp(i % 97), NOON + timedelta(seconds=i), name=None) for i in range(200)]
    results = []
    for whole in (True, False):
        monkeypatch.setattr(rollups, "_most_models", lambda *_, answer=whole: answer)
        world.execute("DELETE FROM model_metrics WHERE model_id = %s", model)
        world.measure(model, *rows)
        world.roll_up()
        results.append(world.aggregates(model))
    assert results[0].keys() == results[1].keys()
    for found in results:
        assert_same(found, from_scratch(rows))


def test_doing_it_again_changes_nothing_and_finds_nothing_due(world: World) -> None:
    model = world.model()
    world.measure(model, row(0.5), row(0.7, NOON - timedelta(days=400)))
    assert world.roll_up() == 2
    before = world.execute("SELECT id, metrics FROM metric_aggregations WHERE model_id = %s ORDER BY id", model)
    assert world.roll_up() == 0
    world.execute(
        "INSERT INTO metric_rollups_due (organization_id, model_id, hour) VALUES (%s, %s, %s)",
        world.organization, model, NOON,
    )  # fmt: skip
    assert world.roll_up() == 1
    assert before == world.execute("SELECT id, metrics FROM metric_aggregations WHERE model_id = %s ORDER BY id", model)


def test_a_roll_up_that_dies_leaves_what_was_due(world: World) -> None:
    model = world.model()
    world.measure(model, row(0.5))
    with Session(world.engine) as session, session.begin() as transaction:
        set_organization(session, world.organization)
        assert roll_up(session, world.organization) == 1
        transaction.rollback()
    assert world.aggregates(model) == {}
    assert world.roll_up() == 1


def test_a_writer_waits_for_no_roll_up_and_what_it_writes_stays_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.model()
    first, committed, open_still = row(0.5), row(0.7), row(0.9)
    store = rollups._store
    world.measure(model, first)

    with psycopg.connect(world.url) as writer:
        insert = (
            "INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, timestamp) "
            "VALUES (%s, %s, %s, 'accuracy', 0.9, %s)"
        )
        writes: list[Callable[[], Any]] = [
            lambda: world.measure(model, committed),
            lambda: writer.execute(insert, (open_still.id, world.organization, model, NOON)),
        ]

        def interrupted(session: Session, organization: uuid.UUID, period: Any, *rest: Any, **more: Any) -> None:
            store(session, organization, period, *rest, **more)
            if period == "hour" and writes:
                writes.pop(0)()

        monkeypatch.setattr(rollups, "_store", interrupted)
        assert world.roll_up() == 1
        assert world.roll_up() == 1, "the first roll-up took back a mark that it had not seen"
    assert world.roll_up() == 1, "the second took back the mark of a writer that had not committed"
    assert_same(world.aggregates(model), from_scratch([first, committed, open_still]))


def test_roll_ups_at_once_lose_none_of_each_others_hours(world: World) -> None:
    model = world.model()
    rows = [row(0.5, NOON), row(0.7, NOON + timedelta(hours=1))]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    world.measure(model, rows[0])
    with ThreadPoolExecutor() as pool:
        with tenant_transaction(world.engine, world.organization) as session:
            assert roll_up(session, world.organization) == 1
            world.measure(model, rows[1])
            world.execute("UPDATE metric_rollups_due SET due_since = '2000-01-01' WHERE hour = %s", rows[1].timestamp)
            other = pool.submit(world.roll_up, limit=1)
            wait_until(lambda: world.execute(waiting) != [(0,)], what="the other roll-up waits")
        assert other.result() == 1
    assert_same(world.aggregates(model), from_scratch(rows))


def test_a_model_and_an_organization_are_deleted_with_what_they_measured(world: World) -> None:
    model = world.model()
    world.measure(model, row(0.5))
    world.execute("DELETE FROM evaluation_models WHERE id = %s", model)
    assert world.execute("SELECT count(*) FROM metric_rollups_due WHERE model_id = %s", model) == [(0,)]
    gone = new_id()
    world.execute("INSERT INTO organizations (id, slug, name) VALUES (%s, %s, '')", gone, gone.hex)
    other = World(world.url, world.engine, gone)
    other.measure(other.model(), row(0.5), row(0.6))
    other.roll_up()
    world.execute("DELETE FROM organizations WHERE id = %s", gone)
    assert world.execute("SELECT count(*) FROM metric_rollups_due WHERE organization_id = %s", gone) == [(0,)]


def test_the_organizations_that_are_due_are_known_to_who_is_in_none(world: World) -> None:
    world.measure(world.model(), row(0.5))
    with Session(world.engine) as session:
        assert world.organization in due_organizations(session)
    world.roll_up()
    with Session(world.engine) as session:
        assert world.organization not in due_organizations(session)


def test_a_moment_outside_of_the_calendar_is_in_no_aggregate(world: World) -> None:
    model = world.model()
    world.measure(model, row(0.5))
    world.execute("UPDATE model_metrics SET timestamp = 'infinity' WHERE model_id = %s", model)
    assert world.roll_up() == 1
    assert world.aggregates(model) == {}


def test_a_series_merges_benchmarks_or_shows_one(world: World) -> None:
    model = world.model()
    tomorrow = NOON + timedelta(days=1)
    world.measure(
        model,
        row(100.0, metric_type="latency_p50", benchmark=BENCHMARK),
        row(300.0, metric_type="latency_p50"),
        row(500.0, tomorrow, metric_type="latency_p50", benchmark=BENCHMARK),
        row(7.0, metric_type="custom", name="pass@1"),
        row(9.0, metric_type="custom", name="pass"),
    )
    world.roll_up()
    with tenant_transaction(world.engine, world.organization) as session:

        def means(metric_type: str, period: Any = "day", **which: Any) -> list[float | None]:
            points = metric_series(
                session, model, metric_type, period=period, start=NOON, end=tomorrow + timedelta(hours=1), **which
            )
            return [point.statistics.mean for point in points]

        assert means("latency_p50") == [200.0, 500.0]
        assert means("latency_p50", benchmark_id=BENCHMARK) == [100.0, 500.0]
        assert means("latency_p50", period="week") == [300.0]
        assert (means("custom", name="pass@1"), means("custom", name="pass"), means("custom")) == ([7.0], [9.0], [])


def test_models_stand_side_by_side_by_their_mean(world: World) -> None:
    good, better = world.model(), world.model()
    moment = NOON + timedelta(days=40)
    world.measure(good, row(0.5, moment), row(0.7, moment))
    world.measure(better, row(0.9, moment))
    world.roll_up()
    with tenant_transaction(world.engine, world.organization) as session:
        rows = models_by_metric(session, "accuracy", period="day", start=moment, end=moment + timedelta(hours=1))
    assert [(each.model_id, each.statistics.n) for each in rows] == [(better, 1), (good, 2)]
    assert rows[1].statistics.p95 == pytest.approx(0.7, rel=0.01)

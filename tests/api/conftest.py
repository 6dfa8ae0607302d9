"""The application over HTTP: a real server on loopback, real Postgres, two organizations with keys of every role."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from evalservice.api import create_app
from evalservice.catalog.model_config import OPENAI_URL
from evalservice.database import make_engine, tenant_transaction
from evalservice.organizations.identity import hash_of, new_key
from evalservice.organizations.secrets import SecretBox
from evalservice.tables import ApiKey, Model
from evalservice.web.context import Wiring
from tests.conftest import wait_until
from tests.postgres import as_organization, fill, fresh_database, service_login

RECORDS = [{"input": f"What is {i} plus {i}?", "expected_output": str(2 * i)} for i in range(5)]


@dataclass(frozen=True)
class Tenant:
    """An organization with a row in every table, and the secret of a key of one of its members by role."""

    organization: uuid.UUID
    keys: dict[str, str]


@dataclass(frozen=True)
class Served:
    """A running application and its two tenants."""

    url: str
    database: str
    wiring: Wiring
    data_root: Path
    mine: Tenant
    theirs: Tenant

    def client(self, tenant: Tenant | None = None, role: str = "owner", **options: Any) -> httpx.Client:
        """A client with a key of the tenant's; without a tenant one without a key."""
        headers = {"Authorization": f"Bearer {tenant.keys[role]}"} if tenant is not None else {}
        # Without TLS there is nothing to verify, and to read the authorities' certificates takes 50 ms of a CPU.
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False, **options)


def a_tenant(database: str, engine: Any) -> Tenant:
    organization = fill(database)
    keys = {}
    for role in ("owner", "admin", "member", "viewer"):
        user, keys[role] = uuid.uuid4(), new_key()
        with as_organization(database, organization) as connection:
            connection.execute(
                "SELECT evalservice_add_member(%s, %s, '', '', %s)", (user, f"{role}-{user.hex[:8]}", role)
            )
            connection.commit()
        with tenant_transaction(engine, organization) as session:
            row = ApiKey(
                organization_id=organization, user_id=user, name=role, prefix="evs_", key_hash=hash_of(keys[role])
            )
            session.add(row)
    return Tenant(organization, keys)


def _check_run(model: Model, *_: object) -> None:
    if model.name.startswith("faulty"):
        raise ZeroDivisionError("a fault of ours, with a secret in it")


@pytest.fixture(scope="module")
def served(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The application on a port of its own, as the service's login role."""
    data_root = tmp_path_factory.mktemp("data")
    with fresh_database(postgres_server, template=template_database) as database:
        engine = make_engine(service_login(database), pool_size=20)
        wiring = Wiring(
            engine=engine,
            box=SecretBox(b"a key of the tests"),
            data_root=str(data_root),
            platforms={"openai": OPENAI_URL, "vllm": "", "transformers": ""},
            check_run=_check_run,
            private_addresses=False,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(wiring), port=port, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, what="the server")
        yield Served(
            f"http://127.0.0.1:{port}",
            database,
            wiring,
            data_root,
            a_tenant(database, engine),
            a_tenant(database, engine),
        )
        server.should_exit = True
        thread.join()
        engine.dispose()


@pytest.fixture
def owner(served: Served) -> Iterator[httpx.Client]:
    """A client of the first organization's owner."""
    with served.client(served.mine) as client:
        yield client


def unique(stem: str) -> str:
    """A name that nothing has."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"


def created(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """POST that must succeed."""
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def a_dataset(client: httpx.Client) -> dict[str, Any]:
    """A small dataset."""
    return created(client, "/v1/datasets", {"name": unique("sums"), "test_cases": RECORDS})


def a_model(client: httpx.Client, **values: Any) -> dict[str, Any]:
    """A hosted model."""
    name = unique("model")
    body = {"name": name, "platform": "openai", "model_id": name, "base_url": "https://llm.example.com/v1"}
    return created(client, "/v1/models", {**body, **values})


def a_benchmark(client: httpx.Client, dataset: str) -> dict[str, Any]:
    """A benchmark over a dataset."""
    criteria = {"scorers": ["numeric_match"]}
    body = {"name": unique("benchmark"), "dataset": dataset, "category": "qa", "evaluation_criteria": criteria}
    return created(client, "/v1/benchmarks", body)


@pytest.fixture
def service(owner: httpx.Client) -> Any:
    from tests.api.importing import Service  # it needs what is above

    return Service(owner)

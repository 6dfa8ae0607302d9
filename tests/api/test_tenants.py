"""Two organizations behind one API: whatever the OpenAPI document has is tried with the other one's key and ids.

A new route is covered without anyone adding it here: the cases come from the document, the ids from the tables.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from evalservice.api import create_app
from evalservice.tables import metadata
from evalservice.web.context import Wiring
from tests.api.conftest import Served, a_dataset, a_model, created, unique

TABLE_OF = {
    "model": "evaluation_models",
    "dataset": "evaluation_datasets",
    "benchmark": "benchmark_suites",
    "run": "evaluation_runs",
    "ab_test_id": "ab_tests",
    "alert_id": "regression_alerts",
    "experiment_id": "experiments",
    "template_id": "experiment_templates",
    "selection_id": "model_selection_logs",
    "policy": "selection_policies",
    "organization_id": "organizations",
    "key_id": "api_keys",
    "credential_id": "provider_credentials",
    "user_id": "users",
    "webhook_id": "webhooks",
    "name": "",
}
"""Which table a path parameter names a row of. A new one without a line here fails the test below."""


def _document() -> dict[str, Any]:
    parts: Any = None
    return create_app(Wiring(engine=parts, box=parts, data_root="", platforms={}, check_run=parts)).openapi()


DOCUMENT = _document()
OPERATIONS = [
    (method.upper(), path)
    for path, operations in DOCUMENT["paths"].items()
    if path.startswith("/v1/")
    for method in operations
]
REQUIRED = {
    path: [each["name"] for each in DOCUMENT["paths"][path]["get"].get("parameters", ()) if each["required"]]
    for method, path in OPERATIONS
    if method == "GET" and "{" not in path
}
"""What a query must name."""
EARLY = "/v1/selections/{selection_id}/outcome"
"""An outcome may come before its decision is stored, so an id that is not known is no error there."""
WITH_IDS = [
    (method, path)
    for method, path in OPERATIONS
    if "{" in path and not path.endswith("dataset-files/{name}") and path != EARLY
]


def test_every_path_parameter_is_known_to_these_tests() -> None:
    assert {name for _, path in OPERATIONS for name in re.findall(r"{(\w+)}", path)} <= TABLE_OF.keys()


def _their_path(served: Served, path: str) -> str:
    def theirs(match: re.Match[str]) -> str:
        table = TABLE_OF[match[1]]
        column = "id" if table == "organizations" else "organization_id"
        query = f"SELECT id FROM {table} WHERE {column} = %s LIMIT 1"
        if table == "users":
            query = "SELECT user_id FROM memberships WHERE organization_id = %s LIMIT 1"
        with psycopg.connect(served.database) as connection:
            row = connection.execute(query.encode(), (served.theirs.organization,)).fetchone()
        assert row is not None
        return str(row[0])

    return re.sub(r"{(\w+)}", theirs, path)


def _a_body(method: str, path: str) -> Any:
    """A body that fits the operation's schema: its own example, else an empty object."""
    operation = DOCUMENT["paths"][path][method.lower()]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    examples = DOCUMENT["components"]["schemas"].get(name, {}).get("examples")
    required = {"MemberChanges": {"role": "viewer"}, "CredentialChanges": {"secret": "s"}}
    return examples[0] if examples else required.get(name, {})


def _state(database: str) -> dict[str, Any]:
    """What every table holds of everybody, as the owner sees it."""
    with psycopg.connect(database) as connection:
        return {
            table: connection.execute(
                f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} AS t".encode()
            ).fetchone()
            for table in metadata.tables
            if table not in ("api_keys", "idempotency_keys")  # a key's last use is noted, of one's own
        }


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: str(value))
def test_no_route_opens_without_a_key(served: Served, method: str, path: str) -> None:
    url = re.sub(r"{(\w+)}", "00000000-0000-7000-8000-000000000001", path)
    with served.client() as client:
        for headers in ({}, {"Authorization": "Bearer evs_forged"}, {"Authorization": "Basic YTpi"}):
            answer = client.request(method, url, headers=headers, json=_a_body(method, path))
            assert answer.status_code == 401, (headers, answer.text)


@pytest.mark.parametrize(("method", "path"), WITH_IDS, ids=lambda value: str(value))
def test_anothers_id_is_as_if_it_did_not_exist(served: Served, method: str, path: str) -> None:
    url, before = _their_path(served, path), _state(served.database)
    with served.client(served.mine) as client:
        answer = client.request(method, url, json=_a_body(method, path))
    assert answer.status_code == 404, answer.text
    assert _state(served.database) == before


def test_an_outcome_of_anothers_selection_changes_nothing_of_theirs(served: Served) -> None:
    with served.client(served.mine) as client:
        assert client.post(_their_path(served, EARLY), json={"success": False}).status_code == 200
    with psycopg.connect(served.database) as connection:
        query = "SELECT success FROM selection_outcomes WHERE organization_id = %s"
        assert False not in [row[0] for row in connection.execute(query, (served.theirs.organization,))]


@pytest.mark.parametrize("path", [path for path, names in REQUIRED.items() if set(names) & TABLE_OF.keys()])
def test_anothers_id_in_a_query_is_as_if_it_did_not_exist(served: Served, path: str) -> None:
    given = {name: [_their_path(served, f"{{{name}}}")] * 2 if name in TABLE_OF else "x" for name in REQUIRED[path]}
    with served.client(served.mine) as client:
        assert client.get(path, params=given).status_code == 404


def test_lists_hold_the_callers_own_rows_only(served: Served) -> None:
    theirs = _ids_of(served, served.theirs.organization)
    with served.client(served.mine) as client:
        for method, path in OPERATIONS:
            if method == "GET" and "{" not in path and not REQUIRED[path]:
                answer = client.get(path, params={"limit": 1000})
                assert answer.status_code == 200, (path, answer.text)
                assert not theirs & set(re.findall(r"[0-9a-f-]{36}", answer.text)), path


def _ids_of(served: Served, organization: Any) -> set[str]:
    found: set[str] = {str(organization)}
    with psycopg.connect(served.database) as connection:
        for name, table in metadata.tables.items():
            if "organization_id" in table.c and "id" in table.c:
                query = f"SELECT id FROM {name} WHERE organization_id = %s"
                found |= {str(row[0]) for row in connection.execute(query.encode(), (organization,))}
    return found


def test_anothers_ids_in_a_body_are_not_found(served: Served) -> None:
    with served.client(served.theirs) as them:
        model = a_model(them, api_key="sk-theirs")
    body = {"name": unique("x"), "platform": "openai", "model_id": "x", "base_url": "https://llm.example.com/v1"}
    with served.client(served.mine) as client:
        for field, value in (("parent", model["id"]), ("credential_id", model["credential_id"])):
            answer = client.post("/v1/models", json={**body, field: value})
            assert answer.status_code == 404, answer.text


def test_anothers_idempotency_key_and_cursor_give_nothing_of_theirs(served: Served) -> None:
    key = unique("shared")
    with served.client(served.theirs) as them, served.client(served.mine) as me:
        first = created(them, "/v1/experiments", {"name": "theirs"}, **{"Idempotency-Key": key})
        created(them, "/v1/experiments", {"name": "theirs too"})
        mine = created(me, "/v1/experiments", {"name": "mine"}, **{"Idempotency-Key": key})
        assert mine["id"] != first["id"]
        cursor = them.get("/v1/experiments", params={"limit": 1}).json()["next_cursor"]
        found = me.get("/v1/experiments", params={"cursor": cursor}).json()["items"]
        assert not {item["id"] for item in found} & _ids_of(served, served.theirs.organization)


def test_the_service_connects_as_a_role_that_row_level_security_binds(served: Served) -> None:
    with served.wiring.engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT rolname, rolsuper, rolbypassrls, EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid) "
            "FROM pg_roles WHERE rolname = current_user"
        ).one()
    assert tuple(row) == ("evalservice_service", False, False, False)


def test_what_fails_inside_is_told_without_folders_and_hosts(served: Served) -> None:
    with served.client(served.mine) as client:
        dataset = a_dataset(client)
        for index in served.data_root.rglob("index.json"):
            index.unlink()
        answer = client.get(f"/v1/datasets/{dataset['id']}/test-cases")
    assert answer.status_code == 507
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(served.data_root) not in answer.text
    assert answer.json()["request_id"]

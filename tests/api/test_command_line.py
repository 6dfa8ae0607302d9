"""The command line over HTTP: what it does on this machine it does at a service, with the same words."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import RECORDS, Served, a_model, unique
from tests.conftest import Cli


@pytest.fixture
def remote(served: Served, evalservice_home: Path) -> Cli:
    """The command line of the first organization's owner."""
    return Cli(evalservice_home, {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": served.mine.keys["owner"]})


def test_a_benchmark_is_registered_from_a_file_and_a_run_of_it_asked_for(
    remote: Cli, served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    name = unique("sums")
    dataset = remote.ok("datasets", "add", name, file)
    assert (dataset["total_test_cases"], dataset["file_path"]) == (len(RECORDS), str(file))
    assert not list(served.data_root.rglob("uploads/*"))
    assert remote.ok("datasets", "show", name)["first_test_case"]["input"] == RECORDS[0]["input"]
    options = ("--name", name, "--dataset", name, "--category", "qa", "--scorer", "numeric_match")
    assert remote.ok("benchmarks", "add", *options)["dataset"] == name
    with served.client(served.mine) as client:
        model = a_model(client)
    run = remote.ok("run", "--model", model["name"], "--benchmark", name, "--no-wait", "--limit", 3)
    assert run["status"] == "pending"
    assert [item["id"] for item in remote.ok("runs", "list", "--benchmark", name)["items"]] == [run["id"]]
    assert remote.ok("runs", "cancel", run["id"])["status"] == "cancelled"
    assert remote.ok("runs", "export", run["id"], "--output", tmp_path / "rows.csv", "--format", "csv")["rows"] == 0


def test_bad_records_of_an_uploaded_file_are_told_by_line_and_nothing_stays(
    remote: Cli, served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"input": "a"}\n{"question": "b"}\n')
    ended = remote("datasets", "add", unique("bad"), file)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[:2] == [
        f"error: {file}: 1 bad record",
        "  line 2, input: missing; it is the test case's input",
    ]
    assert not list(served.data_root.rglob("uploads/*"))


def test_a_key_is_made_rotated_and_revoked_by_name(remote: Cli) -> None:
    name = unique("nightly")
    made = remote("keys", "create", name, "--scope", "read")
    assert made.code == 0
    key = made.out.strip()
    assert remote("datasets", "list", EVALSERVICE_API_KEY=key).code == 0
    refused = remote("keys", "list", EVALSERVICE_API_KEY=key)
    assert (refused.code, "needs the permission 'admin'" in refused.err) == (1, True)
    assert remote("keys", "rotate", name, "--grace-seconds", "0").code == 0
    assert remote("datasets", "list", EVALSERVICE_API_KEY=key).code == 1
    assert remote.ok("keys", "revoke", name)["revoked_at"] is not None


def test_a_member_is_added_promoted_and_removed(remote: Cli) -> None:
    name = unique("ada")
    assert remote.ok("members", "add", name, "--role", "viewer")["role"] == "viewer"
    assert remote.ok("members", "role", name, "admin")["role"] == "admin"
    assert remote.ok("members", "remove", name)["removed"]
    assert "does not exist" in remote("members", "remove", name).err


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"EVALSERVICE_API_KEY": "evs_" + "0" * 43}, 1, "the API key is unknown, revoked or expired"),
        ({"EVALSERVICE_API_KEY": ""}, 2, "EVALSERVICE_API_KEY: None is not valid"),
        ({"EVALSERVICE_URL": "ftp://here"}, 2, "EVALSERVICE_URL: 'ftp://here' is not valid"),
        ({"EVALSERVICE_URL": "http://127.0.0.1:1"}, 1, "http://127.0.0.1:1 does not answer"),
    ],
)
def test_what_is_wrong_with_the_way_to_the_service_is_said_in_one_line(
    remote: Cli, environment: dict[str, str], code: int, said: str
) -> None:
    ended = remote("models", "list", **environment)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (code, "", 1)
    assert said in ended.err


def test_what_needs_the_owners_login_is_refused_with_a_service_to_talk_to(remote: Cli) -> None:
    ended = remote("organizations", "create", "acme", "--owner", "bob")
    assert (ended.code, "EVALSERVICE_URL" in ended.err) == (2, True)


def test_an_operator_makes_an_organization_whose_owner_sees_nothing_of_others(cli: Cli, served: Served) -> None:
    slug = f"acme-{uuid.uuid4().hex[:8]}"
    operator = Cli(cli.home, {"DATABASE_URL": served.database})
    with_service_role = served.wiring.engine.url.render_as_string(hide_password=False)
    operator.environment["EVALSERVICE_SERVICE_DATABASE_URL"] = with_service_role.replace("+psycopg", "")
    made: dict[str, Any] = operator.ok(
        "organizations", "create", slug, "--owner", f"bob-{slug}", "--max-concurrent-runs", 2
    )
    again = operator("organizations", "create", slug, "--owner", f"carl-{slug}")
    assert (again.code, again.err) == (1, f"error: slug: '{slug}' is taken\n")
    bob = Cli(cli.home, {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": made["api_key"]})
    assert [(o["slug"], o["max_concurrent_runs"]) for o in bob.ok("organizations", "list")["items"]] == [(slug, 2)]
    assert bob.ok("models", "list") == {"items": []}

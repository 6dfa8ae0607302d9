"""Tenant isolation is the database's job: raw SQL as the service's login, on every table of the live catalogue.

Everything runs twice, on a database whose owner is a superuser and on one whose owner may do nothing special, because
FORCE ROW LEVEL SECURITY means something to the second only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

import migrations
from evalservice.tables import DEFAULT_ORGANIZATION_ID, LOCAL_USER_ID, metadata, new_id
from tests.postgres import (  # noqa: F401
    as_organization,
    fill,
    fresh_database,
    postgres_server,
    service_login,
    template_database,
    with_login,
)

TENANT_TABLES = sorted(name for name, table in metadata.tables.items() if "organization_id" in table.c)
ISOLATED_TABLES = sorted({*TENANT_TABLES, "organizations", "users"})
REFUSED = (errors.InsufficientPrivilege, errors.ForeignKeyViolation)
TAKEN = (*REFUSED, errors.UniqueViolation)
"""A link that exists already on the other side: refused as well, and told only to who knew both ids."""


@dataclass(frozen=True)
class World:
    """A database with two organizations that have a row in every table."""

    url: str
    mine: uuid.UUID
    theirs: uuid.UUID


@pytest.fixture(scope="module", params=["owned by a superuser", "owned by a plain login"])
def world(request: pytest.FixtureRequest, postgres_server: str, template_database: str) -> Iterator[World]:  # noqa: F811
    if request.param == "owned by a superuser":
        with fresh_database(postgres_server, template=template_database) as url:
            yield World(url, fill(url), fill(url))
        return
    name = f"owner_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
    with fresh_database(postgres_server, owner=name) as plain:
        url = with_login(plain, name)
        migrations.upgrade(url)
        yield World(url, fill(url), fill(url))
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {name}".encode())


def one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    """The first value of the first row, None without one."""
    row = connection.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def organization_column(table: str) -> str:
    """What says whose a row is; for users it is a membership."""
    return {
        "organizations": "id",
        "users": "(SELECT min(m.organization_id::text)::uuid FROM memberships AS m WHERE m.user_id = users.id)",
    }.get(table, "organization_id")


def a_row(world: World, table: str, organization: uuid.UUID) -> dict[str, Any]:
    """A row of an organization, as the owner sees it."""
    with psycopg.connect(world.url) as connection:
        cursor = connection.execute(
            f"SELECT * FROM {table} WHERE {organization_column(table)} = %s LIMIT 1".encode(), (organization,)
        )
        row = cursor.fetchone()
        assert row is not None, f"fill() puts nothing into {table}"
        assert cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))


def same_row(table: str, row: dict[str, Any]) -> tuple[str, list[Any]]:
    """A WHERE clause for the row's primary key."""
    key = [column.name for column in metadata.tables[table].primary_key]
    return " AND ".join(f"{column} = %s" for column in key), [row[column] for column in key]


def insert(connection: psycopg.Connection[Any], table: str, row: dict[str, Any]) -> None:
    values = {
        column: psycopg.types.json.Jsonb(value) if is_json(table, column) and value is not None else value
        for column, value in row.items()
    }
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        ),
        list(values.values()),
    )


def is_json(table: str, column: str) -> bool:
    return "JSON" in str(metadata.tables[table].c[column].type)


def foreign_key_columns(table: str) -> list[tuple[str, str]]:
    """Each foreign key's own column and its parent, the one to the organization left out."""
    return [
        (constraint.column_keys[-1], constraint.referred_table.name)
        for constraint in metadata.tables[table].foreign_key_constraints
        if constraint.referred_table.name not in {"organizations", "model_capabilities"}
    ]


CROSSINGS = [
    (table, column, parent) for table in TENANT_TABLES for column, parent in sorted(foreign_key_columns(table))
]


def test_the_tables_are_those_of_the_live_catalogue(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
        ).fetchall()
    assert {row[0] for row in rows} == {*ISOLATED_TABLES, "model_capabilities", "alembic_version"}


def test_the_services_login_can_pass_no_policy(world: World) -> None:
    with psycopg.connect(service_login(world.url)) as connection:
        row = connection.execute(
            """
            SELECT current_user::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
                   (SELECT count(*) FROM pg_auth_members WHERE member = r.oid),
                   (SELECT count(*) FROM pg_shdepend WHERE refobjid = r.oid AND deptype = 'o')
            FROM pg_roles AS r WHERE rolname = current_user
            """
        ).fetchone()
    assert row == ("evalservice_service", False, False, False, False, False, 0, 0)


@pytest.mark.parametrize("table", sorted({*metadata.tables, "alembic_version"}))
@pytest.mark.parametrize("privilege", ["TRUNCATE", "REFERENCES", "TRIGGER"])
def test_the_service_may_not_go_around_the_policies(world: World, table: str, privilege: str) -> None:
    with psycopg.connect(service_login(world.url)) as connection:
        assert one(connection, "SELECT has_table_privilege(%s, %s)", table, privilege) is False


def test_the_service_may_make_temporary_tables_and_no_others(world: World) -> None:
    with psycopg.connect(service_login(world.url)) as connection:
        connection.execute("CREATE TEMP TABLE staging (LIKE evaluation_results INCLUDING DEFAULTS)")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE public.mine (id int)")


def test_a_table_of_a_later_migration_is_readable_and_not_truncatable(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        connection.execute("CREATE TABLE later (id int)")
        allowed = one(connection, "SELECT has_table_privilege('evalservice_service', 'later', 'SELECT, INSERT')")
        forbidden = one(connection, "SELECT has_table_privilege('evalservice_service', 'later', 'TRUNCATE')")
        connection.rollback()
    assert (allowed, forbidden) == (True, False)


@pytest.mark.parametrize("table", ISOLATED_TABLES)
def test_without_an_organization_nothing_is_seen(world: World, table: str) -> None:
    with as_organization(world.url, None) as connection:
        assert one(connection, f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("table", ISOLATED_TABLES)
def test_an_organization_sees_its_own_rows_and_no_others(world: World, table: str) -> None:
    with as_organization(world.url, world.mine) as connection:
        rows = connection.execute(f"SELECT DISTINCT {organization_column(table)} FROM {table}".encode()).fetchall()
    assert rows == [(world.mine,)]


@pytest.mark.parametrize("table", ISOLATED_TABLES)
def test_anothers_row_cannot_be_found_by_its_key(world: World, table: str) -> None:
    where, key = same_row(table, a_row(world, table, world.theirs))
    with as_organization(world.url, world.mine) as connection:
        assert one(connection, f"SELECT count(*) FROM {table} WHERE {where}", *key) == 0


@pytest.mark.parametrize("table", ISOLATED_TABLES)
def test_anothers_row_cannot_be_changed(world: World, table: str) -> None:
    row = a_row(world, table, world.theirs)
    where, key = same_row(table, row)
    column = {"memberships": "role", "organizations": "name"}.get(table, next(iter(row)))
    with as_organization(world.url, world.mine) as connection:
        try:
            changed = connection.execute(f"UPDATE {table} SET {column} = {column} WHERE {where}".encode(), key).rowcount
        except errors.InsufficientPrivilege:
            changed = 0
    assert changed == 0


@pytest.mark.parametrize("table", ISOLATED_TABLES)
def test_anothers_row_cannot_be_deleted(world: World, table: str) -> None:
    where, key = same_row(table, a_row(world, table, world.theirs))
    with as_organization(world.url, world.mine) as connection:
        try:
            deleted = connection.execute(f"DELETE FROM {table} WHERE {where}".encode(), key).rowcount
        except errors.InsufficientPrivilege:
            deleted = 0
    assert deleted == 0


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_row_cannot_be_put_into_another_organization(world: World, table: str) -> None:
    row = a_row(world, table, world.theirs)
    if "id" in row:
        row["id"] = new_id()
    with as_organization(world.url, world.mine) as connection, pytest.raises(REFUSED):
        insert(connection, table, row)


@pytest.mark.parametrize("table", sorted(set(TENANT_TABLES) - {"memberships"}))
def test_a_row_cannot_be_moved_to_another_organization(world: World, table: str) -> None:
    where, key = same_row(table, a_row(world, table, world.mine))
    with as_organization(world.url, world.mine) as connection, pytest.raises(REFUSED):
        connection.execute(f"UPDATE {table} SET organization_id = %s WHERE {where}".encode(), [world.theirs, *key])


@pytest.mark.parametrize(("table", "column", "parent"), CROSSINGS)
def test_no_foreign_key_of_a_new_row_points_across(world: World, table: str, column: str, parent: str) -> None:
    row = a_row(world, table, world.mine)
    theirs = a_row(world, parent, world.theirs)
    row[column] = theirs["user_id" if parent == "memberships" else "id"]
    for key in metadata.tables[table].columns:
        if key.name == "id":
            row["id"] = new_id()
        elif key.name in {"name", "key", "key_hash", "platform_model_id"}:
            row[key.name] = new_id().hex
        elif key.name in {"run_number", "test_case_index"}:
            row[key.name] = 77
    with as_organization(world.url, world.mine) as connection:
        if "id" not in row:
            connection.execute(f"DELETE FROM {table}".encode())
        with pytest.raises(TAKEN):
            insert(connection, table, row)


@pytest.mark.parametrize(("table", "column", "parent"), CROSSINGS)
def test_no_foreign_key_of_a_stored_row_is_turned_across(world: World, table: str, column: str, parent: str) -> None:
    where, key = same_row(table, a_row(world, table, world.mine))
    theirs = a_row(world, parent, world.theirs)["user_id" if parent == "memberships" else "id"]
    with as_organization(world.url, world.mine) as connection, pytest.raises(TAKEN):
        connection.execute(f"UPDATE {table} SET {column} = %s WHERE {where}".encode(), [theirs, *key])


def test_an_organization_cannot_be_made_by_the_service(world: World) -> None:
    with as_organization(world.url, world.mine) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("INSERT INTO organizations (id, slug, name) VALUES (%s, 'new', 'New')", (new_id(),))


def test_an_organization_cannot_raise_its_own_limits(world: World) -> None:
    with as_organization(world.url, world.mine) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("UPDATE organizations SET max_concurrent_runs = 1000")


def test_capabilities_are_read_by_all_and_written_by_none(world: World) -> None:
    with as_organization(world.url, None) as connection:
        assert one(connection, "SELECT count(*) FROM model_capabilities") > 0
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("UPDATE model_capabilities SET display_name = ''")


def test_a_member_is_added_to_the_organization_of_the_transaction(world: World) -> None:
    user = new_id()
    with as_organization(world.url, world.mine) as connection:
        connection.execute("SELECT evalservice_add_member(%s, 'ann', 'Ann', '', 'viewer')", (user,))
        assert one(connection, "SELECT username FROM users WHERE id = %s", user) == "ann"
        assert one(connection, "SELECT role FROM memberships WHERE user_id = %s", user) == "viewer"


def test_a_member_is_added_to_no_organization_without_one(world: World) -> None:
    with as_organization(world.url, None) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT evalservice_add_member(%s, 'bob', 'Bob', '', 'owner')", (new_id(),))


def test_somebody_elses_user_cannot_be_made_a_member(world: World) -> None:
    theirs = a_row(world, "users", world.theirs)
    with as_organization(world.url, world.mine) as connection, pytest.raises(errors.UniqueViolation):
        connection.execute("SELECT evalservice_add_member(%s, %s, '', '', 'member')", (new_id(), theirs["username"]))


# public benchmarks


@pytest.fixture
def public_suite(world: World) -> Iterator[tuple[uuid.UUID, uuid.UUID]]:
    """A benchmark that the operator published, and its dataset, which belongs to the default organization."""
    dataset, suite = new_id(), new_id()
    with psycopg.connect(world.url) as connection:
        connection.execute(
            "INSERT INTO evaluation_datasets (id, organization_id, name, created_by_id) VALUES (%s, %s, 'gsm8k', %s)",
            (dataset, DEFAULT_ORGANIZATION_ID, LOCAL_USER_ID),
        )
        connection.execute(
            "INSERT INTO benchmark_suites (id, name, is_standard, category, dataset_id) "
            "VALUES (%s, 'gsm8k', true, 'qa', %s)",
            (suite, dataset),
        )
    yield suite, dataset
    with psycopg.connect(world.url) as connection:
        connection.execute("DELETE FROM benchmark_suites WHERE id = %s", (suite,))
        connection.execute("DELETE FROM evaluation_datasets WHERE id = %s", (dataset,))


def test_a_public_benchmark_and_its_dataset_are_read_by_all(
    world: World, public_suite: tuple[uuid.UUID, uuid.UUID]
) -> None:
    suite, dataset = public_suite
    with as_organization(world.url, world.mine) as connection:
        assert one(connection, "SELECT name FROM benchmark_suites WHERE id = %s", suite) == "gsm8k"
        assert one(connection, "SELECT name FROM evaluation_datasets WHERE id = %s", dataset) == "gsm8k"


@pytest.mark.parametrize("table", ["benchmark_suites", "evaluation_datasets"])
def test_what_is_public_is_written_by_no_tenant(
    world: World, public_suite: tuple[uuid.UUID, uuid.UUID], table: str
) -> None:
    row = public_suite[table == "evaluation_datasets"]
    with as_organization(world.url, world.mine) as connection:
        changed = connection.execute(f"UPDATE {table} SET description = 'mine' WHERE id = %s".encode(), (row,)).rowcount
        deleted = connection.execute(f"DELETE FROM {table} WHERE id = %s".encode(), (row,)).rowcount
    assert (changed, deleted) == (0, 0)


def test_a_run_may_use_a_public_benchmark(world: World, public_suite: tuple[uuid.UUID, uuid.UUID]) -> None:
    suite, dataset = public_suite
    model = a_row(world, "evaluation_models", world.mine)["id"]
    run = new_id()
    with as_organization(world.url, world.mine) as connection:
        connection.execute(
            "INSERT INTO evaluation_runs (id, organization_id, model_id, benchmark_id, dataset_id) "
            "VALUES (%s, %s, %s, %s, %s)",
            (run, world.mine, model, suite, dataset),
        )
        assert connection.execute("UPDATE evaluation_runs SET progress = 1 WHERE id = %s", (run,)).rowcount == 1


def test_a_tenants_benchmark_may_use_a_public_dataset(world: World, public_suite: tuple[uuid.UUID, uuid.UUID]) -> None:
    with as_organization(world.url, world.mine) as connection:
        connection.execute(
            "INSERT INTO benchmark_suites (id, organization_id, name, category, dataset_id) "
            "VALUES (%s, %s, 'my gsm8k', 'qa', %s)",
            (new_id(), world.mine, public_suite[1]),
        )


@pytest.mark.parametrize("change", ["is_standard = true", "organization_id = NULL"])
def test_a_tenant_publishes_nothing(world: World, change: str) -> None:
    with as_organization(world.url, world.mine) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(f"UPDATE benchmark_suites SET {change}".encode())


def test_an_organization_that_goes_leaves_its_benchmarks_private(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        connection.execute(
            "INSERT INTO organizations (id, slug, name) VALUES (%s, 'going', 'Going')", (gone := new_id(),)
        )
        connection.execute(
            "INSERT INTO benchmark_suites (id, organization_id, name, category, dataset_id) VALUES "
            "(%s, %s, 'left', 'qa', %s)",
            (suite := new_id(), gone, a_row(world, "evaluation_datasets", world.theirs)["id"]),
        )
        connection.execute("DELETE FROM organizations WHERE id = %s", (gone,))
        assert (
            one(
                connection,
                "SELECT is_standard OR organization_id IS NOT NULL FROM benchmark_suites WHERE id = %s",
                suite,
            )
            is False
        )
    with as_organization(world.url, world.mine) as connection:
        assert one(connection, "SELECT count(*) FROM benchmark_suites WHERE id = %s", suite) == 0
    with psycopg.connect(world.url) as connection:
        connection.execute("DELETE FROM benchmark_suites WHERE id = %s", (suite,))


# what crosses organizations on purpose


def test_the_functions_that_cross_are_few_fixed_and_not_for_the_public(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        rows = connection.execute(
            """
            SELECT proname, proconfig, has_function_privilege('evalservice_service', p.oid, 'EXECUTE'),
                   EXISTS (SELECT 1 FROM aclexplode(proacl) AS a WHERE a.grantee = 0), proowner = c.relowner
            FROM pg_proc AS p, pg_class AS c
            WHERE pronamespace = 'public'::regnamespace AND prosecdef AND c.oid = 'evaluation_runs'::regclass
            ORDER BY proname
            """
        ).fetchall()
    assert rows == [
        (name, ["search_path=pg_catalog, pg_temp"], True, False, True)
        for name in (
            "evalservice_add_member",
            "evalservice_claim_work",
            "evalservice_due_regression_checks",
            "evalservice_due_rollups",
            "evalservice_due_webhook_deliveries",
            "evalservice_find_api_key",
            "evalservice_queue",
            "evalservice_running_ab_tests",
            "evalservice_running_experiments",
            "evalservice_sweep",
            "evalservice_waiting_outcomes",
        )
    ]


def test_a_key_is_found_by_its_hash_alone(world: World) -> None:
    key = a_row(world, "api_keys", world.theirs)
    with as_organization(world.url, None) as connection:
        found = connection.execute(
            "SELECT id, organization_id, user_id, role FROM evalservice_find_api_key(%s)", (key["key_hash"],)
        ).fetchall()
        assert found == [(key["id"], world.theirs, key["user_id"], "owner")]
        assert connection.execute("SELECT * FROM evalservice_find_api_key('%')").fetchall() == []


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now() - interval '1 second'"])
def test_a_key_that_is_revoked_or_expired_is_not_found(world: World, change: str) -> None:
    key = a_row(world, "api_keys", world.mine)
    with as_organization(world.url, world.mine) as connection:
        connection.execute(f"UPDATE api_keys SET {change}".encode())
        assert one(connection, "SELECT count(*) FROM evalservice_find_api_key(%s)", key["key_hash"]) == 0


def test_a_table_of_the_callers_own_does_not_deceive_a_function(world: World) -> None:
    with as_organization(world.url, None) as connection:
        connection.execute("CREATE TEMP TABLE api_keys (key_hash text)")
        connection.execute("INSERT INTO pg_temp.api_keys VALUES ('forged')")
        connection.execute("SET LOCAL search_path = pg_temp, public")
        assert one(connection, "SELECT count(*) FROM evalservice_find_api_key('forged')") == 0


def add_run(world: World, organization: uuid.UUID, **values: object) -> uuid.UUID:
    """A pending run of an organization, stored."""
    row = {**a_row(world, "evaluation_runs", organization), "id": new_id(), "status": "pending", **values}
    with psycopg.connect(world.url) as connection:
        insert(connection, "evaluation_runs", row)
    return row["id"]


@pytest.fixture
def no_runs_waiting(world: World) -> Iterator[None]:
    with psycopg.connect(world.url) as connection:
        connection.execute("UPDATE evaluation_runs SET status = 'completed'")
    yield
    with psycopg.connect(world.url) as connection:
        connection.execute("UPDATE evaluation_runs SET status = 'completed'")
        connection.execute("UPDATE organizations SET max_concurrent_runs = NULL")


def claim(connection: psycopg.Connection[Any], owner: str = "me", seconds: int = 15) -> Any:
    return connection.execute(
        "SELECT id, organization_id, attempt FROM evalservice_claim_work(%s, %s)", (owner, seconds)
    ).fetchone()


@pytest.mark.usefixtures("no_runs_waiting")
def test_organizations_take_turns_and_each_is_claimed_by_priority_then_age(world: World) -> None:
    first, second = add_run(world, world.mine), add_run(world, world.mine)
    third = add_run(world, world.theirs)
    urgent = add_run(world, world.theirs, priority=5)
    with as_organization(world.url, None) as connection:
        claims = [claim(connection) for _ in range(5)]
    assert claims == [
        (first, world.mine, 1),
        (urgent, world.theirs, 1),
        (second, world.mine, 1),
        (third, world.theirs, 1),
        None,
    ]


@pytest.mark.usefixtures("no_runs_waiting")
def test_a_claimed_run_is_running_under_a_lease(world: World) -> None:
    run = add_run(world, world.mine)
    with as_organization(world.url, world.mine) as connection:
        claim(connection, "driver-1")
        row = connection.execute(
            "SELECT status, lease_owner, attempt, started_at IS NOT NULL, "
            "lease_expires_at BETWEEN now() AND now() + interval '20 seconds' FROM evaluation_runs WHERE id = %s",
            (run,),
        ).fetchone()
    assert row == ("running", "driver-1", 1, True, True)


@pytest.mark.usefixtures("no_runs_waiting")
def test_two_who_claim_at_once_get_different_runs(world: World) -> None:
    runs = {add_run(world, world.mine), add_run(world, world.mine)}
    with as_organization(world.url, None) as one_of_them, as_organization(world.url, None) as the_other:
        assert {claim(one_of_them)[0], claim(the_other)[0]} == runs
        assert claim(the_other) is None


@pytest.mark.usefixtures("no_runs_waiting")
def test_an_organization_at_its_limit_waits(world: World) -> None:
    with psycopg.connect(world.url) as connection:
        connection.execute("UPDATE organizations SET max_concurrent_runs = 1 WHERE id = %s", (world.mine,))
    add_run(world, world.mine, priority=9)
    add_run(world, world.mine, priority=8)
    theirs = add_run(world, world.theirs)
    with as_organization(world.url, None) as connection:
        assert claim(connection)[1] == world.mine
        assert claim(connection)[0] == theirs
        assert claim(connection) is None

"""The migrations run on a database with data in it, there and back, at once, and with few rights."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, make_url

import migrations
from evalservice.errors import DatabaseUnavailable, InvalidInput
from evalservice.tables import DEFAULT_ORGANIZATION_ID, LOCAL_USER_ID, metadata
from tests.postgres import (  # noqa: F401
    database_url,
    empty_database_url,
    fill,
    fresh_database,
    postgres_server,
    running_server,
    service_login,
    template_database,
    with_login,
)


def test_the_files_names_tell_the_revisions_and_their_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    found = [revision.revision for revision in script.walk_revisions()]
    assert migrations._known() == found[::-1]
    assert script.get_heads() == [migrations.head_revision()]
    assert not migrations.is_known("9999")


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def leftovers(url: str) -> list[str]:
    """Functions, types, policies, default privileges and grants that the schema holds."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """
            SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'policy ' || polname FROM pg_policy
            UNION ALL SELECT 'default privilege ' || defaclacl::text FROM pg_default_acl
            UNION ALL SELECT 'schema privilege' FROM pg_namespace
                WHERE nspname = 'public' AND nspacl::text LIKE '%evalservice_service%'
            """
        )
        return [row[0] for row in rows]


@pytest.fixture
def plain_owner(postgres_server: str) -> Iterator[str]:  # noqa: F811
    """A login that is no superuser and may not create roles."""
    name = f"owner_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
    yield name
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def other_server() -> Iterator[str]:
    """A second server, on which the service's role can come and go."""
    with running_server() as url:
        yield url


def has_role(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return bool(
            connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (migrations.SERVICE_ROLE,)).fetchone()
        )


def upgrade_in_processes(urls: list[str], password: str) -> list[str]:
    """Upgrades all of them at the same moment, each in a process of its own; what each reached, or its error."""
    start = "import sys, migrations; sys.stdin.readline(); print(migrations.upgrade(sys.argv[1], sys.argv[2]), end='')"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", start, url, password],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for url in urls
    ]
    time.sleep(1.5)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate()[0] for process in processes]


def test_an_upgraded_database_is_at_the_newest_revision(database_url: str) -> None:  # noqa: F811
    assert migrations.current_revision(database_url) == migrations.head_revision()


def test_the_service_may_ask_for_the_revision(database_url: str) -> None:  # noqa: F811
    assert migrations.current_revision(service_login(database_url)) == migrations.head_revision()


def test_an_empty_database_has_no_revision(empty_database_url: str) -> None:  # noqa: F811
    assert migrations.current_revision(empty_database_url) is None


def test_the_migrations_make_what_the_tables_say(database_url: str) -> None:  # noqa: F811
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_alembic_check_finds_no_drift(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("DATABASE_URL", database_url)
    command.check(Config("migrations/alembic.ini"))


def test_a_second_upgrade_changes_nothing(database_url: str) -> None:  # noqa: F811
    fill(database_url)
    assert migrations.upgrade(database_url) == migrations.head_revision()


def test_a_database_with_data_goes_down_and_up_again(empty_database_url: str) -> None:  # noqa: F811
    migrations.upgrade(empty_database_url)
    fill(empty_database_url)
    migrations.downgrade(empty_database_url)
    assert leftovers(empty_database_url) == []
    migrations.upgrade(empty_database_url)
    assert set(metadata.tables) <= tables(empty_database_url)
    fill(empty_database_url)


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005"])
def test_each_revision_can_be_left_and_reached_with_data(empty_database_url: str, revision: str) -> None:  # noqa: F811
    migrations.upgrade(empty_database_url)
    fill(empty_database_url)
    migrations.downgrade(empty_database_url, revision)
    assert migrations.current_revision(empty_database_url) == revision
    assert migrations.upgrade(empty_database_url) == migrations.head_revision()


def test_upgrades_at_once_wait_for_each_other(postgres_server: str) -> None:  # noqa: F811
    with fresh_database(postgres_server) as first, fresh_database(postgres_server) as second:
        assert upgrade_in_processes([first, second] * 2, "secret") == [migrations.head_revision()] * 4


def test_threads_may_upgrade_at_once(postgres_server: str) -> None:  # noqa: F811
    with fresh_database(postgres_server) as first, fresh_database(postgres_server) as second:
        with ThreadPoolExecutor(4) as pool:
            reached = list(pool.map(migrations.upgrade, [first, second] * 2))
        assert reached == [migrations.head_revision()] * 4


def test_the_role_is_made_once_by_upgrades_of_a_new_server_at_once(other_server: str) -> None:
    with fresh_database(other_server) as first, fresh_database(other_server) as second:
        assert upgrade_in_processes([first, second] * 2, "secret") == [migrations.head_revision()] * 4
        assert has_role(other_server)
        migrations.downgrade(first)
        assert has_role(other_server), "another database needs it"
        migrations.downgrade(second)
        assert not has_role(other_server)


def test_a_login_that_may_not_create_roles_is_told_what_to_do(other_server: str) -> None:
    with psycopg.connect(other_server, autocommit=True) as connection:
        connection.execute("CREATE ROLE app LOGIN")
    with fresh_database(other_server, owner="app") as url:
        with pytest.raises(InvalidInput, match="EVALSERVICE_SERVICE_DATABASE_URL"):
            migrations.upgrade(with_login(url, "app"))
        assert tables(url) == set(), "nothing half-made"
        with psycopg.connect(other_server, autocommit=True) as connection:
            connection.execute("CREATE ROLE evalservice_service LOGIN")
        migrations.upgrade(with_login(url, "app"))
        with pytest.raises(InvalidInput, match="EVALSERVICE_SERVICE_DATABASE_URL"):
            migrations.upgrade(with_login(url, "app"), service_password="secret")
        migrations.downgrade(with_login(url, "app"))
        assert has_role(other_server), "it was made by hand"


def test_a_plain_owner_that_may_create_roles_makes_the_role_and_its_password(other_server: str) -> None:
    with psycopg.connect(other_server, autocommit=True) as connection:
        connection.execute("CREATE ROLE app LOGIN CREATEROLE")
    with fresh_database(other_server, owner="app") as url:
        migrations.upgrade(with_login(url, "app"), service_password="secret")
        migrations.upgrade(with_login(url, "app"), service_password="another")
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'evalservice_service'"
            ).fetchone()
        assert row == (True,)
        migrations.downgrade(with_login(url, "app"))
        assert not has_role(other_server)


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS", "NOLOGIN"])
def test_a_role_that_could_pass_row_level_security_is_refused(other_server: str, attribute: str) -> None:
    with psycopg.connect(other_server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE evalservice_service {attribute}".encode())
    with pytest.raises(InvalidInput, match="NOBYPASSRLS"):
        migrations.upgrade(other_server)


def test_an_owner_without_rights_migrates_and_sees_every_organization(
    postgres_server: str,  # noqa: F811
    template_database: str,  # noqa: F811
    plain_owner: str,
) -> None:
    with fresh_database(postgres_server, owner=plain_owner) as url:
        owner = with_login(url, plain_owner)
        migrations.upgrade(owner)
        fill(owner)
        fill(owner)
        with psycopg.connect(owner) as connection:
            row = connection.execute("SELECT count(DISTINCT organization_id) FROM evaluation_runs").fetchone()
            assert row == (2,)
        migrations.downgrade(owner)
        assert leftovers(url) == []


def test_a_login_that_may_create_nothing_is_refused(
    postgres_server: str,  # noqa: F811
    template_database: str,  # noqa: F811
    plain_owner: str,
) -> None:
    with (
        fresh_database(postgres_server) as url,
        pytest.raises(InvalidInput, match="DATABASE_URL"),
    ):
        migrations.upgrade(with_login(url, plain_owner))


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1"):
        migrations.upgrade("postgresql://somebody:secret@127.0.0.1:1/nothing")


def test_an_error_never_shows_the_password() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        migrations.current_revision("postgresql://somebody:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in str(caught.value)


def test_the_default_organization_is_owned_by_the_local_user(database_url: str) -> None:  # noqa: F811
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            SELECT o.id, o.slug, u.id, u.username, m.role FROM memberships AS m
            JOIN organizations AS o ON o.id = m.organization_id JOIN users AS u ON u.id = m.user_id
            """
        ).fetchall()
    assert row == [(DEFAULT_ORGANIZATION_ID, "default", LOCAL_USER_ID, "local", "owner")]


def test_the_well_known_capabilities_are_there(database_url: str) -> None:  # noqa: F811
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT name, display_name, description, category FROM model_capabilities").fetchall()
    assert all(all(row) for row in rows)
    assert {row[0] for row in rows} >= {
        "text-generation", "code-generation", "question-answering", "summarization", "translation", "classification",
        "chat", "reasoning", "math", "tool-use", "vision", "json-mode", "long-context", "embeddings",
    }  # fmt: skip

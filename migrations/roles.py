"""The login role `evalservice_service`: made, checked, given its privileges, and taken away again.

A role belongs to the server, not to a database, and no lock of one database keeps another's upgrade out. So making it
and setting its password are done in savepoints that give way to whoever was first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from psycopg import errors as postgres
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from evalservice.errors import InvalidInput
from evalservice.tables import metadata

SERVICE_ROLE = "evalservice_service"

_OURS = "made by evalservice db upgrade"
_VARIABLE = "EVALSERVICE_SERVICE_DATABASE_URL"

_PRIVILEGES = {
    "model_capabilities": "SELECT",
    "organizations": "SELECT, UPDATE (name, settings, updated_at)",
    "users": "SELECT",
    "memberships": "SELECT, UPDATE (role), DELETE",
}
"""Where the service may do less than read, insert, update and delete: capabilities and limits are the operator's, and
a user joins an organization through evalservice_add_member only, because a plain insert could name anybody's id."""

FUNCTIONS = (
    "evalservice_find_api_key(text)",
    "evalservice_sweep()",
    "evalservice_add_member(uuid, text, text, text, text)",
    "evalservice_due_rollups()",
    "evalservice_claim_work(text, integer)",
    "evalservice_queue()",
    "evalservice_running_ab_tests()",
    "evalservice_running_experiments()",
    "evalservice_due_regression_checks(integer)",
    "evalservice_due_webhook_deliveries(integer)",
    "evalservice_waiting_outcomes()",
)
"""What crosses organizations, each SECURITY DEFINER with a fixed search_path."""


def ensure_service_role(connection: Connection, password: str | None = None) -> None:
    """Makes the role if it is missing, refuses one that could pass row-level security, sets the password if given."""
    _give_way(connection, lambda: _create(connection), postgres.DuplicateObject, postgres.UniqueViolation)
    _check(connection)
    if password is not None:
        try:
            _give_way(connection, lambda: _set_password(connection, password))
        except DBAPIError as error:
            if isinstance(error.orig, postgres.InsufficientPrivilege):
                raise InvalidInput(
                    _VARIABLE,
                    None,
                    f"a URL with the password of the role {SERVICE_ROLE}, because this login may not set it",
                ) from error
            raise


def grant_service_privileges(connection: Connection) -> None:
    """Gives the role what it needs in this database. Doing it again changes nothing."""
    schema = _identifier(connection.scalar(text("SELECT current_schema()")))
    database = _identifier(connection.scalar(text("SELECT current_database()")))
    for privilege in ("CONNECT", "TEMPORARY"):
        if not connection.scalar(
            text("SELECT has_database_privilege(:role, current_database(), :privilege)"),
            {"role": SERVICE_ROLE, "privilege": privilege},
        ):
            connection.exec_driver_sql(f"GRANT {privilege} ON DATABASE {database} TO {SERVICE_ROLE}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {SERVICE_ROLE}")
    connection.exec_driver_sql(f"GRANT SELECT ON alembic_version TO {SERVICE_ROLE}")
    for table in _existing_tables(connection):
        connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {SERVICE_ROLE}")
        allowed = _PRIVILEGES.get(table, "SELECT, INSERT, UPDATE, DELETE")
        connection.exec_driver_sql(f"GRANT {allowed} ON {table} TO {SERVICE_ROLE}")
    for function in _existing_functions(connection):
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {SERVICE_ROLE}")
    connection.exec_driver_sql(
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {SERVICE_ROLE}"
    )


def revoke_service_privileges(connection: Connection) -> None:
    """Takes back what is left in this database once the tables are gone."""
    if not _role(connection):
        return
    schema = _identifier(connection.scalar(text("SELECT current_schema()")))
    database = _identifier(connection.scalar(text("SELECT current_database()")))
    connection.exec_driver_sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} REVOKE ALL ON TABLES FROM {SERVICE_ROLE}")
    connection.exec_driver_sql(f"REVOKE ALL ON SCHEMA {schema} FROM {SERVICE_ROLE}")
    connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM {SERVICE_ROLE}")


def drop_service_role(connection: Connection) -> None:
    """Drops the role if an upgrade made it and neither another database nor another login needs it."""
    comment = connection.scalar(
        text("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = :role"), {"role": SERVICE_ROLE}
    )
    if comment != _OURS:
        return
    _give_way(
        connection,
        lambda: connection.exec_driver_sql(f"DROP ROLE {SERVICE_ROLE}"),
        postgres.DependentObjectsStillExist,
        postgres.InsufficientPrivilege,
        postgres.UndefinedObject,
    )


def _create(connection: Connection) -> None:
    if _role(connection):
        return
    if not connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"),
    ):
        raise InvalidInput(
            _VARIABLE,
            None,
            f"the role {SERVICE_ROLE} is missing and this login may not create roles: have it made "
            f"(CREATE ROLE {SERVICE_ROLE} LOGIN PASSWORD '…') and give its URL",
        )
    connection.exec_driver_sql(
        f"CREATE ROLE {SERVICE_ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
    )
    connection.exec_driver_sql(f"COMMENT ON ROLE {SERVICE_ROLE} IS '{_OURS}'")


def _check(connection: Connection) -> None:
    found = _role(connection)
    assert found is not None
    can_login, is_superuser, bypasses = found
    if is_superuser or bypasses or not can_login:
        raise InvalidInput(
            _VARIABLE,
            SERVICE_ROLE,
            "a role with LOGIN, NOSUPERUSER and NOBYPASSRLS (ALTER ROLE it, or drop it and upgrade again)",
        )


def _set_password(connection: Connection, password: str) -> None:
    """Hashed on this side, so that the password itself is in no server log."""
    driver = connection.connection.driver_connection
    assert driver is not None
    hashed = driver.pgconn.encrypt_password(password.encode(), SERVICE_ROLE.encode(), b"scram-sha-256").decode()
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(SERVICE_ROLE), sql.Literal(hashed))
    connection.exec_driver_sql(statement.as_string(driver))


def _role(connection: Connection) -> tuple[bool, bool, bool] | None:
    row = connection.execute(
        text("SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :role"), {"role": SERVICE_ROLE}
    ).first()
    return (row[0], row[1], row[2]) if row else None


def _existing_tables(connection: Connection) -> list[str]:
    names = connection.scalars(
        text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename")
    )
    return [name for name in names if name in metadata.tables]


def _existing_functions(connection: Connection) -> list[str]:
    return [
        function
        for function in FUNCTIONS
        if connection.scalar(text("SELECT to_regprocedure(:name) IS NOT NULL"), {"name": function})
    ]


def _identifier(name: str | None) -> str:
    if name is None:
        raise InvalidInput("DATABASE_URL", None, "a login whose search_path names an existing schema")
    return '"' + name.replace('"', '""') + '"'


def _give_way(connection: Connection, action: Callable[[], object], *accepted: type[postgres.Error]) -> None:
    """Runs `action` in a savepoint; `accepted` errors are another upgrade's success, a clash is tried again."""
    for attempt in range(20):
        try:
            with connection.begin_nested():
                action()
            return
        except (DBAPIError, postgres.Error) as error:
            original = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(original, accepted):
                return
            if attempt == 19 or "concurrently updated" not in str(original):
                raise
            connection.commit()
            time.sleep(0.05 * (attempt + 1))

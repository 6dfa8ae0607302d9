"""Postgres: engines, the tenant transaction, COPY, and foreign errors translated where they enter.

Everything that touches rows runs inside `tenant_transaction`: it sets the organization for row-level security and
commits once, at the edge. Without an organization a query sees nothing.
"""

from __future__ import annotations

import select
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from evalservice.errors import AlreadyExists, DatabaseUnavailable, EvalserviceError, InvalidInput, SchemaBehind

SERVICE_ROLE = "evalservice_service"
PING_SECONDS = 30.0
"""So long a connection may be idle before it is asked whether it works."""
CONNECT_TIMEOUT_SECONDS = 10


def make_engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine for a `postgresql://` URL. Raises InvalidInput when it is not one; connects lazily."""
    try:
        parsed = make_url(url)
    except Exception:
        raise InvalidInput("DATABASE_URL", _redacted(url), "postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    if parsed.get_backend_name() != "postgresql":
        raise InvalidInput("DATABASE_URL", _redacted(url), "postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "evalservice"},
    )
    event.listen(engine, "connect", _in_utc)
    event.listen(engine, "checkin", _returned)
    event.listen(engine, "checkout", _still_there)
    return engine


def _returned(_connection: Any, record: Any) -> None:
    record.info["returned"] = time.monotonic()


def _still_there(connection: Any, record: Any, _proxy: Any) -> None:
    """A connection that Postgres has closed can be read from, which is seen without asking it; one that was long idle
    is asked. SQLAlchemy's own ping asks each time, a tenth of a small request."""
    idle = time.monotonic() - record.info.get("returned", time.monotonic())
    try:
        watched = select.poll()
        watched.register(connection.fileno(), select.POLLIN)
        if idle < PING_SECONDS and not watched.poll(0):
            return
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError(str(error)) from error


def _in_utc(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
    connection.commit()


def _redacted(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except Exception:
        return url.split("@")[-1]


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn a driver's error into ours: unreachable or restarting server, missing tables."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("every connection to Postgres is in use: try again in a moment") from error
    except (OperationalError, psycopg.OperationalError) as error:
        raise DatabaseUnavailable(f"Postgres does not answer: {_first_line(error)}") from error
    except (ProgrammingError, psycopg.ProgrammingError) as error:
        if "connection option" in str(error) or "query parameter" in str(error):
            raise InvalidInput(
                "DATABASE_URL", "…", f"libpq's connection parameters only: {_first_line(error)}"
            ) from None
        if isinstance(error, psycopg.ProgrammingError):
            raise
        if isinstance(error.orig, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            raise SchemaBehind("the database's schema is behind: run `evalservice db upgrade`") from error
        raise
    except DataError as error:
        raise InvalidInput("value", "…", f"what Postgres can store: {_first_line(error)}") from error
    except IntegrityError as error:
        if isinstance(error.orig, psycopg.errors.UniqueViolation):
            raise AlreadyExists(f"it was made by somebody else at the same moment: {_first_line(error)}") from error
        raise
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable(f"Postgres went away: {_first_line(error)}") from error
        raise


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return lines[0] if lines else type(original).__name__


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One transaction that sees no organization's rows until `set_organization`; commits at the end.

    Raises DatabaseUnavailable and SchemaBehind; other errors pass.
    """
    with translated_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def tenant_transaction(engine: Engine, organization_id: uuid.UUID) -> Iterator[Session]:
    """One transaction in which only `organization_id`'s rows exist; commits at the end, rolls back on an error.

    Raises DatabaseUnavailable and SchemaBehind; other errors pass.
    """
    with transaction(engine) as session:
        set_organization(session, organization_id)
        yield session


@contextmanager
def listening(engine: Engine, channel: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own that listens on `channel`: iterate over its `notifies()`. Raises DatabaseUnavailable."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        translated_errors(),
        psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="evalservice"
        ) as connection,
    ):
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        yield connection


def is_ready(engine: Engine) -> str:
    """Empty when Postgres answers, else why it does not."""
    try:
        with translated_errors(), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except EvalserviceError as error:
        return error.message
    return ""


def set_organization(session: Session, organization_id: uuid.UUID) -> None:
    """Set the organization that row-level security compares with, until the transaction ends."""
    session.execute(text("SELECT set_config('evalservice.organization_id', :id, true)"), {"id": str(organization_id)})


def driver_connection(session: Session) -> psycopg.Connection[Any]:
    """The psycopg connection under a session, inside its transaction."""
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection

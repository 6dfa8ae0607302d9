"""The database's schema, step by step, and what moves a database along it.

`upgrade` is what `evalservice db upgrade` calls: it makes the login role `evalservice_service` where it is missing,
brings the schema to this version's revision and gives the role its privileges. Upgrades of one database wait for each
other; a second one finds nothing to do. `DATABASE_URL`'s login becomes the owner of everything made here.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import errors as postgres
from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from evalservice.errors import DatabaseUnavailable, InvalidInput
from migrations.roles import (
    SERVICE_ROLE,
    drop_service_role,
    ensure_service_role,
    grant_service_privileges,
    revoke_service_privileges,
)

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["SERVICE_ROLE", "current_revision", "downgrade", "head_revision", "is_known", "upgrade"]

_LOCK = 7_301_944_270_713_925_001  # any fixed number: the key of the advisory lock that upgrades wait on
_THREADS = threading.Lock()  # Alembic keeps the migration that runs in module globals


def head_revision() -> str:
    """The revision that this version of the code needs."""
    return _known()[-1]


def is_known(revision: str) -> bool:
    """Whether this version of the code knows the revision; a database that a newer version upgraded has others."""
    return revision in _known()


@functools.cache
def _known() -> list[str]:
    """Revisions in their order, by the names of their files: Alembic, which reads the files, takes a while to load."""
    return sorted(file.name.partition("_")[0] for file in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"))


def current_revision(url: str) -> str | None:
    """The revision of the database at `url`, None for an empty one. The service's own login may ask, too."""
    with _connection(url) as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def upgrade(url: str, service_password: str | None = None, revision: str = "head") -> str:
    """Brings the database at `url` (the owner's login) to `revision` and returns the revision that it now has.

    service_password: the new password of `evalservice_service`; None leaves it as it is (a new role then has none).
    The role belongs to the server: a password set here is also the one of its other databases.

    Raises InvalidInput when the role is missing and this login may not create roles, when an existing role could
    pass row-level security, or when the login may not create tables; DatabaseUnavailable when nothing answers.
    """
    from alembic import command

    with _connection(url) as connection, _alone(connection):
        ensure_service_role(connection, service_password)
        connection.commit()
        command.upgrade(_config(connection), revision)
        grant_service_privileges(connection)
        connection.commit()
        reached = _revision(connection)
        connection.commit()
    assert reached is not None
    return reached


def downgrade(url: str, revision: str = "base") -> None:
    """Takes the schema back to `revision`, data included. `base` leaves nothing, not even the role if unused."""
    from alembic import command

    with _connection(url) as connection, _alone(connection):
        command.downgrade(_config(connection), revision)
        if _revision(connection) is None:
            revoke_service_privileges(connection)
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
            connection.commit()
            drop_service_role(connection)
        connection.commit()


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    """One connection to `url`, the driver's errors turned into ours."""
    address = make_url(url).set(drivername="postgresql+psycopg")
    engine = create_engine(address, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
        raise DatabaseUnavailable(
            f"{address.set(drivername='postgresql').render_as_string()} cannot be used: {reason}"
        ) from error
    except DBAPIError as error:
        if isinstance(error.orig, postgres.InsufficientPrivilege):
            raise InvalidInput(
                "DATABASE_URL",
                address.username,
                f"a login that owns the database and may create tables in it ({str(error.orig).strip()})",
            ) from error
        raise
    finally:
        engine.dispose()


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Holds this database's migration lock. It is the session's, so it outlives the commits inside."""
    with _THREADS:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.commit()
        try:
            yield
        finally:
            if not connection.invalidated:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
                connection.commit()

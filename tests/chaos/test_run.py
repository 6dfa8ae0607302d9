"""Runs at full rate while what they need is killed, cut off and filled up at random: the same rows, paid for once.

make chaos            # twenty minutes; EVALSERVICE_CHAOS=1, and EVALSERVICE_CHAOS_SEED to repeat order and moments

Three runs, with and without a budget, a limit a minute and stored completions, on a cluster of two nodes. The driver is
the command; when it dies, or the run ends early, `runs resume` goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from cluster.embedded import EmbeddedPostgres
from cluster.runtime import open_platform
from evalservice.settings import Settings
from tests.chaos.test_service import processes
from tests.cluster.test_budgets import PRICED, bill
from tests.cluster.test_faults import DEADLY, same, stop_immediately
from tests.conftest import ROOT, Cli, clean_environment, kill_family, new_home, wait_until
from tests.provider import RunningProvider
from tests.proxy import Proxy, proxy_to
from tests.ray_head import RayHead, ray_head, worker_node

pytestmark = pytest.mark.skipif(not os.environ.get("EVALSERVICE_CHAOS"), reason="takes twenty minutes: make chaos")
RUNS, CASES, WIDTH, CACHED = 3, 2_000, 16, 300
RATE = 3_000
"""Requests a minute of the run that is limited."""
PAUSE = (4.0, 10.0)
"""Seconds between the end of a strike and the next."""
LONG = 20.0
"""Seconds that Postgres is stalled, and that the provider is down."""
MOST_SECONDS = 1_200.0
UNSTORED = WIDTH + 6 * WIDTH
"""The promised bound: the requests in flight, and a block for each task in flight."""
POISON = "77 * 80"
SUMS = [{"input": f"What is {n} * {n + 3}?", "expected_output": str(n * (n + 3))} for n in range(CASES)]


@dataclass(frozen=True)
class Kind:
    """What a run is asked to be."""

    budget: str | None
    rate: int | None
    cache: bool


KINDS = [Kind("40", None, True), Kind(None, RATE, False), Kind("60", RATE, False), Kind(None, None, True)]


@dataclass
class Site:
    """What is struck."""

    cli: Cli
    head: RayHead
    home: Path
    database: str
    postgres: EmbeddedPostgres
    provider: RunningProvider
    proxy: Proxy
    poison: Path
    worker: Any
    lost: set[str] = field(default_factory=set)
    """Prompts whose answers died with who had them: sent and not stored, until they are asked again."""

    def sql(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """SQL as the database's owner."""
        with psycopg.connect(self.database, row_factory=dict_row, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def kill_generation_actor(self) -> None:
        """With its requests in flight and its money."""
        _kill(processes("MapBatches(Generate)", self.database))

    def kill_scoring_actor(self) -> None:
        """With what it has not scored yet."""
        _kill(processes("MapBatches(Score)", self.database))

    def kill_limiter(self) -> None:
        """The one of the cluster; Ray starts another."""
        _kill(processes("ray::Limiter", self.database))

    def kill_worker_node(self) -> None:
        """The second node with all that runs there; another one comes."""
        self.worker.__exit__(None, None, None)
        self.worker = worker_node(self.head)
        self.worker.__enter__()

    def restart_postgres(self) -> None:
        """Every connection ends at once."""
        stop_immediately(self.home / "postgres", wait_until)
        time.sleep(2)
        self.postgres.acquire()

    def stall_postgres(self) -> None:
        """It is there, and does nothing; nor must the run then, for longer than it may."""
        settled, model = self.newest()
        settled |= self.lost
        family = self._postgres()
        for process in family:
            process.suspend()
        try:
            time.sleep(LONG)
            sent = sum(1 for prompt in self.provider.sent(model) if prompt not in settled)
            assert sent <= UNSTORED + WIDTH, f"{sent} requests are sent and not stored"
        finally:
            for process in family:
                process.resume()

    def fill_disk(self) -> None:
        """Of the data root, which is Postgres's, too."""
        filler = self.home / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"0" * 2**20)
                file.flush()
        time.sleep(LONG / 2)
        filler.unlink()
        wait_until(self._back, what="Postgres on a disk with room")

    def _back(self) -> bool:
        """Whether Postgres answers; it is started again where it could not write its log, and ended."""
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            with contextlib.suppress(FileNotFoundError):
                if psutil.pid_exists(self._postmaster()):
                    return False
            self.postgres.acquire()
            return False
        return True

    def provider_down(self) -> None:
        """Nobody listens at its port."""
        self.proxy.close()
        time.sleep(LONG)
        self.proxy.open()

    def storm(self) -> None:
        """Ten seconds of nothing but 429."""
        self.provider.control(storm_seconds=10.0, retry_after=2.0)
        time.sleep(10)
        self.provider.control(storm_seconds=0.0)

    def faults(self) -> None:
        """Resets, answers that never end, and bodies that are none."""
        kinds = ["reset", "stall", "truncated", "malformed_json", "no_choices", "html_500", "wrong_content_type"]
        self.provider.control(faults=0.3, kinds=kinds, stall_seconds=15.0)
        time.sleep(8)
        self.provider.control(faults=0.0)

    def arm_poison(self) -> None:
        """From now on one test case kills whoever scores it."""
        self.poison.touch()

    def newest(self) -> tuple[set[str], str]:
        """The prompts of which there are rows of the run that is driven, and its model."""
        [run] = self.sql(
            "SELECT m.name, r.id FROM evaluation_runs r JOIN evaluation_models m ON m.id = r.model_id "
            "ORDER BY r.created_at DESC LIMIT 1"
        )
        return self.settled(run["id"]), str(run["name"])

    def lose(self) -> None:
        """What is sent and not stored now will not be stored: somebody who had it was killed."""
        with contextlib.suppress(psycopg.OperationalError):
            settled, model = self.newest()
            self.lost |= self.provider.sent(model).keys() - settled

    def settled(self, run_id: Any) -> set[str]:
        """The prompts of which there are rows."""
        return self._prompts("evaluation_run_id = %s", run_id)

    def stored(self, run_id: Any) -> set[str]:
        """The prompts whose answers are stored."""
        return self._prompts("evaluation_run_id = %s AND success", run_id)

    def _prompts(self, where: str, run_id: Any) -> set[str]:
        rows = self.sql(f"SELECT test_case_index AS at FROM evaluation_results WHERE {where}", run_id)
        return {SUMS[row["at"]]["input"] for row in rows}

    def driver(self, *arguments: object) -> subprocess.Popen[Any]:
        """A command that drives a run. What it says goes to a file: nobody would read a pipe."""
        command = [sys.executable, "-m", "cluster.cli", *map(str, arguments), "--json"]
        environment = {**self.head.environment, **self.cli.environment}
        with (self.head.logs / "driver.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _postmaster(self) -> int:
        return int((self.home / "postgres" / "postmaster.pid").read_text().splitlines()[0])

    def _postgres(self) -> list[psutil.Process]:
        main = psutil.Process(self._postmaster())
        return [main, *main.children(recursive=True)]


def _kill(found: list[psutil.Process]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if found:
            random.choice(found).kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """The folder is a disk of its own, of 700 MB, while the block runs."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m,mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def site(provider: RunningProvider, tmp_path: Path) -> Iterator[Site]:
    information, poison = tmp_path / "deadly-1.0.dist-info", tmp_path / "armed"
    information.mkdir()
    armed = f"os.path.exists({str(poison)!r}) and any({POISON!r} in item.text"
    (tmp_path / "deadly.py").write_text(DEADLY.replace('any("5 * 8" in item.text', armed))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[evalservice.scorers]\ndeadly = deadly:Deadly\n")
    with contextlib.ExitStack() as opened:
        home = opened.enter_context(new_home())
        if os.geteuid() == 0 and shutil.which("mount"):
            opened.enter_context(small_disk(home))
        postgres = EmbeddedPostgres(home)
        url = postgres.acquire()
        opened.callback(postgres.release)
        with open_platform(Settings(home=home, database_url=None, ray_address=None)):
            pass  # the newest tables
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = clean_environment(EVALSERVICE_HOME=str(home), DATABASE_URL=url, PYTHONPATH=path)
        head = opened.enter_context(ray_head(home, environment))
        proxy = opened.enter_context(proxy_to(provider.url.removesuffix("/v1")))
        worker = worker_node(head)
        worker.__enter__()
        keys = ("RAY_ADDRESS", "RAY_AUTH_MODE", "PYTHONPATH")
        cli = Cli(home, {"DATABASE_URL": url, **{key: head.environment[key] for key in keys}})
        made = Site(cli, head, home, url, postgres, provider, proxy, poison, worker)
        try:
            yield made
        finally:
            made.worker.__exit__(None, None, None)


@dataclass
class Watcher:
    """Looks all the time at what was promised about a run: its money, and what is sent and not stored."""

    site: Site
    run_id: str
    model: str
    budget: Decimal | None
    wrong: list[str] = field(default_factory=list)
    looks: int = 0

    def __enter__(self) -> Watcher:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(psycopg.OperationalError):
                self._look()

    def _look(self) -> None:
        """What the provider says first: until Postgres is asked there is rather more reserved and stored."""
        billed, sent = bill(self.site.provider), self.site.provider.sent(self.model)
        [run] = self.site.sql("SELECT reserved_cost FROM evaluation_runs WHERE id = %s", self.run_id)
        unstored = len(sent.keys() - self.site.settled(self.run_id) - self.site.lost)
        self.looks += 1
        if self.budget is not None and not billed <= run["reserved_cost"] <= self.budget:
            self.wrong.append(f"billed {billed}, reserved {run['reserved_cost']}, budget {self.budget}")
        if unstored > UNSTORED:
            self.wrong.append(f"{unstored} requests are sent and not stored")


def test_every_run_ends_with_the_rows_of_an_undisturbed_one_whatever_strikes(site: Site) -> None:
    seed = int(os.environ.get("EVALSERVICE_CHAOS_SEED") or time.time())
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    random.seed(seed)
    strikes: deque[Callable[[], None] | None] = deque(
        [
            *(site.kill_generation_actor, site.kill_scoring_actor, site.kill_limiter, site.kill_worker_node),
            *(site.restart_postgres, site.stall_postgres, site.provider_down, site.storm, site.faults),
            *(None, None, None),  # the driver
            *([site.fill_disk] if site.home.is_mount() else []),
        ]
    )
    rng.shuffle(strikes)
    poisoned = rng.randrange(RUNS)
    deadline = time.monotonic() + MOST_SECONDS
    _registered(site)
    site.provider.control(wrong=0.25, latency=0.02)
    site.cli.ok("run", "--model", _model(site, Kind(None, None, False)), "--benchmark", "b")
    undisturbed = _rows(site)
    assert len(undisturbed) == CASES
    for number, kind in enumerate(rng.sample(KINDS, RUNS)):
        some = [strikes.popleft() for _ in range(-(-len(strikes) // (RUNS - number)))]
        if number == poisoned:
            some.insert(rng.randrange(len(some) + 1), site.arm_poison)
        _disturbed(site, kind, some, rng, undisturbed, deadline)
        site.poison.unlink(missing_ok=True)
    _nothing_is_left(site)


def _registered(site: Site) -> None:
    file = site.home / "sums.jsonl"
    file.write_text("".join(json.dumps(case) + "\n" for case in SUMS))
    site.cli.ok("datasets", "add", "d", file)
    site.cli.ok("benchmarks", "add", "--name", "b", "--dataset", "d", "--category", "qa", "--scorer", "deadly")


def _model(site: Site, kind: Kind) -> str:
    name = f"m-{len(site.cli.ok('models', 'list')['items'])}"
    config = {**PRICED["config"], "temperature": 0, "timeout_seconds": 10}
    config |= {} if kind.rate is None else {"requests_per_minute": kind.rate}
    prices = ("--input-price", PRICED["input_price_per_million"], "--output-price", PRICED["output_price_per_million"])
    address = ("--platform", "openai", "--model-id", name, "--base-url", f"{site.proxy.url}/v1")
    site.cli.ok("models", "add", name, *address, *prices, "--config", json.dumps(config))
    return name


def _rows(site: Site) -> list[dict[str, Any]]:
    """What must not depend on what happened, of the newest run."""
    of_run = "evaluation_run_id = (SELECT id FROM evaluation_runs ORDER BY created_at DESC LIMIT 1)"
    return same(site.sql(f"SELECT * FROM evaluation_results WHERE {of_run} ORDER BY test_case_index"))


def _disturbed(
    site: Site,
    kind: Kind,
    strikes: list[Callable[[], None] | None],
    rng: random.Random,
    undisturbed: list[dict[str, Any]],
    deadline: float,
) -> None:
    model = _model(site, kind)
    asked = ["--model", model, "--benchmark", "b", "--max-concurrency", WIDTH]
    if kind.cache:
        asked += ["--cache", "all"]
        site.cli.ok("run", *asked, "--limit", CACHED)
    site.provider.reset()
    site.lost.clear()
    site.provider.control(wrong=0.25, latency=0.4, jitter=0.5, requests_per_minute=kind.rate or 0)
    process = site.driver("run", *asked, *(("--max-cost", kind.budget) if kind.budget else ()))
    find = "SELECT r.* FROM evaluation_runs r JOIN evaluation_models m ON m.id = r.model_id WHERE m.name = %s "
    find += "AND evaluation_config ->> 'limit' IS NULL"
    [run] = wait_until(lambda: site.sql(find, model), 120, what="the run")
    run_id = str(run["id"])
    kept: list[tuple[str, set[str], dict[str, int]]] = []
    ended = ""
    with Watcher(site, run_id, model, Decimal(kind.budget) if kind.budget else None) as watcher:
        wait_until(lambda: len(site.stored(run_id)) > CACHED or process.poll() is not None, 180, what="the first rows")
        while time.monotonic() < deadline:
            if process.poll() is not None:
                ended, again = _ended(site, find, model)
                if again is None:
                    break
                process = _resumed(site, run_id, again)
                watcher.budget = Decimal(again[1]) if again else watcher.budget
                continue
            if strikes:
                strike = strikes.pop()
                name = "kill_driver" if strike is None else str(strike.__name__)
                with contextlib.suppress(psycopg.OperationalError):
                    kept.append((name, site.stored(run_id), site.provider.sent(model)))
                print(f"{time.monotonic():.0f} {kind} {name}, {len(kept[-1][1]) if kept else 0} stored", flush=True)
                kill_family(process) if strike is None else strike()
                if strike is not None and strike.__name__.startswith("kill_"):
                    site.lose()
            time.sleep(rng.uniform(*PAUSE))
    kill_family(process)
    assert ended == "completed", ended
    assert not watcher.wrong, watcher.wrong[:5]
    assert watcher.looks > 5
    _as_undisturbed(site, undisturbed)
    sent = site.provider.sent(model)
    for name, stored, before in kept:
        repeated = {prompt: sent[prompt] - before.get(prompt, 0) for prompt in stored if prompt in sent}
        assert set(repeated.values()) <= {0}, f"asked again after {name}: {Counter(repeated.values())}"
    if kind.rate is not None:
        assert site.provider.stats()["refused"] <= 0.01 * site.provider.stats()["requests"]


def _resumed(site: Site, run_id: str, options: tuple[str, ...]) -> Any:
    """The driver that goes on, as soon as it has got so far as to store something, or has ended."""
    stored = len(site.stored(run_id))
    site.lose()
    process = site.driver("runs", "resume", run_id, *options)

    def goes_on() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return len(site.stored(run_id)) > stored or process.poll() is not None
        return False

    wait_until(goes_on, 180, what="its resume")
    return process


def _ended(site: Site, find: str, model: str) -> tuple[str, tuple[str, ...] | None]:
    """How the run is now, and what its resume needs; None when there is nothing to resume."""
    [run] = wait_until(lambda: _found(site, find, model), 60, what="Postgres")
    if run["status"] == "completed":
        failed = "SELECT 1 FROM evaluation_results WHERE evaluation_run_id = %s AND NOT success AND is_retryable"
        return "completed", () if site.sql(failed, run["id"]) else None
    return f"{run['status']}: {run['error_message']}", ("--max-cost", "500") if "budget" in run["error_message"] else ()


def _found(site: Site, find: str, model: str) -> list[dict[str, Any]]:
    with contextlib.suppress(psycopg.OperationalError):
        return site.sql(find, model)
    return []


def _as_undisturbed(site: Site, undisturbed: list[dict[str, Any]]) -> None:
    rows = _rows(site)
    indices = [row["test_case_index"] for row in rows]
    assert indices == list(range(CASES)), "one row a test case"
    different = [row for row, other in zip(rows, undisturbed, strict=True) if row != other]
    poisoned = [row for row in different if POISON in json.dumps(row["input_data"])]
    assert len(poisoned) <= 1
    assert different == poisoned, different[:3]
    assert all(not row["success"] for row in poisoned)


def _nothing_is_left(site: Site) -> None:
    def left() -> list[Any]:
        words = ("MapBatches", "RunSignal", "cluster.cli")
        alive = [p.name() for each in words for p in processes(each, site.database)]
        leased = site.sql("SELECT id FROM evaluation_runs WHERE lease_owner IS NOT NULL OR requested_work IS NOT NULL")
        temporary = site.sql("SELECT relname FROM pg_class WHERE relpersistence = 't'")
        return [*alive, *leased, *temporary, *_holders(site)]

    deadline = time.monotonic() + 120
    while found := left():
        assert time.monotonic() < deadline, found
        time.sleep(2)


def _holders(site: Site) -> list[str]:
    """Who the limiter still knows."""
    look = (
        "import ray, json; from cluster.limiting import find_limiter; ray.init(log_to_driver=False, "
        "namespace='evalservice'); print(json.dumps(ray.get(find_limiter().holders.remote())))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", look], env=site.head.environment, capture_output=True, text=True, check=True, timeout=120
    )
    return list(json.loads(answer.stdout.splitlines()[-1]))

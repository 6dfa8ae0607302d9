"""What the benchmarks share: a home of their own, the server, the command line, a table."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from cluster.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a plain table."""
    cells = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


@contextlib.contextmanager
def server(latency: float) -> Iterator[int]:
    """The lean provider on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("server.py")), str(port), str(latency)])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def python_with(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment of its own, `.venv-NAME`, that has these packages; made where it is missing."""
    environment = ROOT / f".venv-{name}"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


class Bench:
    """A fresh home with embedded Postgres, held for as long as the benchmark lasts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "EVALSERVICE_HOME": str(home)}
        for name in ("DATABASE_URL", "RAY_ADDRESS"):
            self.environment.pop(name, None)
        self.postgres = EmbeddedPostgres(home)
        self.url = self.postgres.acquire()

    def cli(self, *arguments: str, **environment: str) -> Any:
        """Run `evalservice … --json`; gives the document."""
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments, "--json"],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        return json.loads(done.stdout)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `evalservice … --json` and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *arguments, "--json"],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
        )

    def sums(self, name: str, count: int) -> None:
        """A benchmark of `count` short questions."""
        file = self.home / f"{name}.jsonl"
        with file.open("w") as lines:
            for i in range(count):
                lines.write(json.dumps({"input": f"Case {i}: what is {i} plus {i}?", "expected_output": 2 * i}) + "\n")
        self.cli("datasets", "add", name, str(file))
        self.cli(
            "benchmarks", "add", "--name", name, "--dataset", name, "--category", "qa", "--scorer", "numeric_match"
        )

    def model(self, port: int, *options: str) -> str:
        """A model at the lean provider's port."""
        name = f"m{port}"
        url = f"http://127.0.0.1:{port}/v1"
        self.cli("models", "add", name, "--platform", "openai", "--model-id", name, "--base-url", url, *options)
        return name

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows, as the owner."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql, parameters).fetchall()


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A benchmark's surroundings; nothing of them is left."""
    with tempfile.TemporaryDirectory(prefix="evalservice-perf-") as folder:
        os.chmod(folder, 0o755)
        opened = Bench(Path(folder))
        try:
            yield opened
        finally:
            opened.postgres.release()

"""The command line in processes of its own that need no second to import it: forked from one that has.

`Forks.run` does what `python -m cluster.cli …` does: own session, environment, working directory and descriptors, exit
code. It is for commands that are waited for; what Ray's variables configure as they are imported is not for it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOADED = (
    "cluster.cli",
    "cluster.cli.follow",
    "cluster.local",
    "evalservice.client",
    "evalservice.runs.closing",
    "jsonschema",
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "requests",
    "rich.table",
    "yaml",
)
"""What commands import, and Ray, but not Ray itself, which does not survive a fork."""
MOST = 1 << 20


@dataclass(frozen=True)
class Forks:
    """The process that forks. path: of its socket."""

    path: str

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command; negative when a signal ended it. Raises TimeoutExpired, after a
        kill -9 of its session."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            connection.connect(self.path)
            connection.settimeout(timeout)
            order = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode()
            socket.send_fds(connection, [order], [out.fileno(), err.fileno()])
            pid = int(connection.recv(MOST))
            try:
                code = int(connection.recv(MOST))
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
            out.seek(0)
            err.seek(0)
            return code, out.read().decode(), err.read().decode()


@contextlib.contextmanager
def forks(environment: Mapping[str, str]) -> Iterator[Forks]:
    """Start it; it ends with this process."""
    with tempfile.TemporaryDirectory(prefix="evalservice-forks-") as folder:
        path = str(Path(folder) / "socket")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", path],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield Forks(path)
        finally:
            process.kill()
            process.communicate()


def _serve(path: str) -> None:
    for module in LOADED:
        importlib.import_module(module)
    gc.freeze()  # what is there is shared, and not copied for a look at it
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)  # noqa: T201
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    waiting: dict[int, socket.socket] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(waiting))
    while True:
        connection, _ = listener.accept()
        order, descriptors, _, _ = socket.recv_fds(connection, MOST, 2)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            for each in (listener, connection, *waiting.values()):
                each.close()
            _become(json.loads(order), null, *descriptors)
        for each in descriptors:
            os.close(each)
        waiting[pid] = connection
        connection.send(str(pid).encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reap(waiting: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = waiting.pop(pid, None)
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
                connection.close()


def _become(order: dict[str, object], null: int, out: int, err: int) -> None:
    """Be the command, and end as it ends."""
    import cluster.cli

    os.setsid()
    for descriptor, number in ((null, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
    for descriptor in (null, out, err):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    sys.argv = ["evalservice", *order["arguments"]]  # type: ignore[misc]
    random.seed()
    code: object = 1
    try:
        cluster.cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])

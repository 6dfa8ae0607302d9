"""What commands print. With --json: one JSON document on stdout; everything else, always, on stderr.

Ray and engines write to file descriptor 1 from their own processes. So the process's stdout is put aside at the start,
descriptor 1 is pointed at stderr, and only this module writes to the real one.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast
from uuid import UUID

import orjson
from rich.console import Console
from rich.table import Table

from evalservice.errors import StorageFailed

_stdout: TextIOWrapper = cast(TextIOWrapper, sys.stdout)


def take_stdout() -> None:
    """Keep the real stdout for results, and let everyone else's go to stderr. Once, at the start of a command.

    Python's own stderr moves off descriptor 2 as well, so that what native code writes there can be sent elsewhere.
    """
    global _stdout
    if _stdout is not sys.stdout:
        return
    for descriptor in (0, 1, 2):  # closed by the shell: what is said then goes nowhere
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    _stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)
    sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)


def binary_stdout() -> IO[bytes]:
    """The real stdout, for bytes."""
    _stdout.flush()
    return cast(IO[bytes], _stdout.buffer)


def native_stderr_to(path: Path) -> None:
    """Send what native code (Ray, engines) writes to descriptor 2 to a file; Python's stderr is another by now."""
    if sys.stderr.fileno() == 2:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def print_json(document: Any) -> None:
    """One JSON document, the command's answer."""
    _print(orjson.dumps(document, default=_plain, option=orjson.OPT_INDENT_2))


def print_json_line(document: Any) -> None:
    """One JSON document in one line, for whoever reads it while the command goes on."""
    _print(orjson.dumps(document, default=_plain))


def _print(text: bytes) -> None:
    _stdout.write(text.decode("utf-8") + "\n")
    _stdout.flush()


def say(text: str = "") -> None:
    """A line of the command's answer, for people."""
    _stdout.write(f"{text}\n")
    _stdout.flush()


def note(text: str) -> None:
    """A remark beside the answer, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def console() -> Console:
    """Rich output to the real stdout, plain when that is no terminal."""
    wide = None if _stdout.isatty() else 160
    return Console(file=_stdout, highlight=False, width=wide)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table for people; numbers flush right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(_looks_numeric(row[position]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console().print(table)


def _cell(value: Any) -> str:
    from rich.markup import escape

    return "" if value is None else escape(str(value))


def _looks_numeric(value: Any) -> bool:
    return value is None or re.fullmatch(r"-?\$?[\d.,/]*( ms)?", str(value)) is not None


def _plain(value: Any) -> Any:
    if isinstance(value, UUID | Path):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


@contextmanager
def quiet_broken_pipe() -> Iterator[None]:
    """`evalservice … | head` is no error; a full disk behind stdout is one, of one line."""
    try:
        yield
        _stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout.fileno())
        raise StorageFailed(f"stdout: cannot be written ({error.strerror})") from None

"""Structured logs: one JSON object a line, which Ray keeps with the process and its dashboard shows.

{"time": "2026-03-01T12:00:00.123+00:00", "level": "INFO", "logger": "evalservice.requests", "event": "request",
 "request_id": "0193…", "organization_id": "0193…", "method": "GET", "path": "/v1/models", "status": 200, …}
{"time": "2026-03-01T12:00:07.456+00:00", "level": "INFO", "logger": "cluster.job", "event": "run_progress",
 "run_id": "0193…", "organization_id": "0193…", "completed": 512, "failed": 3, "total": 2000, …}

An event is a name; what it is about is in fields, `log.info("run_claimed", extra={"run_id": …})`, so that nothing that
a tenant or a provider wrote can pass for another field or another line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TextIO

import orjson

OURS = ("evalservice", "actors", "cluster", "migrations")
Fields = Callable[[], Mapping[str, str]]
_FORMATTED = frozenset({"message", "asctime", "taskName"})


def _no_fields() -> Mapping[str, str]:
    return {}


def _given(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`: not what an empty record has too, to which Ray and vLLM add fields of their own."""
    own = vars(logging.makeLogRecord({})).keys() | _FORMATTED
    return {name: value for name, value in vars(record).items() if name not in own and not name.startswith("_")}


class JsonFormatter(logging.Formatter):
    """A record as JSON. `fields`: what every line says besides, asked for each; the record's own fields come first."""

    def __init__(self, fields: Fields = _no_fields) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **self._fields(),
            **_given(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:  # text that is no UTF-8, or nested without end
            return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """A record as a line for people: `warning: database_away run_id=0193…`. What is not printable is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback is not shown."""
        words = [record.getMessage(), *(f"{name}={value}" for name, value in _given(record).items())]
        line = " ".join(word if word.isprintable() else ascii(word) for word in words)
        return f"{record.levelname.lower()}: {line}"


def log_as_text() -> None:
    """Say what our own packages warn of, on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    _send(handler, logging.WARNING)


def log_as_json(fields: Fields = _no_fields, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send what our own packages log to a stream as JSON, and nothing of it to other handlers.

    Without one, to the process's own stderr: Serve puts something in the place of `sys.stderr` that wraps each line in
    another.
    """
    handler = logging.StreamHandler(stream or sys.__stderr__ or sys.stderr)
    handler.setFormatter(JsonFormatter(fields))
    _send(handler, level)


def _send(handler: logging.Handler, level: int) -> None:
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

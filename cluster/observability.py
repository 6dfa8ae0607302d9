"""Structured logs: one JSON object a line on stderr, which Ray keeps with the process and the dashboard shows.

{"time": "2026-03-01T12:00:00.123+00:00", "level": "INFO", "logger": "evalservice.requests", "event": "request",
 "request_id": "0193…", "organization": "0193…", "method": "GET", "path": "/v1/models", "status": 200, …}
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

OURS = ("evalservice", "actors", "cluster")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as JSON: its message is the event, its extra fields stay fields. A line break cannot forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def log_as_json(level: int = logging.INFO) -> None:
    """Send what our own packages log to stderr, as JSON; nothing of it goes to other handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

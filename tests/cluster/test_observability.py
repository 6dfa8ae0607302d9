"""Logs are one JSON object a line, whatever anybody wrote, and say what they are about."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from cluster import job
from cluster.observability import OURS, TextFormatter, log_as_json


@pytest.fixture
def logged() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """A function that logs as JSON what happens in another, and gives the lines."""
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]

    def capture(what: Callable[[], object], fields: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        stream = io.StringIO()
        log_as_json(lambda: fields or {}, stream=stream)
        what()
        return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]

    yield capture
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


HOSTILE = 'x"}\n{"level":"CRITICAL","event":"all is lost"}\r\u2028\x00\x1b[2J'


def test_what_a_tenant_writes_is_one_field_of_one_line(logged: Callable[..., list[dict[str, Any]]]) -> None:
    log = logging.getLogger("cluster.test")
    [line] = logged(lambda: log.warning("run_failed", extra={"error": HOSTILE}), {"run_id": "7"})
    assert (line["event"], line["level"], line["error"], line["run_id"]) == ("run_failed", "WARNING", HOSTILE, "7")


@pytest.mark.parametrize("value", ["\ud800", 2**70, {"a": {1: "\udfff"}}, object(), ValueError("\ud800")])
def test_whatever_is_logged_a_line_comes_out(logged: Callable[..., list[dict[str, Any]]], value: object) -> None:
    [line] = logged(lambda: logging.getLogger("actors.test").error("odd", extra={"value": value}))
    assert "value" in line


def test_a_traceback_is_a_field(logged: Callable[..., list[dict[str, Any]]]) -> None:
    def fail() -> None:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            logging.getLogger("cluster.test").exception("chore_failed")

    [line] = logged(fail)
    assert "ValueError: first\nsecond" in line["traceback"]


def test_a_driver_says_its_run_and_organization_in_every_line_and_crashes_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logged: Callable[..., list[dict[str, Any]]]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a fault of ours")

    logged(lambda: None)  # its end restores the loggers
    monkeypatch.setattr(job, "read_service_settings", broken)
    monkeypatch.setattr(job.signal, "signal", lambda *_: None)
    run, organization = uuid.uuid4(), uuid.uuid4()
    assert job.main([str(run), str(organization), "somebody", "3", "run"]) == 1
    [line] = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert (line["run_id"], line["organization_id"], line["attempt"]) == (str(run), str(organization), "3")
    assert (line["event"], line["error"]) == ("driver_crashed", "ZeroDivisionError: a fault of ours")


def test_a_warning_for_people_is_one_line_whatever_its_fields_hold() -> None:
    record = logging.makeLogRecord({"levelname": "WARNING", "msg": "blocks_lost", "run_id": "r", "last": "a\nb\x1b[2J"})
    assert TextFormatter().format(record) == "warning: blocks_lost run_id=r 'last=a\\nb\\x1b[2J'"


def test_fields_that_a_library_adds_to_every_record_are_not_shown() -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.process_name = "MainProcess"  # as vLLM does
        record._ray_timestamp_ns = 1  # as Ray does
        return record

    logging.setLogRecordFactory(factory)
    try:
        record = logging.makeLogRecord({"levelname": "WARNING", "msg": "blocks_lost", "run_id": "r"})
        assert TextFormatter().format(record) == "warning: blocks_lost run_id=r"
    finally:
        logging.setLogRecordFactory(before)

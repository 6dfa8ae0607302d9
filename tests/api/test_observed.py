"""What is known of each request: a line in the log and a count, by the route and not by what the caller made up."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from cluster.observability import OURS, log_as_json
from evalservice.api import create_app
from evalservice.web.middleware import request_fields
from tests.api.conftest import Served

Told = tuple[str, str, int]


@pytest.fixture
def told() -> list[Told]:
    """Method, route and status of each request that was counted."""
    return []


@dataclasses.dataclass(frozen=True)
class Client:
    """Asks the application in this process."""

    app: ASGIApp
    key: str

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> httpx.Response:
        """One request; `_` in a header's name stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def answered() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers={"Authorization": f"Bearer {self.key}", **named})

        return asyncio.run(answered())


@pytest.fixture
def client(served: Served, told: list[Told]) -> Client:
    """The application in this process, with a key of the first organization's owner."""

    def on_request(method: str, route: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        told.append((method, route, status))

    wiring = dataclasses.replace(served.wiring, on_request=on_request)
    return Client(create_app(wiring), served.mine.keys["owner"])


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Our log as a service writes it."""
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    stream = io.StringIO()
    log_as_json(request_fields, stream=stream)
    yield stream
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_requests_are_counted_by_the_templates_of_their_routes(client: Client, told: list[Told]) -> None:
    for path in ("/v1/models", "/v1/models/nobody-has-this", "/v1/models/nor-this", "/wp-admin.php", "/healthz"):
        client.ask(path)
    client.ask("/v1/models", method="BREW")
    assert told == [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/{model}", 404),
        ("GET", "/v1/models/{model}", 404),
        ("GET", "unmatched", 404),
        ("OTHER", told[-1][1], 405),
    ]
    assert told[-1][1] in ("/v1/models", "unmatched")


def test_a_request_without_a_good_key_is_counted_too(client: Client, told: list[Told]) -> None:
    client.ask("/v1/models", Authorization="Bearer evs_wrong")
    assert told == [("GET", "/v1/models", 401)]


def test_the_line_of_a_request_says_whose_it_is_and_nothing_forged(
    served: Served, client: Client, log: io.StringIO
) -> None:
    client.ask("/v1/models/x%0A%7B%22event%22:%22request%22%7D", X_Request_Id="mine-0")
    client.ask("/v1/models/x%22%7D%7B%22event%22:%22request%22", X_Request_Id="mine-1")
    broken, line = lines(log)
    assert (broken["event"], broken["request_id"], broken["status"]) == ("request", "mine-0", 404)
    assert (line["event"], line["request_id"], line["status"]) == ("request", "mine-1", 404)
    assert line["organization_id"] == str(served.mine.organization)
    assert line["route"] == "/v1/models/{model}"


def test_what_is_logged_while_a_request_is_answered_has_its_id(
    served: Served, client: Client, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evalservice.catalog import routes

    def noisy(*_: object, **__: object) -> None:
        logging.getLogger("evalservice.test").warning("looked_up")
        raise ZeroDivisionError

    monkeypatch.setattr(routes, "find", noisy)
    client.ask("/v1/models/any", X_Request_Id="mine-2")
    events = {line["event"]: line for line in lines(log)}
    assert {"looked_up", "internal_error", "request"} <= events.keys()
    for event in ("looked_up", "internal_error", "request"):
        assert events[event]["request_id"] == "mine-2"
        assert events[event]["organization_id"] == str(served.mine.organization)
    assert request_fields() == {}

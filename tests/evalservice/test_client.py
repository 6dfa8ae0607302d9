"""The client: problems become the errors that they stand for, and an application in this process streams both ways."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from cluster.cli import keys
from evalservice import errors
from evalservice.client import Client, path_of
from evalservice.errors import AlreadyExists, EvalserviceError, InvalidInput, InvalidRecords, ServiceUnreachable
from evalservice.web.inprocess import InProcess
from evalservice.web.problems import add_handlers

KEY = SecretStr("evs_0")
SAID: list[EvalserviceError] = [
    InvalidInput("limit", -1, "1 or more"),
    InvalidRecords("a.jsonl", [errors.BadRecord(2, "input", "it is missing")], 7),
    *(
        kind("what happened")
        for kind in (errors.TooLarge, errors.Forbidden, AlreadyExists, errors.LeaseHeld, errors.StorageFailed)
    ),
    errors.NotFound("model", "m", "known are n"),
]


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    add_handlers(app)

    @app.get("/raises/{number}")
    def raises(number: int) -> None:
        raise SAID[number]

    @app.get("/endless")
    def endless() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            app.state.sent = 0
            while True:
                app.state.sent += 1
                yield b"x" * 1000

        return StreamingResponse(pieces())

    @app.get("/cut/{number}")
    def cut(number: int) -> StreamingResponse:
        def pieces() -> Iterator[bytes]:
            yield b"x" * 1000
            raise SAID[number]

        return StreamingResponse(pieces())

    @app.put("/counted")
    async def counted(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(piece) async for piece in request.stream()])}

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError

    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[Client]:
    with Client("http://here", KEY, InProcess(app)) as client:
        yield client


@pytest.mark.parametrize("number", range(len(SAID)))
def test_a_problem_is_raised_as_the_error_that_it_was(client: Client, number: int) -> None:
    said = SAID[number]
    with pytest.raises(type(said)) as raised:
        client.get(f"/raises/{number}")
    assert (raised.value.message, raised.value.exit_code) == (said.message, said.exit_code)
    if isinstance(said, InvalidRecords):
        assert (raised.value.bad, raised.value.total) == (said.bad, said.total)  # type: ignore[attr-defined]


VALUES = st.none() | st.integers() | st.text() | st.lists(st.none() | st.dictionaries(st.text(), st.integers()))
TYPES = st.sampled_from(["https://evalservice.dev/problems/invalid-records", "x/invalid-input", "x/not-found"])
PROBLEMS = st.fixed_dictionaries(
    {}, optional={"type": TYPES | VALUES, **dict.fromkeys(("title", "detail", "field", "records", "total"), VALUES)}
)


@given(PROBLEMS, st.integers(400, 599))
def test_whatever_a_problem_says_it_is_raised_as_an_error_of_ours(problem: dict[str, object], status: int) -> None:
    error = errors.error_of(problem, status)
    assert isinstance(error, EvalserviceError)
    assert error.message


def test_an_answer_is_read_as_it_comes_and_one_that_is_left_ends(app: FastAPI, client: Client) -> None:
    with client.download("/endless") as answer:
        taken = answer.iter_bytes(1000)
        for _ in range(20):
            assert next(taken) == b"x" * 1000
        time.sleep(0.2)
        assert app.state.sent < 60
    time.sleep(0.2)
    sent = app.state.sent
    time.sleep(0.2)
    assert app.state.sent == sent


@pytest.mark.parametrize("number", range(len(SAID)))
def test_an_answer_that_ends_early_is_no_whole_one(client: Client, number: int) -> None:
    with pytest.raises(type(SAID[number])), client.download(f"/cut/{number}") as answer:
        list(answer.iter_bytes())


def test_a_key_whose_secret_was_lost_on_the_way_is_not_printed() -> None:
    with pytest.raises(ServiceUnreachable, match="rotate it"):
        keys._print_secret({"name": "nightly", "key": None}, json=False)


def test_a_body_is_sent_as_it_is_made(client: Client) -> None:
    assert client.upload("/counted", (b"x" * 1000 for _ in range(500))) == {"bytes": 500_000}


def test_a_fault_of_the_application_in_this_process_is_raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        client.get("/broken")


class Faulty(BaseHTTPRequestHandler):
    """Answers 503 twice, and then an empty document."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        self.seen.append((self.command, self.headers["Idempotency-Key"]))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if len(self.seen) < 3 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_PATCH = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_creating_is_repeated_under_one_key_and_changing_is_not() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", KEY) as client:
            with pytest.raises(EvalserviceError):
                client.patch("/v1/models/m", {})
            assert Faulty.seen == [("PATCH", None)]
            assert client.post("/v1/models", {}) == {}
        server.shutdown()
    first, second = Faulty.seen[1:]
    assert first == second
    assert first[1] is not None


def test_two_threads_share_a_client(client: Client) -> None:
    done: list[dict[str, int]] = []
    threads = [
        threading.Thread(target=lambda: done.append(client.upload("/counted", iter([b"12", b"3"])))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [{"bytes": 3}] * 8


def test_names_with_anything_in_them_are_one_step_of_a_path() -> None:
    assert path_of("models", "a b/c@1") == "/v1/models/a%20b%2Fc@1"

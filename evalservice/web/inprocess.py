"""An ASGI application as the other end of an `httpx.Client`, in this process: no socket, and bodies stream both ways.

    with httpx.Client(transport=InProcess(create_app(wiring)), base_url="http://here") as client:
        client.get("/v1/models")

httpx's own ASGITransport is for asynchronous clients and keeps whole answers in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.types import ASGIApp, Message, Scope

BUFFERED_PIECES = 8


class InProcess(httpx.BaseTransport):
    """Calls `app` on an event loop of its own, in a thread that lives as long as the transport."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._opened = anyio.from_thread.start_blocking_portal()
        self._portal = self._opened.__enter__()
        self._interrupted = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer as soon as its head is there; its body follows. Raises what the application raises."""
        exchange = _Exchange(request)
        running = self._portal.start_task_soon(self._serve, exchange)
        try:
            status, headers = exchange.head.result()
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        if status == 500:
            running.result()  # an application that raises has answered so first (ASGI)
        return httpx.Response(status, headers=headers, stream=_Body(self._portal, exchange.answer, running))

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except BaseException as error:
            if not exchange.head.done():
                exchange.head.set_exception(error)
            raise
        finally:
            exchange.pieces.close()

    def close(self) -> None:
        """End the event loop, and with it what still runs on it.

        After Ctrl-C it is left alone: a route's thread cannot be stopped, and nobody wants to wait for it.
        """
        if self._interrupted:
            return
        self._portal.call(self._portal.stop, True)
        self._opened.__exit__(None, None, None)


class _Exchange:
    """One request and its answer, from the application's side."""

    def __init__(self, request: httpx.Request) -> None:
        self.head: Future[tuple[int, list[tuple[bytes, bytes]]]] = Future()
        self.pieces, self.answer = anyio.create_memory_object_stream[bytes](BUFFERED_PIECES)
        self._body = iter(cast(httpx.SyncByteStream, request.stream))
        self._sent = False
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": ("127.0.0.1", 0),
        }

    async def receive(self) -> Message:
        if self._sent:
            await anyio.sleep_forever()  # the client goes away by cancelling the task
        piece = await anyio.to_thread.run_sync(next, self._body, None)
        self._sent = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head.set_result((message["status"], list(message["headers"])))
        elif message["type"] == "http.response.body" and message.get("body"):
            await self.pieces.send(bytes(message["body"]))


class _Body(httpx.SyncByteStream):
    def __init__(self, portal: Any, answer: MemoryObjectReceiveStream[bytes], running: Future[None]) -> None:
        self._portal, self._answer, self._running = portal, answer, running

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                piece = self._portal.call(self._answer.receive)
            except anyio.EndOfStream:
                self._raise_fault()
                return
            yield piece

    def _raise_fault(self) -> None:
        """Raise what has ended the answer early: a part of a body must not pass for the whole."""
        try:
            self._running.result()
        except RuntimeError as error:  # Starlette's, around one that it could not answer any more
            raise error.__cause__ or error from None

    def close(self) -> None:
        """What the application still does for this answer ends."""
        self._running.cancel()

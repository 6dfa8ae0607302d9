"""Around every request: its id, a line in the log, and a limit to its body. Plain ASGI: streams stay streams."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

log = logging.getLogger("evalservice.requests")
_current: ContextVar[str] = ContextVar("request_id", default="")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET = ("/healthz", "/readyz")


def request_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _current.get()


class RequestLog:
    """Gives each request an id (a sensible `X-Request-Id` is kept), answers with it, and logs one line."""

    def __init__(self, app: ASGIApp, on_fault: Callable[[Exception], Response]) -> None:
        self.app, self._on_fault = app, on_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. What no handler took is answered by `on_fault`, inside, where the id is known."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if _ID.fullmatch(given) else str(uuid7())
        token = _current.set(own)
        started = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = own
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            if status:
                raise  # half of the answer is sent: the connection ends here
            await self._on_fault(error)(scope, receive, answer)
        finally:
            _current.reset(token)
            if scope["path"] not in QUIET:
                log.info(
                    "request",
                    extra={
                        "request_id": own,
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "milliseconds": round((time.perf_counter() - started) * 1000, 1),
                        "organization": str(scope.get("state", {}).get("organization_id", "")),
                    },
                )


class BodyLimit:
    """Refuses a body over `limit` bytes, by its Content-Length or as soon as so much has arrived."""

    def __init__(self, app: ASGIApp, limit: int, unlimited: tuple[str, ...] = ()) -> None:
        self.app, self.limit, self.unlimited = app, limit, unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(self.unlimited):
            await self.app(scope, receive, send)
            return
        received = 0
        stated = Headers(scope=scope).get("content-length", "0")
        too_large = not stated.isdecimal() or int(stated) > self.limit

        async def limited() -> Message:
            nonlocal received
            if too_large:
                raise self._refused()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise self._refused()
            return message

        await self.app(scope, limited, send)

    def _refused(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self.limit} bytes: upload a dataset as a file instead")

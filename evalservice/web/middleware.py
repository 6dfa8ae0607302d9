"""Around every request: its id, a line in the log, a count, a limit to its body. Plain ASGI: streams stay streams."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

log = logging.getLogger("evalservice.requests")
_current: ContextVar[dict[str, str] | None] = ContextVar("request", default=None)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET = ("/healthz", "/readyz")
DECIDED = ("POST", "/v1/selections", 200)
"""A decision has a row in Postgres that says more than a line here would, for less."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return request_fields().get("request_id", "")


def request_fields() -> Mapping[str, str]:
    """What each line of the log says of the request that is being answered: `request_id`, and whose it is once that is
    known (`organization_id`). Empty outside of one."""
    return _current.get() or {}


def identified(organization_id: object) -> None:
    """The request that is being answered is one of this organization's."""
    fields = _current.get()
    if fields is not None:  # the dictionary is shared by all threads that answer the request, the variable is not
        fields["organization_id"] = str(organization_id)


class Compressed(GZipMiddleware):
    """Compresses larger answers for whoever takes that, but for decisions: it would take as long as to decide."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == DECIDED[1]:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class RequestLog:
    """Gives each request an id (a sensible `X-Request-Id` is kept), answers with it, logs one line and counts one.

    on_fault: the answer to what no handler took. on_request: told of method, route, status, and seconds until the
    answer began; a route is a template of ours or "unmatched", so that nobody can make up more of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_fault: Callable[[Exception], Response],
        on_request: Callable[[str, str, int, float], None],
    ) -> None:
        self.app, self._on_fault, self._on_request = app, on_fault, on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. What no handler took is answered by `on_fault`, inside, where the id is known."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if _ID.fullmatch(given) else str(uuid7())
        token = _current.set({"request_id": own})
        started = time.perf_counter()
        began, status = 0.0, 0

        async def answer(message: Message) -> None:
            nonlocal began, status
            if message["type"] == "http.response.start":
                began, status = time.perf_counter(), message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = own
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            log.info("client_left", extra={"path": scope["path"]})  # while its body was read: there is nobody to answer
        except Exception as error:
            if status:
                raise  # half of the answer is sent: the connection ends here
            await self._on_fault(error)(scope, receive, answer)
        finally:
            if scope["path"] not in QUIET:
                self._tell(scope, status, began - started if began else 0.0, time.perf_counter() - started)
            _current.reset(token)

    def _tell(self, scope: Scope, status: int, until_begun: float, until_ended: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = getattr(scope.get("route"), "path_format", "unmatched")
        self._on_request(method, route, status, until_begun)
        if (method, route, status) == DECIDED:
            return
        log.info(
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status,
                "milliseconds": round(until_ended * 1000, 1),
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

"""The whole API from Python, over HTTP or in the caller's own process.

A problem that the API answers with is raised as the error of `evalservice.errors` that it stands for. What can be
repeated without harm (reading, and creating under an `Idempotency-Key`) is, when the service does not answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson
from pydantic import SecretStr

from evalservice.errors import InvalidInput, ServiceUnreachable, error_of

ATTEMPTS = 4
_AGAIN = frozenset({"database-unavailable", "unavailable"})
"""Problems that pass; others of status 503 (no engine, an old schema) stay."""
_MOST_ON_A_PAGE = 1000
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""Seconds. Registering a large dataset is answered when every record has been read."""
_EVENTS_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
"""A stream of events says something four times as often, if only that it is still there."""


class Client:
    """One organization's view of a service. transport: another than HTTP, e.g. `InProcess`."""

    def __init__(self, url: str, api_key: SecretStr, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url_of(url)
        self._may_repeat = transport is None  # an application in this process has answered or failed for good
        self._http = httpx.Client(
            base_url=self.url,
            transport=transport,
            timeout=_TIMEOUT,
            headers={
                "Authorization": f"Bearer {header_of(api_key)}",
                "User-Agent": "evalservice",
                **({} if self._may_repeat else {"Accept-Encoding": "identity"}),
            },
        )

    def get(self, path: str, **query: Any) -> Any:
        """The document at a path. Query values of None are left out."""
        return self._asked("GET", path, query=query)

    def post(self, path: str, body: Any = None) -> Any:
        """Make something, once, however often the request must be sent."""
        return self._asked("POST", path, body, {"Idempotency-Key": uuid.uuid4().hex} if self._may_repeat else None)

    def patch(self, path: str, body: Any) -> Any:
        """Change something."""
        return self._asked("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """Remove something; the document of what was archived instead, or None."""
        return self._asked("DELETE", path)

    def items(self, path: str, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page after page: all, or the first `limit`."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = _MOST_ON_A_PAGE if left is None else min(left, _MOST_ON_A_PAGE)
            page = self.get(path, **query, limit=size, cursor=cursor)
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def upload(self, path: str, pieces: Iterable[bytes]) -> Any:
        """PUT a body that is sent piece by piece."""
        with translated(self.url):
            answer = self._http.put(path, content=pieces, headers={"Content-Type": "application/octet-stream"})
        return document_of(answer)

    @contextmanager
    def download(self, path: str, *, timeout: httpx.Timeout = _TIMEOUT, **query: Any) -> Iterator[httpx.Response]:
        """A body that is read piece by piece."""
        with translated(self.url), self._http.stream("GET", path, params=_given(query), timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
                document_of(answer)
            yield answer

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-sent events, as (event, data), until the service ends the stream."""
        kind, data = "message", ""
        with self.download(path, timeout=_EVENTS_TIMEOUT) as answer:
            for line in answer.iter_lines():
                name, _, value = line.partition(":")
                if name == "event":
                    kind = value.strip()
                elif name == "data":
                    data += value.strip()
                elif not line and data:
                    yield kind, orjson.loads(data) if data.startswith("{") else {"detail": data}
                    kind, data = "message", ""

    def close(self) -> None:
        """Close the connections, or the application."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        repeatable = self._may_repeat and (method == "GET" or bool(headers))
        content = None if body is None else orjson.dumps(body, default=_exact)
        own = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not repeatable
            try:
                with translated(self.url):
                    answer = self._http.request(method, path, content=content, headers=own, params=_given(query or {}))
            except ServiceUnreachable:
                if last:
                    raise
            else:
                if last or not passes(answer):
                    return document_of(answer)
            time.sleep(0.5 * 2 ** (attempt - 1))
        raise AssertionError("unreachable")


def path_of(*steps: object) -> str:
    """A path below /v1 of names as people give them: `path_of("models", "a b@1")` → `/v1/models/a%20b@1`."""
    return "/v1/" + "/".join(quote(str(step), safe="@") for step in steps)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """What httpx raises where nothing answers becomes ServiceUnreachable."""
    try:
        yield
    except httpx.RequestError as error:
        reason = str(error) or type(error).__name__
        raise ServiceUnreachable(f"{url} does not answer ({reason})") from error


def document_of(answer: httpx.Response) -> Any:
    """What an answer says; None where it has no body. Raises the error that a problem stands for."""
    kind = answer.headers.get("Content-Type", "")
    if answer.status_code in (204, 304):
        return None
    found, document = _json(answer)
    if found and answer.is_success:
        return document
    if isinstance(document, dict):
        raise error_of(document, answer.status_code)
    raise ServiceUnreachable(
        f"{answer.request.url.copy_with(query=None)} answered {answer.status_code} ({kind or 'no content type'}), "
        "which is no answer of evalservice"
    )


def _json(answer: httpx.Response) -> tuple[bool, Any]:
    """Whether the answer is JSON, and what it says."""
    if "json" in answer.headers.get("Content-Type", ""):
        with suppress(orjson.JSONDecodeError):
            return True, orjson.loads(answer.content)
    return False, None


def passes(answer: httpx.Response) -> bool:
    """Whether asking again may help: a gateway that reaches nobody, or Postgres away for a moment."""
    if answer.status_code not in (502, 503, 504):
        return False
    _, document = _json(answer)
    kind = str(document.get("type", "")) if isinstance(document, dict) else ""
    return not kind or kind.rpartition("/")[2] in _AGAIN


def _exact(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(type(value).__name__)


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def url_of(url: str) -> str:
    """The service's address as it is used. Raises InvalidInput (EVALSERVICE_URL)."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise InvalidInput(
            "EVALSERVICE_URL", url.rpartition("@")[2], "the service's address, e.g. http://localhost:8000"
        )
    return url.rstrip("/")


def header_of(api_key: SecretStr) -> str:
    """A key as a header takes it. Raises InvalidInput (EVALSERVICE_API_KEY)."""
    key = api_key.get_secret_value()
    if not key.isascii() or not key.isprintable() or not key.strip():
        raise InvalidInput("EVALSERVICE_API_KEY", "…", "an API key of printable ASCII characters")
    return key.strip()

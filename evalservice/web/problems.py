"""Every error as RFC 9457 problem+json, without anything of the inside.

{"type": "https://evalservice.dev/problems/not-found", "title": "Not found", "status": 404,
 "detail": "model: 'gtp-4' does not exist: known are gpt-4", "request_id": "0193…"}
"""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from evalservice.errors import EvalserviceError, Unauthenticated, Unavailable
from evalservice.web.middleware import request_id

log = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"
_TITLES = {400: "Malformed request", 404: "Not found", 405: "Method not allowed", 413: "Too large"}


class Problem(BaseModel):
    """What went wrong, for programs (`type`) and people (`detail`)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    request_id: str = ""


def _documented(description: str) -> dict[str, Any]:
    return {"description": description, "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: _documented("The body is not JSON."),
    401: _documented("No valid API key."),
    403: _documented("The key's role or scopes do not allow this."),
    404: _documented("It does not exist, or belongs to another organization."),
    409: _documented("The state of things forbids it."),
    412: _documented("If-Match names another version."),
    413: _documented("The body is too large."),
    422: _documented("A field is wrong: `field` and `accepted` say which and what it may be."),
    503: _documented("Postgres or another part does not answer."),
}
"""What any route may answer."""


def add_handlers(app: FastAPI) -> None:
    """Turn every expected exception into a problem."""
    app.add_exception_handler(EvalserviceError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _answer(problem: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({**problem, "request_id": request_id()}, default=str)
    return Response(body, problem["status"], headers, CONTENT_TYPE)


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, EvalserviceError)
    problem = error.problem()
    wiring = getattr(request.app.state, "wiring", None)
    if error.outside and wiring is not None and not wiring.local_files:
        log.warning("refused", extra={"error": error.message})
        problem["detail"] = error.outside
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "5"
    return _answer(problem, headers)


def _invalid(_: Request, error: Exception) -> Response:
    """Values are not repeated: they may be secrets."""
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": ".".join(str(step) for step in problem["loc"][1:]) or str(problem["loc"][0]),
            "accepted": str(problem["msg"]).removeprefix("Value error, "),
        }
        for problem in error.errors()
    ]
    malformed = any(problem["type"] == "json_invalid" for problem in error.errors())
    return _answer(
        {
            "type": f"https://evalservice.dev/problems/{'malformed-request' if malformed else 'invalid-input'}",
            "title": _TITLES[400] if malformed else "Invalid input",
            "status": 400 if malformed else 422,
            "detail": "; ".join(f"{each['field']}: {each['accepted']}" for each in found[:5]),
            **found[0],
            "errors": found[:20],
        }
    )


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, "Request refused")
    code = title.lower().replace(" ", "-")
    return _answer(
        {
            "type": f"https://evalservice.dev/problems/{code}",
            "title": title,
            "status": error.status_code,
            "detail": str(error.detail),
        },
        dict(error.headers or {}),
    )


def internal_problem(error: Exception) -> Response:
    """The answer to a fault of ours; the log has the rest."""
    log.error("internal_error", extra={"error": type(error).__name__}, exc_info=error)
    return _answer(
        {
            "type": "https://evalservice.dev/problems/internal",
            "title": "Internal error",
            "status": 500,
            "detail": "a fault of the service: its log has the rest under this request id",
        }
    )

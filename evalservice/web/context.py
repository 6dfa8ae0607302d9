"""What a route is given: the caller, their transaction, and the parts that the composition root wired in.

    @router.get("/models/{model}", response_model=ModelRead)
    def read(context: Reader, model: str) -> Response:
        return context.reply(ModelRead.of(find(context.session, Model, model, "model")))

The transaction is opened around the route (`TenantRoute`) and committed before the answer is sent, so an answer is
never ahead of the database. Routes that touch it are plain functions: they run in a thread and may wait.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from evalservice.catalog.model_config import ModelConfig
from evalservice.database import transaction
from evalservice.errors import PreconditionFailed, Unauthenticated
from evalservice.organizations.identity import Authenticator, Caller, Permission
from evalservice.organizations.secrets import SecretBox
from evalservice.tables import BenchmarkSuite, EvaluationRun, Model
from evalservice.web.middleware import identified

if TYPE_CHECKING:
    from evalservice.selection.selector import Selector

Authenticate = Callable[[Session, str], Caller]
"""Finds a key's holder and makes the transaction theirs. Raises Unauthenticated."""
CheckRun = Callable[[Model, BenchmarkSuite, ModelConfig], None]
CheckModel = Callable[[str, ModelConfig], None]
OnRun = Callable[[Session, EvaluationRun], None]
OnOutcome = Callable[[Session, uuid.UUID], None]
Readiness = Callable[[], Mapping[str, str]]
InThread = Callable[..., Awaitable[Any]]
"""Calls a function that waits, with its arguments and the caller's context variables, in a thread."""
OnRequest = Callable[[str, str, int, float], None]
"""Is told of each answer: method, route (its template), status, and the seconds until it began."""


def _nothing_else_to_check() -> Mapping[str, str]:
    return {}


def _takes_anything(platform: str, config: ModelConfig) -> None:
    pass


def _left_to_supervisors(session: Session, run: EvaluationRun) -> None:
    pass


def _applied_by_supervisors(session: Session, organization_id: uuid.UUID) -> None:
    pass


def _nobody_counts(method: str, route: str, status: int, seconds: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the application is made of.

    platforms: those whose models this installation can call, each with the URL where a model without one is asked (""
    for an engine). check_model: raises for a configuration that the platform does not take. check_run: raises for a run
    that could not work here.
    on_run: is told of a new run in the transaction that makes it, and may claim it. readiness: part → "" when it works,
    else what is wrong. on_request: counts answers. in_thread: where routes run. private_addresses: whether models may
    live on loopback and private networks. local_files: whether `file_path` is a path of this machine, for who may read
    its files anyway. on_outcome: is told of outcomes in the transaction that stores them, and may apply them. selector:
    what decides selections, where it is shared with others.
    """

    engine: Engine
    box: SecretBox
    data_root: str
    platforms: Mapping[str, str]
    check_run: CheckRun
    check_model: CheckModel = _takes_anything
    on_run: OnRun = _left_to_supervisors
    readiness: Readiness = _nothing_else_to_check
    on_request: OnRequest = _nobody_counts
    in_thread: InThread = anyio.to_thread.run_sync
    private_addresses: bool = True
    local_files: bool = False
    max_upload_bytes: int = 64 << 30
    authenticate: Authenticate = field(default_factory=Authenticator)
    on_outcome: OnOutcome = _applied_by_supervisors
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One call of one caller, inside their transaction."""

    session: Session
    caller: Caller
    wiring: Wiring
    request: Request

    @property
    def organization_id(self) -> uuid.UUID:
        """Whose rows are seen and written."""
        return self.caller.organization_id

    def reply(self, document: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """The answer as JSON with its ETag; 304 without a body where the caller has it already (RFC 9110, 13.1.2)."""
        body = document.model_dump_json().encode()
        tag = etag(body)
        if self.request.method == "GET" and tag in _tags(self.request, "if-none-match"):
            return Response(status_code=304, headers={"ETag": tag})
        return Response(body, status, {"ETag": tag, **(headers or {})}, "application/json")

    def created(self, document: BaseModel, location: object) -> Response:
        """201 with the Location of what was made, below this path."""
        path = self.request.url.path.rstrip("/")
        return self.reply(document, 201, {"Location": f"{path}/{location}"})

    def check_unchanged(self, document: BaseModel) -> None:
        """Honour If-Match (RFC 9110, 13.1.1): `document` is what the caller would read now, its row locked.

        Raises PreconditionFailed.
        """
        wanted = _tags(self.request, "if-match")
        if wanted and "*" not in wanted and etag(document.model_dump_json().encode()) not in wanted:
            raise PreconditionFailed(
                "If-Match: it was changed since you read it: read it again, then repeat the change"
            )


def etag(body: bytes) -> str:
    """A strong entity tag of a representation."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _tags(request: Request, header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in request.headers.get(header, "").split(",") if tag.strip()]


NO_KEY = "send your API key as `Authorization: Bearer evs_…`"
bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer evs_…`")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


def wiring_of(request: Request) -> Wiring:
    """The parts that this application was made with."""
    wiring: Wiring = request.app.state.wiring
    return wiring


def _identify(wiring: Wiring, session: Session, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if credentials is None:
        raise Unauthenticated(NO_KEY)
    caller = wiring.authenticate(session, credentials.credentials)
    identified(caller.organization_id)
    return caller


@dataclass(frozen=True, slots=True)
class Door:
    """Opens the caller's transactions; for what streams one after the other, and each asks again whether the key is
    still good."""

    wiring: Wiring
    credentials: HTTPAuthorizationCredentials | None
    permission: Permission
    request: Request

    @contextmanager
    def open(self) -> Iterator[tuple[Session, Caller]]:
        """A transaction of the caller's. Raises Unauthenticated, Forbidden."""
        with transaction(self.wiring.engine) as session:
            caller = _identify(self.wiring, session, self.credentials)
            caller.require(self.permission)
            yield session, caller

    @contextmanager
    def context(self) -> Iterator[Context]:
        """As `open`, with all that a route is given."""
        with self.open() as (session, caller):
            yield Context(session, caller, self.wiring, self.request)


def _door(permission: Permission) -> Callable[[Request, Credentials], Awaitable[Door]]:
    async def find_door(request: Request, credentials: Credentials) -> Door:  # async: it needs no thread
        return Door(wiring_of(request), credentials, permission, request)

    return find_door


Reader = Annotated[Context, Depends(_door("read"))]
Writer = Annotated[Context, Depends(_door("write"))]
Admin = Annotated[Context, Depends(_door("admin"))]
Owner = Annotated[Context, Depends(_door("owner"))]
ReadingDoor = Annotated[Door, Depends(_door("read"))]
WritingDoor = Annotated[Door, Depends(_door("write"))]


class TenantRoute(APIRoute):
    """A route whose `context` is opened, used and committed in one thread: a turn in another one costs as much as a
    query. Whoever is not known hears that before anything about their request."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _opened(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def known(request: Request) -> Response:
            try:
                return await answer(request)
            except RequestValidationError:
                for dependency in self.dependant.dependencies:
                    if dependency.name == "context" and dependency.call is not None:
                        door = await dependency.call(request, await bearer(request))
                        await door.wiring.in_thread(_knock, door)
                raise

        return known


def _knock(door: Door) -> None:
    with door.open():
        pass


def _opened(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    if "context" not in inspect.signature(endpoint).parameters or hasattr(endpoint, "__wrapped__"):
        return endpoint  # it streams, or is included in another router

    def opened(door: Door, given: dict[str, Any]) -> Any:
        with door.context() as context:
            return endpoint(context=context, **given)

    @functools.wraps(endpoint)
    async def inside(**given: Any) -> Any:
        door = given.pop("context")
        return await door.wiring.in_thread(opened, door, given)

    return inside

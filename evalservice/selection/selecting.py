"""`POST /v1/selections`: which model for this request? No database, no thread, no await but the socket's.

FastAPI's own reading of a request takes several times as long as the decision, so this route has a handler of its own;
its document is made from the signature as anywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import ValidationError

from evalservice.database import transaction
from evalservice.errors import Unauthenticated, Unavailable
from evalservice.organizations.remembered import RememberedKeys
from evalservice.selection.decisions import Who
from evalservice.selection.request import SelectionRequest
from evalservice.selection.schemas import Selection
from evalservice.selection.selector import Answer, Selector
from evalservice.web.context import NO_KEY, Context, Wiring, bearer, wiring_of
from evalservice.web.idempotency import IdempotencyHeader, once_of
from evalservice.web.middleware import identified
from evalservice.web.problems import RESPONSES

DURABLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Routing:
    """What this route needs, made once for an application."""

    selector: Selector
    keys: RememberedKeys

    @classmethod
    def of(cls, wiring: Wiring) -> Routing:
        """From the application's parts."""
        keys = RememberedKeys(wiring.engine, wiring.in_thread, wiring.authenticate)
        return cls(wiring.selector or Selector(wiring.engine), keys)

    def start(self) -> None:
        """Keep evidence and keys fresh in the background: for a process that serves for long."""
        self.selector.start()
        self.keys.start()

    def close(self, timeout: float = 10.0) -> int:
        """Stop both, store what was decided; gives how many decisions could not be stored."""
        self.keys.stop()
        return self.selector.close(timeout)


class _Direct(APIRoute):
    """A route whose endpoint is only its description."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return _selected


async def _selected(request: Request) -> Response:
    wiring, routing = wiring_of(request), request.app.state.routing
    caller = await routing.keys.find(_key(request))
    identified(caller.organization_id)
    caller.require("write")
    body = await request.body()
    try:
        asked = SelectionRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
    key = request.headers.get("idempotency-key")
    if key is not None:
        return await wiring.in_thread(_once, request, routing, asked, key, body)  # type: ignore[no-any-return]
    keeper = routing.selector.keeper
    state = keeper.known(caller.organization_id) or await wiring.in_thread(keeper.load, caller.organization_id)
    who = Who(caller.organization_id, caller.user_id)
    if asked.text is None:
        answer: Answer = routing.selector.select(state, who, asked)
    else:  # to read it may take a sentence encoder some milliseconds
        answer = await wiring.in_thread(routing.selector.select, state, who, asked)
    if answer.stored is not None:
        await _stored(asyncio.wrap_future(answer.stored))
    if answer.nothing is not None:
        raise answer.nothing
    return Response(answer.body, media_type="application/json")


async def _stored(future: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait_for(asyncio.shield(future), DURABLE_SECONDS)
    except TimeoutError:
        raise _not_stored() from None


def _not_stored() -> Unavailable:
    return Unavailable("the decision was made but is not stored yet, because Postgres does not answer: try again")


def _key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated(NO_KEY)
    return key.strip()


def _once(request: Request, routing: Routing, asked: SelectionRequest, key: str, body: bytes) -> Response:
    """With an `Idempotency-Key` the decision is stored with its answer, in one transaction."""
    once = once_of(request, key, body)
    wiring = wiring_of(request)
    with transaction(wiring.engine) as session:
        caller = wiring.authenticate(session, _key(request))
        caller.require("write")
        who = Who(caller.organization_id, caller.user_id)

        def work() -> Response:
            keeper = routing.selector.keeper
            state = keeper.known(who.organization_id) or keeper.read(session, who.organization_id)
            answer = routing.selector.select_in(session, state, who, asked)
            if answer.nothing is not None:
                raise answer.nothing
            return Response(answer.body, media_type="application/json")

        return once.answer(Context(session, caller, wiring, request), work)


router = APIRouter(prefix="/selections", tags=["selections"], route_class=_Direct)


@router.post(
    "",
    response_model=Selection,
    responses={409: {**RESPONSES[409], "description": "Nothing is eligible: `relaxations` say what would be."}},
)
async def select(
    asked: SelectionRequest,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    idempotency_key: IdempotencyHeader = None,
) -> Selection:
    """Which model for this request, why, and what to fall back to. Every decision is logged."""
    raise NotImplementedError  # answered by the route's handler

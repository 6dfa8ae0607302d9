"""For clients that decide in their own process: the evidence to decide on, and the log of what they decided.

Many ask for the evidence every few seconds: the answer is made once for each snapshot, compressed, and asks no
database.
"""

from __future__ import annotations

import gzip
import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials

from evalservice.errors import Conflict, Unauthenticated
from evalservice.selection.decisions import store_rows
from evalservice.selection.evidence import utc_now
from evalservice.selection.keeper import Keeper
from evalservice.selection.local_log import LocalDecisions, LocalDecisionsRead, checked
from evalservice.selection.probing import with_probes
from evalservice.selection.snapshot_json import SnapshotDocument, to_json
from evalservice.web.context import NO_KEY, TenantRoute, Writer, bearer, etag, wiring_of
from evalservice.web.middleware import identified

MOST_BYTES = 32 << 20
BYTES_PER_NUMBER = 20
_REMEMBERED = "document"

local = APIRouter(prefix="/selections", tags=["selections"], route_class=TenantRoute)


@local.get(
    "/snapshot",
    response_model=SnapshotDocument,
    responses={
        200: {
            "headers": {
                "ETag": {"schema": {"type": "string"}},
                "Age": {"description": "Seconds since Postgres was asked.", "schema": {"type": "integer"}},
            }
        }
    },
)
async def read_snapshot(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Response:
    """The current evidence and policies, of which `/v1/selections` decides. 304 with the ETag that one has."""
    if credentials is None:
        raise Unauthenticated(NO_KEY)
    wiring, routing = wiring_of(request), request.app.state.routing
    caller = await routing.keys.find(credentials.credentials)
    identified(caller.organization_id)
    caller.require("read")
    keeper: Keeper = routing.selector.keeper
    state = keeper.known(caller.organization_id)
    made: Made | None = None if state is None else state.snapshot.found(_REMEMBERED)
    if made is None:
        made = await wiring.in_thread(_made, keeper, caller.organization_id)
    return _answer(request, made, keeper.ages().get(caller.organization_id, 0.0))


@local.post("/log", response_model=LocalDecisionsRead)
def log_decisions(context: Writer, given: LocalDecisions) -> Response:
    """Log decisions that a client made on the evidence. Each is made again first; what is not the same bit for bit is
    refused. Repeating it changes nothing."""
    rows, refused = checked(context.session, context.caller.user_id, given.decisions, utc_now())
    if rows:
        store_rows(context.session, context.organization_id, rows)
    return context.reply(LocalDecisionsRead(logged=len(rows), refused=refused))


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot's document, its entity tag, and the same by gzip."""

    tag: str
    document: bytes
    compressed: bytes


def _made(keeper: Keeper, organization_id: uuid.UUID) -> Made:
    """Made of the current state and kept beside it. Raises Conflict, DatabaseUnavailable, SchemaBehind."""
    state = keeper.load(organization_id)
    snapshot = with_probes(state.snapshot, ())  # probes are this replica's
    size = BYTES_PER_NUMBER * 3 * snapshot.quality.size + sum(len(card.call) for card in snapshot.models)
    if size > MOST_BYTES:
        raise Conflict(
            f"snapshot: evidence on {len(snapshot)} models by {len(snapshot.quality)} targets would be about "
            f"{size >> 20} MiB, more than {MOST_BYTES >> 20}: decide at the service, or archive what is not used"
        )
    document = to_json(snapshot, state.policies)
    made: Made = state.snapshot.remembered(
        _REMEMBERED, Made(etag(document), document, gzip.compress(document, 1, mtime=0))
    )
    return made


def _answer(request: Request, made: Made, age: float) -> Response:
    headers = {"ETag": made.tag, "Age": str(int(age)), "Vary": "Accept-Encoding", "Cache-Control": "private, no-cache"}
    known = request.headers.get("if-none-match", "")
    if made.tag in {each.strip().removeprefix("W/") for each in known.split(",")}:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(made.compressed, headers=headers, media_type="application/json")
    return Response(made.document, headers=headers, media_type="application/json")

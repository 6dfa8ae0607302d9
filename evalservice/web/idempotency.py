"""`Idempotency-Key`: a POST that is sent twice is done once (draft-ietf-httpapi-idempotency-key-header).

The key is written in the transaction that does the work, with the answer. So a repetition waits until the first has
ended, and then gets its answer; where the first failed nothing is left and the repetition does the work.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Request, Response
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from evalservice.errors import InvalidInput
from evalservice.tables import IdempotencyKey, new_id
from evalservice.web.context import Context

_KEPT_HEADERS = ("etag", "location")


@dataclass(frozen=True, slots=True)
class Once:
    """A request that may be a repetition; without a key it never is."""

    key: str | None
    method: str
    path: str
    request_hash: str

    def answer(
        self, context: Context, work: Callable[[], Response], *, keep: Callable[[Any], Any] = lambda body: body
    ) -> Response:
        """The first answer to this key, else that of `work`. `keep` takes out of it what must not be stored.

        Raises InvalidInput when the key came with another request.
        """
        if self.key is None:
            return work()
        session, mine = context.session, IdempotencyKey.key == self.key
        session.execute(delete(IdempotencyKey).where(mine, IdempotencyKey.expires_at < func.now()))
        taken = session.execute(
            insert(IdempotencyKey)
            .values(
                id=new_id(),
                organization_id=context.organization_id,
                key=self.key,
                method=self.method,
                path=self.path,
                request_hash=self.request_hash,
            )
            .on_conflict_do_nothing(index_elements=["organization_id", "key"])
            .returning(IdempotencyKey.id)
        ).scalar_one_or_none()
        if taken is None:
            return self._repeated(session.execute(select(IdempotencyKey).where(mine)).scalar_one())
        response = work()
        session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.id == taken)
            .values(
                response_status=response.status_code,
                response_headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
                response_body=keep(orjson.loads(bytes(response.body))) if response.body else None,
            )
        )
        return response

    def _repeated(self, first: IdempotencyKey) -> Response:
        if (first.method, first.path, first.request_hash) != (self.method, self.path, self.request_hash):
            raise InvalidInput("Idempotency-Key", self.key, "a key that was not sent with another request before")
        body = b"" if first.response_body is None else orjson.dumps(first.response_body)
        headers = {**first.response_headers, "Idempotency-Replayed": "true"}
        return Response(body, first.response_status or 200, headers, "application/json")


_FORM = re.compile(r"[!-~]{1,255}")
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Makes a repetition harmless for a day.",
    ),
]


def once_of(request: Request, key: str | None, body: bytes) -> Once:
    """The request with this key. Raises InvalidInput for a key of another form, where nobody has checked it."""
    if key is not None and not _FORM.fullmatch(key):
        raise InvalidInput("Idempotency-Key", key, "1 to 255 visible ASCII characters")
    digest = hashlib.sha256(f"{request.url.query}\n".encode() + body).hexdigest()
    return Once(key, request.method, request.url.path[:500], digest)


async def _once(request: Request, idempotency_key: IdempotencyHeader = None) -> Once:
    return once_of(request, idempotency_key, await request.body())


Idempotent = Annotated[Once, Depends(_once)]

"""Lists by pages: keyset, never OFFSET, so the millionth page costs what the first does.

A cursor is where the last page ended: `["created_at", "-", "2026-03-01T…", "0193…"]` as base64url JSON. It holds no
organization: row-level security decides what is after it.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Depends, Query
from pydantic import AwareDatetime, BaseModel
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from evalservice.errors import InvalidInput

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)
MOST = 1000
Filter = Annotated[str | None, Query(max_length=300, pattern=r"^[^\x00]*$")]
"""A column that a list may be narrowed by."""
Moment = Annotated[AwareDatetime | None, Query(description="With its time zone, e.g. 2026-03-01T00:00:00Z.")]


class Page(BaseModel, Generic[T]):
    """Some items, and the cursor of the next page; null on the last."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(slots=True)
class PageQuery:
    """`limit`, `cursor` and `sort` of a list."""

    limit: int
    cursor: str | None
    sort: str | None


async def _page_query(  # async: it needs no thread
    limit: Annotated[int, Query(ge=1, le=MOST, description="Items on a page.")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=500, description="`next_cursor` of the page before, with the same filters.")
    ] = None,
    sort: Annotated[
        str | None, Query(max_length=50, description="A column to sort by, `-` before it for descending.")
    ] = None,
) -> PageQuery:
    return PageQuery(limit, cursor, sort)


Paging = Annotated[PageQuery, Depends(_page_query)]
Column = InstrumentedAttribute[Any]


def page_of(
    session: Session,
    query: Select[Any],
    paging: PageQuery,
    sorts: Mapping[str, Column],
    identity: Column,
    show: Callable[[Any], R],
) -> Page[R]:
    """One page of `query`. sorts: what `sort` may name, descending the first by default; `identity` breaks ties.

    Raises InvalidInput (sort, cursor).
    """
    name, descending = _sort(paging.sort, sorts)
    column = sorts[name]
    query = query.order_by(*((c.desc() if descending else c.asc()) for c in dict.fromkeys((column, identity))))
    if paging.cursor is not None:
        value, last = _opened(paging.cursor, name, descending, column, identity)
        after, where = tuple_(column, identity), tuple_(value, last)
        query = query.where(after < where if descending else after > where)
    rows = session.scalars(query.limit(paging.limit + 1)).all()
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    following = _closed(rows[-1], name, descending, column, identity) if more else None
    return Page(items=[show(row) for row in rows], next_cursor=following)


def _sort(asked: str | None, sorts: Mapping[str, Column]) -> tuple[str, bool]:
    if asked is None:
        return next(iter(sorts)), True
    name = asked.removeprefix("-")
    if name not in sorts:
        raise InvalidInput("sort", asked, f"one of {', '.join(sorts)}, with `-` before it for descending")
    return name, asked.startswith("-")


def _closed(row: Any, name: str, descending: bool, column: Column, identity: Column) -> str:
    content = [name, "-" if descending else "+", getattr(row, column.key), getattr(row, identity.key)]
    return base64.urlsafe_b64encode(orjson.dumps(content, default=str)).decode().rstrip("=")


def _opened(cursor: str, name: str, descending: bool, column: Column, identity: Column) -> tuple[Any, Any]:
    accepted = "`next_cursor` of a page of the same list with the same sort"
    try:
        content = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        shown, sign, value, last = content
        if (shown, sign) != (name, "-" if descending else "+"):
            raise ValueError("of another sort")
        return _typed(value, column), _typed(last, identity)
    except (ValueError, TypeError):
        raise InvalidInput("cursor", cursor, accepted) from None


def _typed(value: Any, column: Column) -> Any:
    kind = column.type.python_type
    if kind is datetime:
        return _with_zone(datetime.fromisoformat(value))
    if kind is uuid.UUID:
        return uuid.UUID(value)
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and abs(value) > 2**31):
        raise ValueError("of another type")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("with a NUL character")
    return value


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("without a time zone")
    return moment

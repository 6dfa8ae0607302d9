"""The declarative base and the few column forms that every table is made of.

The forms carry each default twice, for Python and for the server, so that a row written by COPY or by hand is the
same as one written through the session. A tenant table is one with `organization_id`; between two of them a foreign
key is composite, `(organization_id, x_id) → parent(organization_id, id)`, because Postgres checks foreign keys
without row-level security and a plain one could point into another organization.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from uuid_utils.compat import uuid7

MONEY = Numeric(20, 10)
"""US dollars, exact: four decimals would turn $0.0000525 into $0.0001."""

TIME = DateTime(timezone=True)


class Base(DeclarativeBase):
    """Base of every table. Constraint names are fixed here, so that migrations can name what they change."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


def new_id() -> uuid.UUID:
    """A UUIDv7: ids made later sort later, so inserts touch the right edge of every index."""
    return uuid7()


class Identified:
    """A table with a UUIDv7 primary key `id`."""

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=new_id, sort_order=-10)


class Owned:
    """A tenant table whose rows go when their organization goes."""

    organization_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("organizations.id", ondelete="CASCADE"), sort_order=-9
    )


class CreatedBy:
    """`created_by_id`: a member of the row's organization (a trigger checks it), kept as NULL when the user goes."""

    created_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), sort_order=90)


class CreatedAt:
    """`created_at`, set by the server."""

    created_at: Mapped[datetime] = mapped_column(TIME, server_default=func.now(), sort_order=91)


class Timestamps(CreatedAt):
    """`created_at` and `updated_at`, both set by the server."""

    updated_at: Mapped[datetime] = mapped_column(TIME, server_default=func.now(), onupdate=func.now(), sort_order=92)


def json_object(name: str | None = None) -> MappedColumn[dict[str, Any]]:
    """A JSON object, {} by default."""
    form = {"default": dict, "server_default": text("'{}'::jsonb"), "nullable": False}
    return mapped_column(name, JSONB, **form) if name else mapped_column(JSONB, **form)  # type: ignore[arg-type]


def json_list() -> MappedColumn[list[Any]]:
    """A JSON array, [] by default."""
    return mapped_column(JSONB, default=list, server_default=text("'[]'::jsonb"), nullable=False)


def short(length: int, default: str | None = None) -> MappedColumn[str]:
    """A bounded string; without `default` it must be given."""
    if default is None:
        return mapped_column(String(length), nullable=False)
    return mapped_column(String(length), default=default, server_default=default, nullable=False)


def long() -> MappedColumn[str]:
    """Text that may be blank: never NULL, '' by default."""
    return mapped_column(Text, default="", server_default="", nullable=False)


def flag(default: bool) -> MappedColumn[bool]:
    """A boolean with a default."""
    return mapped_column(Boolean, default=default, server_default=text("true" if default else "false"), nullable=False)


def count() -> MappedColumn[int]:
    """An integer that starts at 0."""
    return mapped_column(Integer, default=0, server_default=text("0"), nullable=False)


def real(default: float) -> MappedColumn[float]:
    """A double with a default."""
    return mapped_column(Double, default=default, server_default=text(str(default)), nullable=False)


def maybe_real() -> MappedColumn[float | None]:
    """A double that may be unknown."""
    return mapped_column(Double, nullable=True)


def maybe_time() -> MappedColumn[datetime | None]:
    """A moment that may not have come."""
    return mapped_column(TIME, nullable=True)


def maybe_money() -> MappedColumn[Decimal | None]:
    """US dollars that may be unknown."""
    return mapped_column(MONEY, nullable=True)


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """The column holds one of the strings."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def index(table: str, *columns: str, name: str | None = None) -> Index:
    """An index; `-column` sorts descending, as in `index("runs", "status", "-created_at")`."""
    plain = [column.removeprefix("-") for column in columns]
    parts = [text(f"{p} DESC") if c.startswith("-") else p for c, p in zip(columns, plain, strict=True)]
    return Index(name or f"ix_{table}_{'_'.join(plain)}", *parts)


def parent_key(table: str) -> UniqueConstraint:
    """What a composite foreign key points at."""
    return UniqueConstraint("organization_id", "id", name=f"uq_{table}_organization_id_id")


def same_organization(table: str, column: str, parent: str, on_delete: str) -> ForeignKeyConstraint:
    """A foreign key to a row of the same organization. SET NULL empties `column` alone, never `organization_id`."""
    return ForeignKeyConstraint(
        ["organization_id", column],
        [f"{parent}.organization_id", f"{parent}.id"],
        name=f"fk_{table}_{column}",
        ondelete=f"SET NULL ({column})" if on_delete == "SET NULL" else on_delete,
    )

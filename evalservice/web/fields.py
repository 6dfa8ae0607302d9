"""Field types that the features' schemas share, and how a row becomes one of them."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

_PLAIN = r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""The beginning of a character class without control and direction characters, which would garble a terminal."""


def _no_uuid(name: str) -> str:
    try:
        uuid.UUID(name)
    except ValueError:
        return name
    raise ValueError("a name that does not look like an id")


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=f"^{_PLAIN}@]+$"),
    AfterValidator(_no_uuid),
]
"""What people refer to by name, or by name@version: so neither has an @ in it, and a name is no UUID."""
ModelId = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=f"^{_PLAIN}]+$")
]
Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
Version = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=f"^{_PLAIN}@]+$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=f"^{_PLAIN}]+$")]
Line = Annotated[str, StringConstraints(max_length=200, pattern=f"^{_PLAIN}]*$")]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00]*$")]
"""A name, name@version or id."""


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    if "\\u0000" in json.dumps(value):
        raise ValueError("JSON without NUL characters, which Postgres does not store")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]
Dollars = Annotated[Decimal, Field(ge=0, lt=Decimal(10) ** 10, decimal_places=10, allow_inf_nan=False)]


def columns(row: object, kind: type[BaseModel], *but: str) -> dict[str, Any]:
    """The attributes of a row that a schema has, without those that it makes itself."""
    return {name: getattr(row, name) for name in kind.model_fields if name not in but}

"""JSON that Postgres stores."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.blocks import dump

PIECES = st.sampled_from(["\x00", "\\u0000", "\\", '"', "\ud800", "\udfff", "é"]) | st.text(max_size=3)
TEXT = st.lists(PIECES, max_size=4).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def storable(value: Any) -> Any:
    """What Postgres shall hold: no NUL, no lone surrogate, the rest as it was."""
    if isinstance(value, str):
        return "".join("?" if "\ud800" <= c <= "\udfff" else c for c in value.replace("\x00", "\ufffd"))
    if isinstance(value, list):
        return [storable(item) for item in value]
    return {storable(key): storable(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(JSON)
def test_json_texts_hold_neither_nul_nor_lone_surrogates_and_all_else_unchanged(value: Any) -> None:
    assert json.loads(dump(value)) == storable(value)

"""JSON that Postgres stores."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evalservice.storable import dump

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


def test_what_is_no_json_becomes_what_comes_nearest() -> None:
    details = MappingProxyType({"mean": np.float64(0.5), 3: np.array([1, 2]), "path": PurePosixPath("a"), "x": "\x00"})
    assert json.loads(dump({"details": details})) == {"details": {"mean": 0.5, "3": [1, 2], "path": "a", "x": "\ufffd"}}

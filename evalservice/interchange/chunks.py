"""What every export gives out: pieces of a file, and how many rows are in each."""

from __future__ import annotations

import io
from typing import Any

Chunk = tuple[bytes, int]
"""Some bytes of the export, and how many more rows are in it by now."""


class Drain(io.RawIOBase):
    """What was written since it was last asked."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def taken(self) -> bytes:
        """Gives it away."""
        parts, self._parts = self._parts, []
        return b"".join(parts)

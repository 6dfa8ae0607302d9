"""How much a log may have of each kind. Its size alone says little: time and memory grow with products of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.errors import InvalidInput, shown
from evalservice.scoring.imported import MAX_METRICS

MAX_EPOCHS: Final = 1_000
MAX_GROUP_MEMBERS: Final = 5_000


def check_metrics(count: int, file: str) -> None:
    """Raises InvalidInput for a log of more metrics than a run may have: each is computed for each test case."""
    _check(count, MAX_METRICS, "a log of", "metrics", file)


def check_epochs(count: int, where: str) -> None:
    """Raises InvalidInput for a test case of more epochs or repeats than anybody asks."""
    _check(count, MAX_EPOCHS, "a test case of", "epochs", where)


def check_group_members(count: int, file: str) -> None:
    """Raises InvalidInput for more members of groups than are compared with their groups in seconds."""
    _check(count, MAX_GROUP_MEMBERS, "a log of", "members of groups", file)


def _check(count: int, most: int, whole: str, what: str, where: str) -> None:
    if count > most:
        raise InvalidInput("file", where, f"{whole} at most {most:,} {what}; this has {count:,} or more")


@dataclass(slots=True)
class ItemSizes:
    """How large each test case of a log is: all its rows, or all its epochs, are in memory together."""

    _bytes: dict[str | int, int] = field(default_factory=dict)

    def add(self, item: str | int, size: int, where: str) -> None:
        """Raises InvalidInput when a test case becomes larger than a record may be."""
        self._bytes[item] = self._bytes.get(item, 0) + size
        if self._bytes[item] > MAX_RECORD_BYTES:
            most = f"a test case of at most {MAX_RECORD_BYTES >> 20} MiB, all its epochs together"
            raise InvalidInput("file", where, f"{most}; {shown(item, 40)} has more")

"""How much a log may have of each kind. Its size alone says little: what is computed grows with products of these."""

from __future__ import annotations

from typing import Final

from evalservice.errors import InvalidInput
from evalservice.scoring.imported import MAX_METRICS

MAX_GROUP_MEMBERS: Final = 5_000


def check_metrics(count: int, file: str) -> None:
    """Raises InvalidInput for a log of more metrics than a run may have: each is computed for each test case."""
    _check(count, MAX_METRICS, "metrics", file)


def check_group_members(count: int, file: str) -> None:
    """Raises InvalidInput for more members of groups than are compared with their groups in seconds."""
    _check(count, MAX_GROUP_MEMBERS, "members of groups", file)


def _check(count: int, most: int, what: str, file: str) -> None:
    if count > most:
        raise InvalidInput("file", file, f"a log of at most {most:,} {what}; this has {count:,} or more")

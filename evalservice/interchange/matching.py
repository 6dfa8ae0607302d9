"""Which test case of a registered dataset each item of a log is: by position, by id, or by what is asked.

That the ids agree is not enough, since many data sets count from 1: what the test case asks must occur in what the log
asked. Items must be the dataset's test cases from the first on; a log of fewer is a run with a limit.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalservice.catalog.blocks import Block, asked_order, read_block
from evalservice.catalog.snapshots import GROUP_ROWS, Snapshot
from evalservice.errors import Conflict
from evalservice.interchange.records import LogItem
from evalservice.records import JSON, TestCase

_KEPT_CHARS = 80
"""Of what a test case asks, its end: beginnings are often the same instruction."""


@dataclass(slots=True)
class Matcher:
    """The places of a dataset's test cases. 200 bytes or so a test case, however long they are."""

    dataset: str
    snapshot: Snapshot
    _asked: list[str] = field(default_factory=list)
    _by_id: dict[str, int] = field(default_factory=dict)
    _by_text: dict[bytes, deque[int]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        for case in cases_of(self.snapshot):
            text = _asked(case.input)
            self._asked.append(text[-_KEPT_CHARS:])
            self._by_text[_digest(text)].append(case.index)
            if case.id:
                self._by_id[case.id] = case.index

    def places(self, items: Iterator[LogItem], *, same_content: bool, order_seed: int | None = None) -> list[int]:
        """Each item's place, in the items' order. same_content: the log says that it measured this very snapshot.
        order_seed: of the order in which a run of ours asked.

        Raises Conflict for an item that is none of the dataset's, for two of one place, and for a gap.
        """
        found: list[int] = []
        for item in items:
            place = item.index if same_content and item.index is not None else self._place(item)
            if place is None or place >= self.snapshot.total:
                raise Conflict(
                    f"dataset: {self.dataset!r} has no test case like the log's item {item.id or len(found)!r}: import "
                    "it without --dataset and --benchmark, and it gets a dataset of its own"
                )
            found.append(place)
        whole = self.snapshot.total
        if len(found) > whole or sorted(found) != sorted(asked_order(whole, len(found), order_seed)):
            raise Conflict(
                f"dataset: the log's {len(found)} items are not the first of the {self.snapshot.total} test cases of "
                f"{self.dataset!r}, each once: import it without --dataset and --benchmark"
            )
        return found

    def _place(self, item: LogItem) -> int | None:
        texts = _texts(item)
        by_id = self._by_id.get(item.id)
        if by_id is not None:
            return by_id if self._asked[by_id] in texts else None
        waiting = self._by_text.get(_digest(_asked(item.input)))
        return waiting.popleft() if waiting else None


def cases_of(snapshot: Snapshot) -> Iterator[TestCase]:
    """All test cases, a row group at a time."""
    for start in range(0, snapshot.total, GROUP_ROWS):
        yield from read_block(snapshot, Block(start, min(start + GROUP_ROWS, snapshot.total)))


def _asked(value: JSON) -> str:
    """The question in an input: a text, the last message of a conversation, or all texts of an object."""
    if isinstance(value, dict) and isinstance(value.get("messages"), list) and value["messages"]:
        return _plain(value["messages"][-1])
    return _plain(value)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def _texts(item: LogItem) -> str:
    return " ".join(map(_plain, (item.input, item.prompt, dict(item.metadata))))


def _plain(value: Any) -> str:
    """All texts of a JSON value, white space as single spaces."""
    parts: list[str] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            parts.append(each)
        elif isinstance(each, dict):
            waiting.extend(reversed([v for k, v in each.items() if k != "role"]))
        elif isinstance(each, list | tuple):
            waiting.extend(reversed(each))
    return " ".join(" ".join(parts).split())


def as_placed(places: Sequence[int] | None, items: Iterator[LogItem]) -> Iterator[tuple[int, LogItem]]:
    """Each item with its place: its number, where the dataset was made of this very log."""
    return enumerate(items) if places is None else zip(places, items, strict=True)

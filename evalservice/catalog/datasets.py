"""From a stream of records to a snapshot: mapped, validated, hashed and stored in one pass, or refused as a whole.

    snapshot(read_records("test.jsonl"), "/data", "org-1", mapping=FieldMapping(input="question", expected="answer"))
    -> Snapshot(uri="/data/org-1/datasets/9f2c…", total=1319, content_hash="9f2c…", has_ground_truth=True, ...)

The content hash is the SHA-256 of the test cases as canonical JSON (sorted keys, one a line), so that it depends on
what is asked and expected, not on the file's format, field names or key order.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from evalservice.catalog.blocks import Block, plan_blocks, read_block
from evalservice.catalog.formats import Record
from evalservice.catalog.jsonschemas import CompiledSchema, compiled_schema
from evalservice.catalog.mapping import CaseParts, FieldMapping, Normaliser, Unusable
from evalservice.catalog.snapshots import Row, Shard, Snapshot, SnapshotWriter, open_snapshot
from evalservice.errors import BadRecord, InvalidInput, InvalidRecords
from evalservice.records import JSON, TestCase

__all__ = [
    "Block",
    "FieldMapping",
    "Shard",
    "Snapshot",
    "check_records",
    "load_cases",
    "open_snapshot",
    "plan_blocks",
    "read_block",
    "snapshot",
]

_ORGANIZATION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def snapshot(
    records: Iterable[Record],
    data_root_uri: str,
    organization_id: object,
    *,
    mapping: FieldMapping | None = None,
    input_schema: object = None,
    output_schema: object = None,
    source: str = "file",
) -> Snapshot:
    """Stores the records as a snapshot, or finds the one that has the same content.

    Raises `InvalidRecords` (the first 20 bad ones, and how many there are), `InvalidInput` or `StorageFailed`; then,
    as after any other failure, nothing is left behind. `source` names the records in errors.
    """
    organization = str(organization_id)
    if not _ORGANIZATION.fullmatch(organization):
        raise InvalidInput("organization", organization, "letters, digits, - and _")
    intake = _Intake(mapping or FieldMapping(), input_schema, output_schema, source)
    writer = SnapshotWriter(data_root_uri, organization)
    try:
        for line, record in records:
            row = intake.take(line, record)
            if row is not None and not intake.total_bad:
                writer.add(row, intake.last_bytes)
        intake.conclude()
        return writer.publish(intake.hash.hexdigest(), intake.has)
    except BaseException:
        writer.abort()
        raise


def check_records(
    records: Iterable[Record],
    *,
    mapping: FieldMapping | None = None,
    input_schema: object = None,
    output_schema: object = None,
    source: str = "test_cases",
) -> str:
    """Validates the records as `snapshot` does, stores nothing, and gives their content hash."""
    intake = _Intake(mapping or FieldMapping(), input_schema, output_schema, source)
    for line, record in records:
        intake.take(line, record)
    intake.conclude()
    return intake.hash.hexdigest()


def load_cases(records: Iterable[Record], *, mapping: FieldMapping | None = None) -> list[TestCase]:
    """The records as test cases, in memory: for small datasets. Raises what `snapshot` raises for bad ones."""
    intake = _Intake(mapping or FieldMapping(), None, None, "test_cases")
    rows = [row for line, record in records if (row := intake.take(line, record))]
    intake.conclude()
    load = orjson.loads
    return [
        TestCase(
            index=row[0], id=row[1], input=load(row[2]), expected_output=load(row[3]) if row[3] else None,
            choices=tuple(load(row[4])) if row[4] else None, cluster=row[5], metadata=load(row[6]) if row[6] else {},
        )
        for row in rows
    ]  # fmt: skip


@dataclass
class _Intake:
    """What is known after so many records: the hash, the bad ones, the ids."""

    mapping: FieldMapping
    input_schema: object
    output_schema: object
    source: str
    total: int = 0
    total_bad: int = 0
    last_bytes: int = 0
    bad: list[BadRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hash = hashlib.sha256()
        self.has = {"has_ground_truth": False, "has_clusters": False, "has_choices": False}
        self._inputs = compiled_schema(self.input_schema, "input_schema")
        self._outputs = compiled_schema(self.output_schema, "output_schema")
        self._normalise = Normaliser(self.mapping)
        self._ids = _Ids()
        self._read = 0

    def take(self, line: int, record: dict[str, JSON] | BadRecord) -> Row | None:
        """The next record as a row; None when it is bad."""
        self._read += 1
        if isinstance(record, BadRecord):
            self._refuse(record)
            return None
        try:
            parts = self._normalise(record)
            self._check(self._inputs, self.mapping.input, parts.input)
            if parts.expected_output is not None:
                self._check(self._outputs, self.mapping.expected, parts.expected_output)
            row = self._row(parts)
            self._ids.add(parts.id, line)
        except Unusable as unusable:
            self._refuse(BadRecord(line, unusable.field, unusable.problem))
            return None
        self.total += 1
        return row

    def conclude(self) -> None:
        """Raises what all the records together are guilty of."""
        if not self._read:
            raise InvalidInput("file", self.source, "a file with at least one record; this one has no records")
        if self._normalise.available:
            for part, name in {"input": self.mapping.input, **dict(self.mapping.asked_for())}.items():
                if part not in self._normalise.seen:
                    there = ", ".join(self._normalise.available)
                    raise InvalidInput(f"{part}_field", name, f"no record has it; there are: {there}")
        repeated, count = self._ids.repeated(InvalidRecords.SHOWN)
        bad = [BadRecord(line, self.mapping.id, f"the same id as line {first}") for line, first in repeated]
        self.total_bad += count
        if self.total_bad:
            ordered = sorted([*self.bad, *bad], key=lambda record: record.line)
            raise InvalidRecords(self.source, ordered, self.total_bad)

    def _refuse(self, record: BadRecord) -> None:
        self.total_bad += 1
        if len(self.bad) < InvalidRecords.SHOWN:
            self.bad.append(record)

    @staticmethod
    def _check(schema: CompiledSchema | None, name: str, value: JSON) -> None:
        if schema is not None and (problem := schema.problem(value)):
            raise Unusable(".".join(part for part in (name, problem[0]) if part), problem[1])

    def _row(self, parts: CaseParts) -> Row:
        mapping = self.mapping
        text = _canonical(mapping.input, parts.input)
        expected = _canonical(mapping.expected, parts.expected_output)
        choices = _canonical(mapping.choices, parts.choices)
        metadata = _canonical(mapping.metadata, parts.metadata)
        cluster, own_id = _canonical(mapping.cluster, parts.cluster), _canonical(mapping.id, parts.id)
        line = (
            b'{"choices":%b,"cluster":%b,"expected_output":%b,"id":%b,"input":%b,"metadata":%b}\n'
            % (choices, cluster, expected, own_id, text, metadata)
        )  # fmt: skip
        self.hash.update(line)
        self.last_bytes = len(line)
        self.has["has_ground_truth"] |= parts.expected_output is not None
        self.has["has_clusters"] |= parts.cluster is not None
        self.has["has_choices"] |= parts.choices is not None
        return (
            self.total,
            parts.id,
            text,
            None if parts.expected_output is None else expected,
            None if parts.choices is None else choices,
            parts.cluster,
            None if parts.metadata is None else metadata,
        )


def _canonical(name: str, value: Any) -> bytes:
    """A value as canonical JSON that Postgres can store, or `Unusable`."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        problem = str(error)
        if "surrogate" in problem:
            problem = "half a surrogate pair (\\ud800 to \\udfff) is not text"
        elif "Recursion" in problem:
            problem = "nested too deeply"
        raise Unusable(name, problem) from None
    if b"\\u0000" in text and _has_nul(value):
        raise Unusable(name, "a NUL character (\\u0000), which the database cannot store")
    if b"null" in text and _has_nonfinite(value):
        raise Unusable(name, "NaN or infinity is not JSON: write null, or a string")
    return text


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_has_nul(item) for item in value)


def _has_nonfinite(value: Any) -> bool:
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, dict):
        return any(_has_nonfinite(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_nonfinite(item) for item in value)


class _Ids:
    """Finds ids that come again, in 24 bytes an id: a 128-bit hash and the line."""

    def __init__(self) -> None:
        self._high, self._low, self._lines = array("Q"), array("Q"), array("Q")

    def add(self, own_id: str, line: int) -> None:
        if own_id:
            digest = hashlib.blake2b(own_id.encode(), digest_size=16).digest()
            self._high.append(int.from_bytes(digest[:8], "little"))
            self._low.append(int.from_bytes(digest[8:], "little"))
            self._lines.append(line)

    def repeated(self, shown: int) -> tuple[list[tuple[int, int]], int]:
        """The first repetitions as (line, line of the id's first record), by line, and how many there are."""
        high = np.frombuffer(self._high, dtype=np.uint64) if self._high else np.zeros(0, dtype=np.uint64)
        ordered = np.sort(high)
        if not (ordered[1:] == ordered[:-1]).any():
            return [], 0
        low = np.frombuffer(self._low, dtype=np.uint64)
        order = np.lexsort((low, high))
        same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
        again = np.flatnonzero(same) + 1
        starts = np.maximum.accumulate(np.where(np.concatenate(([True], ~same)), np.arange(len(order)), 0))
        lines = np.frombuffer(self._lines, dtype=np.uint64)
        pairs = sorted(
            (int(lines[order[position]]), int(lines[order[starts[position]]])) for position in again.tolist()
        )
        return pairs[:shown], len(again)

"""Blocks of a snapshot: the pieces that a run works on, at most 256 test cases each.

plan_blocks(600, skip={0, 1, 300}) -> [Block(2, 256), Block(256, 512, only=(256, ..., 299, 301, ...)), Block(512, 600)]

A run that is a random sample, or is looked at while it goes on, asks in a random order: see `random_order`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from evalservice.catalog.snapshots import GROUP_ROWS, Shard, Snapshot, filesystem_of, first_line
from evalservice.errors import StorageFailed
from evalservice.records import TestCase


@dataclass(frozen=True, slots=True)
class Block:
    """Test cases `start` to `stop` (exclusive), or of these only the indices in `only`, ascending."""

    start: int
    stop: int
    only: tuple[int, ...] | None = None

    def indices(self) -> Sequence[int]:
        """The indices of the block's test cases, ascending."""
        return range(self.start, self.stop) if self.only is None else self.only

    def __len__(self) -> int:
        return self.stop - self.start if self.only is None else len(self.only)


def plan_blocks(
    total: int, block_rows: int = GROUP_ROWS, skip: Iterable[int] | npt.NDArray[np.bool_] = ()
) -> list[Block]:
    """Blocks that cover each index below `total` once, except those to skip: indices, or a mask of `total` booleans.

    No block crosses a row group's boundary, so that none reads more than it must.
    """
    if not 1 <= block_rows <= GROUP_ROWS:
        raise ValueError(f"a block has 1 to {GROUP_ROWS} rows, not {block_rows}")
    done = _mask(total, skip)
    blocks = []
    for group in range(0, total, GROUP_ROWS):
        group_stop = min(group + GROUP_ROWS, total)
        for start in range(group, group_stop, block_rows):
            stop = min(start + block_rows, group_stop)
            left = np.flatnonzero(~done[start:stop]) + start
            if not len(left):
                continue
            first, last = int(left[0]), int(left[-1]) + 1
            whole = len(left) == last - first
            blocks.append(Block(first, last, None if whole else tuple(left.tolist())))
    return blocks


@lru_cache(maxsize=8)
def random_order(total: int, seed: int) -> npt.NDArray[np.int64]:
    """The indices below `total` in the random order of a seed, the same for ever and everywhere; read only.

    They are sorted by SplitMix64 (Steele, Lea and Flood 2014), because numpy may change its own permutations.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    z = np.uint64(seed % 2**64) + golden * np.arange(1, total + 1, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order = np.argsort(z ^ (z >> np.uint64(31)), kind="stable")
    order.flags.writeable = False
    return order


def asked_order(total: int, count: int, seed: int | None) -> npt.NDArray[np.int64]:
    """The `count` test cases of `total` that a run asks, in the order in which it does."""
    return np.arange(count) if seed is None else random_order(total, seed)[:count]


def plan_ordered_blocks(order: npt.NDArray[np.int64], block_rows: int, skip: npt.NDArray[np.bool_]) -> list[Block]:
    """Blocks of `block_rows` test cases, one after the other in this order, but for those to skip (a mask)."""
    left = order[~skip[order]]
    chunks = (np.sort(left[start : start + block_rows]).tolist() for start in range(0, len(left), block_rows))
    return [Block(chunk[0], chunk[-1] + 1, tuple(chunk)) for chunk in chunks]


def _mask(total: int, skip: Iterable[int] | npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if isinstance(skip, np.ndarray) and skip.dtype == np.bool_:
        if len(skip) < total:
            raise ValueError(f"a mask of {len(skip)} for {total} test cases")
        return skip[:total]
    mask = np.zeros(total, dtype=np.bool_)
    indices = np.fromiter(skip, dtype=np.int64)
    mask[indices[(indices >= 0) & (indices < total)]] = True
    return mask


def read_block(snapshot: Snapshot, block: Block) -> list[TestCase]:
    """The block's test cases, by index. Reads only the row groups that hold them."""
    if not 0 <= block.start < block.stop <= snapshot.total:
        raise ValueError(f"block {block.start}–{block.stop} of a snapshot of {snapshot.total} test cases")
    first = bisect_right(snapshot.shards, block.start, key=lambda shard: shard.first_index) - 1
    cases: list[TestCase] = []
    for shard in snapshot.shards[first:]:
        if shard.first_index >= block.stop:
            break
        try:
            cases += _read_shard(snapshot.uri, shard, block)
        except (OSError, pa.ArrowException, ValueError, TypeError) as error:
            raise StorageFailed(f"snapshot {snapshot.uri}: {shard.name} cannot be read: {first_line(error)}") from error
    if [case.index for case in cases] != list(block.indices()):
        raise StorageFailed(f"snapshot {snapshot.uri}: test cases {block.start}–{block.stop} are not all there")
    return cases


@lru_cache(maxsize=64)
def _footer(uri: str, name: str, size: int) -> tuple[Any, str, Any, tuple[int, ...]]:
    """A shard's filesystem, path, metadata and the first row of each of its row groups."""
    filesystem, folder = filesystem_of(uri)
    path = f"{folder}/{name}"
    with filesystem.open_input_file(path) as file:
        metadata = pq.read_metadata(file)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return filesystem, path, metadata, tuple(starts)


def _read_shard(uri: str, shard: Shard, block: Block) -> list[TestCase]:
    filesystem, path, metadata, starts = _footer(uri, shard.name, shard.bytes)
    indices = np.asarray(block.indices(), dtype=np.int64)
    wanted = indices[(indices >= shard.first_index) & (indices < shard.first_index + shard.rows)]
    if not len(wanted):
        return []
    groups = np.unique(np.searchsorted(starts, wanted - shard.first_index, side="right") - 1)
    with filesystem.open_input_file(path) as file:
        source = pq.ParquetFile(file, metadata=metadata, pre_buffer=True, page_checksum_verification=True)
        table = source.read_row_groups(groups.tolist(), use_threads=False)
    table = table.filter(pa.array(np.isin(table.column("index").to_numpy(), wanted)))
    columns = (table.column(name).to_pylist() for name in _COLUMNS)
    load = orjson.loads
    return [
        TestCase(
            index=index,
            input=load(text),
            id=own_id,
            expected_output=None if expected is None else load(expected),
            choices=None if choices is None else tuple(load(choices)),
            cluster=cluster,
            metadata={} if metadata is None else load(metadata),
        )
        for index, own_id, text, expected, choices, cluster, metadata in zip(*columns, strict=True)
    ]


_COLUMNS = ("index", "id", "input", "expected_output", "choices", "cluster", "metadata")

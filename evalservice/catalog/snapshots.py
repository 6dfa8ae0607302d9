"""A snapshot: a dataset's test cases as Parquet shards and an index, named by the hash of their content.

    {data root}/{organization}/datasets/{content hash}/shard-00000.parquet, ..., index.json

    index.json: {"format_version": 1, "content_hash": "9f2c…", "total": 70000, "has_ground_truth": true,
                 "has_clusters": false, "has_choices": false,
                 "shards": [{"name": "shard-00000.parquet", "rows": 65536, "first_index": 0, "bytes": 4210000}, ...]}

A shard's columns are index, id, cluster and, as JSON text with sorted keys, input, expected_output, choices and
metadata. A row group ends at every 256th test case, so that a block of a run reads one. The index is written last:
a folder without it is no snapshot. Shards are written beside their place and moved there when the hash is known.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from evalservice.errors import EvalserviceError, StorageFailed

FORMAT_VERSION: Final = 1
GROUP_ROWS: Final = 256
SHARD_ROWS: Final = 65_536
GROUP_BYTES: Final = 16 << 20
SHARD_BYTES: Final = 256 << 20
STALE_SECONDS: Final = 24 * 3600

SCHEMA: Final = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("expected_output", pa.string()),
        pa.field("choices", pa.string()),
        pa.field("cluster", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)

Row = tuple[int, str, bytes, bytes | None, bytes | None, str | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One Parquet file of a snapshot."""

    name: str
    rows: int
    first_index: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What index.json says, and where."""

    uri: str
    total: int
    content_hash: str
    shards: tuple[Shard, ...]
    has_ground_truth: bool
    has_clusters: bool
    has_choices: bool


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The Arrow filesystem of a URI or local path, and the path on it."""
    try:
        if "://" not in uri:
            return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageFailed(f"data root {uri}: not a folder or an Arrow filesystem URI: {first_line(error)}") from error
    return filesystem, path


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@lru_cache(maxsize=256)
def open_snapshot(uri: str) -> Snapshot:
    """The snapshot at a URI; its index is read once a process."""
    filesystem, path = filesystem_of(uri)
    try:
        return read_index(filesystem, path, uri)
    except FileNotFoundError as error:
        raise StorageFailed(f"snapshot {uri}: there is none (no index.json); add the dataset again") from error
    except OSError as error:
        raise StorageFailed(f"snapshot {uri}: {first_line(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageFailed(f"snapshot {uri}: index.json is damaged: {first_line(error)}") from error


def read_index(filesystem: Any, path: str, uri: str) -> Snapshot:
    """The snapshot whose index lies in a folder; raises OSError, ValueError, KeyError or TypeError if it has none."""
    with filesystem.open_input_stream(f"{path}/index.json") as stream:
        index = orjson.loads(stream.read())
    version = index.pop("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"format version {version}, this version reads {FORMAT_VERSION}")
    shards = tuple(Shard(**shard) for shard in index.pop("shards"))
    snapshot = Snapshot(uri=uri, shards=shards, **index)
    first = 0
    for shard in shards:
        if shard.first_index != first:
            raise ValueError(f"{shard.name} does not follow the shard before it")
        first += shard.rows
    if first != snapshot.total:
        raise ValueError(f"{snapshot.total} test cases, but the shards have {first}")
    return snapshot


class SnapshotWriter:
    """Writes rows to shards in a temporary folder. `publish` makes them a snapshot, `abort` leaves nothing."""

    def __init__(self, data_root_uri: str, organization_id: str) -> None:
        self._root = data_root_uri
        self._filesystem, root = filesystem_of(data_root_uri)
        self._local = isinstance(self._filesystem, pafs.LocalFileSystem)
        shown_root = data_root_uri if "://" in data_root_uri else root
        self._base_uri = f"{shown_root.rstrip('/')}/{organization_id}/datasets"
        self._base = f"{root.rstrip('/')}/{organization_id}/datasets"
        self._temporary = f"{self._base}/.tmp-{uuid.uuid4().hex}"
        self._shards: list[Shard] = []
        self._sink: Any = None
        self._writer: Any = None
        self._rows: list[Row] = []
        self._group_bytes = self._shard_bytes = 0
        self._first = self._total = 0
        with self.failures():
            self._filesystem.create_dir(self._temporary, recursive=True)
            self._sweep()

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turns what the filesystem raises into one line that names the data root."""
        try:
            yield
        except EvalserviceError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StorageFailed(
                f"data root {self._root}: the snapshot cannot be written: {first_line(error)}"
            ) from error

    def add(self, row: Row, size: int) -> None:
        """Takes the next row; `size` is about its bytes."""
        self._rows.append(row)
        self._total += 1
        self._group_bytes += size
        if self._total % GROUP_ROWS == 0 or self._group_bytes >= GROUP_BYTES:
            with self.failures():
                self._end_group()
                rows = self._total - self._first
                if self._total % GROUP_ROWS == 0 and (rows >= SHARD_ROWS or self._shard_bytes >= SHARD_BYTES):
                    self._end_shard()

    def publish(self, content_hash: str, has: dict[str, bool]) -> Snapshot:
        """Moves the shards into place, or finds that the same content is there already."""
        with self.failures():
            self._end_group()
            self._end_shard()
            target = f"{self._base}/{content_hash}"
            uri = f"{self._base_uri}/{content_hash}"
            snapshot = Snapshot(uri, self._total, content_hash, tuple(self._shards), **has)
            existing = self._existing(target, uri)
            if existing:
                self.abort()
                return existing
            index = {"format_version": FORMAT_VERSION, **asdict(snapshot)}
            del index["uri"]
            self._write_file(f"{self._temporary}/index.json", orjson.dumps(index, option=orjson.OPT_INDENT_2))
            if self._local:
                return self._rename(target, uri) or snapshot
            self._move(target, uri)
            return snapshot

    def abort(self) -> None:
        """Closes and deletes whatever was written. Never raises: there is an error on its way already."""
        for opened in (self._writer, self._sink):
            with contextlib.suppress(Exception):
                if opened is not None:
                    opened.close()
        self._writer = self._sink = None
        with contextlib.suppress(Exception):
            self._filesystem.delete_dir(self._temporary)

    def _end_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._sink = self._filesystem.open_output_stream(f"{self._temporary}/{self._name()}")
            self._writer = pq.ParquetWriter(
                self._sink, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False,
                write_page_checksum=True,
            )  # fmt: skip
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), row_group_size=GROUP_ROWS)
        self._shard_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0

    def _end_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        size = self._sink.tell()
        self._sink.close()
        self._writer = self._sink = None
        self._shards.append(Shard(self._name(), self._total - self._first, self._first, size))
        self._first, self._shard_bytes = self._total, 0

    def _name(self) -> str:
        return f"shard-{len(self._shards):05}.parquet"

    def _write_file(self, path: str, content: bytes) -> None:
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def _existing(self, target: str, uri: str) -> Snapshot | None:
        """The snapshot in its place, if it is whole."""
        try:
            snapshot = read_index(self._filesystem, target, uri)
            files = self._filesystem.get_file_info([f"{target}/{shard.name}" for shard in snapshot.shards])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = all(info.size == shard.bytes for info, shard in zip(files, snapshot.shards, strict=True))
        return snapshot if whole else None

    def _move(self, target: str, uri: str) -> None:
        """Moves file by file, where folders cannot be renamed (object stores); the index last."""
        try:
            self._filesystem.create_dir(target, recursive=True)
            for name in [*(shard.name for shard in self._shards), "index.json"]:
                self._filesystem.move(f"{self._temporary}/{name}", f"{target}/{name}")
            self._filesystem.delete_dir(self._temporary)
        except BaseException:
            if self._existing(target, uri) is None:
                with contextlib.suppress(Exception):
                    self._filesystem.delete_dir(target)
            raise

    def _rename(self, target: str, uri: str) -> Snapshot | None:
        """Renames the folder; another writer's snapshot of the same content stays, remains of a broken one go."""
        for name in [*(shard.name for shard in self._shards), "index.json", ""]:
            _sync(os.path.join(self._temporary, name))
        for _ in range(3):
            try:
                os.rename(self._temporary, target)
            except OSError:
                if existing := self._existing(target, uri):
                    self.abort()
                    return existing
                if not os.path.isdir(target):
                    raise
                self._filesystem.delete_dir(target)
            else:
                _sync(self._base)
                return None
        raise StorageFailed(f"data root {self._root}: {target} cannot be replaced")

    def _sweep(self) -> None:
        """Deletes temporary folders that a killed process left a day ago or earlier."""
        if not self._local:
            return
        for entry in os.scandir(self._base):
            with contextlib.suppress(OSError):
                if entry.name.startswith(".tmp-") and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                    self._filesystem.delete_dir(entry.path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

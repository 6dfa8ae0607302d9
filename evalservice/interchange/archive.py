"""A zip archive whose members are stored, deflated or zstd-compressed: read one at a time, within bounds.

Nothing is unpacked to disk and no name is a path here; a name that would be one elsewhere is refused all the same.
Python's zipfile lists zstd members (method 93) and cannot read them before 3.14; Arrow can, several frames included.
"""

from __future__ import annotations

import copy
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any, Final, cast

import pyarrow as pa

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.catalog.snapshots import first_line
from evalservice.errors import InvalidInput

ZSTD: Final = 93
MAX_MEMBERS: Final = 2_000_000
MAX_RATIO: Final = 1000
"""All members together unpack to at most so many times the archive's size, and 64 MiB: a log is text, no bomb."""
_READABLE: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, ZSTD)
_ENCRYPTED: Final = 0x01 | 0x40  # the old way, and the strong one
_PATCH: Final = 0x20
_DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, pa.ArrowException, ValueError, NotImplementedError,
)  # fmt: skip


class Archive:
    """The members of a zip file by name; of a name that occurs twice the last."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Raises InvalidInput for what is no zip file, is cut off, or has members that no log has."""
        self._name = name
        size = file.seek(0, 2)
        self._left = size * MAX_RATIO + MAX_RECORD_BYTES
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError) as error:
            raise InvalidInput("file", name, f"a whole zip archive ({first_line(error)})") from None
        found = self._zip.infolist()
        if len(found) > MAX_MEMBERS:
            raise InvalidInput("file", name, f"an archive of at most {MAX_MEMBERS:,} members; this has {len(found):,}")
        self.members: Mapping[str, zipfile.ZipInfo] = {info.filename: info for info in found}
        for info in self.members.values():
            self._check(info)

    def _check(self, info: zipfile.ZipInfo) -> None:
        steps = info.filename.replace("\\", "/").split("/")
        if ".." in steps or steps[0] == "" or steps[0].endswith(":"):
            raise InvalidInput("member", info.filename, f"no name that leads out of the archive {self._name}")
        if info.flag_bits & _ENCRYPTED:
            raise InvalidInput("member", info.filename, "a member that is not encrypted")
        if info.flag_bits & _PATCH:
            raise InvalidInput("member", info.filename, "a whole member, not a patch of another file")
        if info.compress_type not in _READABLE:
            raise InvalidInput("member", info.filename, f"stored, deflate or zstd, not method {info.compress_type}")
        if info.file_size > MAX_RECORD_BYTES:
            raise self._too_large(info)

    def read(self, member: str) -> bytes:
        """A member's bytes. Raises InvalidInput when it is damaged or larger than it may be."""
        info = self.members[member]
        try:
            text = self._unpacked(info)
        except _DAMAGED as error:
            raise InvalidInput("member", member, f"a whole member of {self._name} ({first_line(error)})") from None
        self._left -= len(text)
        if len(text) > MAX_RECORD_BYTES:
            raise self._too_large(info)
        if self._left < 0:
            raise InvalidInput("file", self._name, f"an archive that unpacks to at most {MAX_RATIO} times its size")
        if info.compress_type == ZSTD and zlib.crc32(text) != info.CRC:
            raise InvalidInput("member", member, f"a whole member of {self._name} (its checksum differs)")
        return text

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        if info.compress_type != ZSTD:
            with self._zip.open(info) as stream:
                return stream.read(MAX_RECORD_BYTES + 1)
        raw = cast(Any, copy.copy(info))
        raw.compress_type, raw.file_size, raw.CRC = zipfile.ZIP_STORED, info.compress_size, None
        with self._zip.open(raw) as packed, pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd") as stream:
            return bytes(stream.read(MAX_RECORD_BYTES + 1))

    def _too_large(self, info: zipfile.ZipInfo) -> InvalidInput:
        return InvalidInput("member", info.filename, f"at most {MAX_RECORD_BYTES >> 20} MiB unpacked")

"""Files that a tenant sent, until they are registered as datasets: DATA_ROOT/ORGANIZATION/uploads/NAME.

They live on the data root because the next request may be answered on another node. A name is a plain file name: there
is no path in it, and what a link leads to is not read.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs

from evalservice.catalog.snapshots import filesystem_of, first_line
from evalservice.errors import InvalidInput, NotFound, StorageFailed, TooLarge

KEPT_FOR: Final = timedelta(days=1)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_COPY_BYTES: Final = 4 << 20


def check_name(name: str, field: str = "file_path") -> str:
    """Raises InvalidInput for what is no plain file name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            field,
            name,
            "the name of an uploaded file: letters, digits, dots, - and _, no folders (no path is followed)",
        )
    return name


class Upload:
    """One file on its way in. It gets its name when it is whole; until then nobody sees it."""

    def __init__(self, data_root: str, organization_id: uuid.UUID, name: str, limit: int) -> None:
        self._filesystem, self._folder = _folder(data_root, organization_id)
        self._target = f"{self._folder}/{check_name(name, 'name')}"
        self._partial = f"{self._folder}/.{uuid.uuid4().hex}.partial"
        self._limit = limit
        self.size = 0
        with _failures(name):
            self._filesystem.create_dir(self._folder, recursive=True)
            self._stream = self._filesystem.open_output_stream(self._partial)

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge, StorageFailed."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise TooLarge(f"the file is larger than {self._limit} bytes")
        with _failures(self._target):
            self._stream.write(chunk)

    def finish(self) -> None:
        """Give the file its name, in the place of one that had it."""
        with _failures(self._target):
            self._stream.close()
            self._filesystem.move(self._partial, self._target)

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, pa.ArrowException):
            self._stream.close()
        with suppress(OSError, pa.ArrowException):
            self._filesystem.delete_file(self._partial)


@contextmanager
def opened_upload(data_root: str, organization_id: uuid.UUID, name: str) -> Iterator[Path]:
    """An uploaded file as a local path; from a remote data root a copy of it, which goes at the end.

    Raises InvalidInput (a path, a link), NotFound.
    """
    filesystem, folder = _folder(data_root, organization_id)
    path = f"{folder}/{check_name(name)}"
    with _failures(name):
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            raise NotFound("file_path", name, "upload it first: PUT /v1/dataset-files/NAME")
    if isinstance(filesystem, pafs.LocalFileSystem):
        if os.path.islink(path) or Path(path).resolve().parent != Path(folder).resolve():
            raise InvalidInput("file_path", name, "a regular file, no link")
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="evalservice-") as local:
        copy = Path(local) / name
        with _failures(name), filesystem.open_input_stream(path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        yield copy


def remove_upload(data_root: str, organization_id: uuid.UUID, name: str) -> None:
    """Raises InvalidInput, NotFound."""
    filesystem, folder = _folder(data_root, organization_id)
    path = f"{folder}/{check_name(name, 'name')}"
    with _failures(name):
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            raise NotFound("name", name, "no such uploaded file")
        filesystem.delete_file(path)


def sweep_uploads(data_root: str, now: datetime | None = None) -> int:
    """Delete what was uploaded more than a day ago and never removed; gives how many files."""
    filesystem, root = filesystem_of(data_root)
    before = (now or datetime.now(UTC)) - KEPT_FOR
    gone = 0
    with suppress(OSError, pa.ArrowException):
        for organization in filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True)):
            selector = pafs.FileSelector(f"{organization.path}/uploads", allow_not_found=True)
            for found in filesystem.get_file_info(selector):
                if found.type == pafs.FileType.File and found.mtime is not None and found.mtime < before:
                    filesystem.delete_file(found.path)
                    gone += 1
    return gone


def _folder(data_root: str, organization_id: uuid.UUID) -> tuple[Any, str]:
    filesystem, root = filesystem_of(data_root)
    return filesystem, f"{root}/{organization_id}/uploads"


@contextmanager
def _failures(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageFailed(f"{name}: the data root cannot be used: {first_line(error)}") from error

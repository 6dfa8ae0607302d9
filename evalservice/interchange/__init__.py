"""Results out of the platform and into it: a file per format; rows are streamed, so size does not matter."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from evalservice.errors import InvalidInput, StorageFailed
from evalservice.interchange import rows as plain
from evalservice.interchange.chunks import Chunk
from evalservice.interchange.eee_export import every_eval_ever_files
from evalservice.interchange.exporting import ExportedRun
from evalservice.interchange.inspect_export import inspect_chunks, inspect_name
from evalservice.interchange.lm_eval_export import lm_eval_files
from evalservice.interchange.zipping import zip_chunks


@dataclass(frozen=True, slots=True)
class Format:
    """How a run is written: its bytes, what they are over HTTP, what ends a file's name, and what it begins with."""

    chunks: Callable[[ExportedRun, Iterable[Any]], Iterator[Chunk]]
    media_type: str
    suffix: str
    stem: Callable[[ExportedRun], str] = lambda run: str(run.id)


FORMATS: Final = {
    "jsonl": Format(plain.jsonl_chunks, "application/x-ndjson", "jsonl"),
    "csv": Format(plain.csv_chunks, "text/csv; charset=utf-8", "csv"),
    "parquet": Format(plain.parquet_chunks, "application/vnd.apache.parquet", "parquet"),
    "lm-eval": Format(lambda run, rows: zip_chunks(lm_eval_files(run, rows)), "application/zip", "zip"),
    "inspect": Format(inspect_chunks, "application/json", "json", inspect_name),
    "every-eval-ever": Format(lambda run, rows: zip_chunks(every_eval_ever_files(run, rows)), "application/zip", "zip"),
}
BINARY: Final = tuple(name for name, each in FORMATS.items() if each.suffix in ("parquet", "zip"))


def export_chunks(run: ExportedRun, rows: Iterable[Any], file_format: str) -> Iterator[Chunk]:
    """Result rows as a file's bytes, piece by piece, with the number of rows in each. Raises InvalidInput (format)."""
    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"accepted are {', '.join(FORMATS)}")
    return FORMATS[file_format].chunks(run, rows)


def unpack_whole(chunks: Iterable[bytes], folder: Path) -> None:
    """Write an archive's files into a folder that exists. Raises StorageFailed."""
    packed = folder / f".{uuid.uuid4().hex}.zip"
    try:
        write_whole(chunks, packed)
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise StorageFailed(f"output: {str(folder)!r} cannot be written ({error})") from None
    finally:
        packed.unlink(missing_ok=True)


def write_whole(chunks: Iterable[bytes], target: Path | IO[bytes]) -> None:
    """Write a file beside its place and move it there when it is whole. Raises StorageFailed, InvalidInput."""
    if not isinstance(target, Path):
        for chunk in chunks:
            target.write(chunk)
        target.flush()
        return
    target = target.resolve()  # a link stays one, and its target gets the rows
    if target.exists() and not target.is_file():
        raise InvalidInput("output", str(target), "a regular file, or one that does not exist yet")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageFailed(f"output: {str(target)!r} cannot be written ({error.strerror or error})") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

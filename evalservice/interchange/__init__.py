"""Results out of the platform, a file per format; rows are streamed, so size does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from evalservice.errors import InvalidInput, StorageFailed
from evalservice.interchange import rows as plain

FORMATS: Final = {"jsonl": plain.jsonl_chunks, "csv": plain.csv_chunks, "parquet": plain.parquet_chunks}
MEDIA_TYPES: Final = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


def export_chunks(rows: Iterable[Any], file_format: str) -> Iterator[plain.Chunk]:
    """Result rows as a file's bytes, piece by piece, with the number of rows in each. Raises InvalidInput (format)."""
    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"accepted are {', '.join(FORMATS)}")
    return FORMATS[file_format](rows)


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

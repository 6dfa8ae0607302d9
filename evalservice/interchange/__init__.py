"""Results out of the platform, a file per format; rows are streamed, so size does not matter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from evalservice.errors import InvalidInput, StorageFailed
from evalservice.interchange import rows as plain

FORMATS = ("jsonl", "csv", "parquet")


def export_results(rows: Iterable[Any], file_format: str, target: Path | IO[bytes]) -> int:
    """Write result rows; gives how many. A file is written beside its place and moved there when it is whole.

    Raises InvalidInput for an unknown format, StorageFailed when the file cannot be written.
    """
    if file_format not in FORMATS:
        raise InvalidInput("format", file_format, f"accepted are {', '.join(FORMATS)}")
    write = {"jsonl": plain.write_jsonl, "csv": plain.write_csv, "parquet": plain.write_parquet}[file_format]
    if not isinstance(target, Path):
        return write(rows, target)
    target = target.resolve()  # a link stays one, and its target gets the rows
    if target.exists() and not target.is_file():
        raise InvalidInput("output", str(target), "a regular file, or one that does not exist yet")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            written = write(rows, file)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageFailed(f"output: {str(target)!r} cannot be written ({error.strerror or error})") from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return written

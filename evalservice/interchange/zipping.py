"""Files of unknown length, streamed out as one zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

from evalservice.interchange.chunks import Chunk, Drain

Member = tuple[str, Iterable[Chunk]]
"""A file's name, and its bytes piece by piece."""


def zip_chunks(members: Iterable[Member]) -> Iterator[Chunk]:
    """The archive piece by piece; one member is finished before the next is asked for."""
    drain = Drain()
    with zipfile.ZipFile(drain, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, chunks in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                for text, rows in chunks:
                    member.write(text)
                    yield drain.taken(), rows
    yield drain.taken(), 0

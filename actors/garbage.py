"""Cyclic garbage collection in a process through which thousands of rows a second pass: an actor, a driver."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Leave out what is there now, and look for cycles every 100,000 net allocations instead of every 700.

    A thousand requests in flight are a hundred thousand live objects, none of them in a cycle for long: with the
    defaults a fifth of a generation actor's time went into looking at them (tests/perf/NOTES.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)

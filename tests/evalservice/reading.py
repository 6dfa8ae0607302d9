"""What comes out of a log: its run, the values and rows that are stored, or why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from evalservice.interchange.criteria import scoring_of
from evalservice.interchange.logs import read_log
from evalservice.interchange.records import LogRun
from evalservice.interchange.result_rows import row_tables
from evalservice.runs.aggregates import Aggregator
from tests.logs import the_log

NO_SNAPSHOT: Any = None


def run_of(path: Path) -> LogRun:
    """The one run of a log."""
    [run] = read_log(the_log(path))
    return run


def values_of(run: LogRun) -> dict[str, float | None]:
    """The metrics, as our own code makes them of the items."""
    totals = Aggregator({"imported": run.metrics})
    for item in run.items():
        totals.add(item.cluster, item.error is None, item.scores)
    return {name: result["value"] for name, result in totals.results().items()}


def tables_of(path: Path) -> list[list[dict[str, Any]]]:
    """The rows of all runs, in the tables that are stored at once."""
    return [
        table.to_pylist()
        for run in read_log(the_log(path))
        for table in row_tables(enumerate(run.items()), NO_SNAPSHOT, scoring_of(run, None), None)
    ]


def refused(path: Path) -> str:
    """The message of the error."""
    with pytest.raises(InvalidInput) as caught:
        tables_of(path)
    return caught.value.message

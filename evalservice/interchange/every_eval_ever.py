"""Every Eval Ever 0.3: a file of aggregates, and beside it one of rows, one for each item and metric.

    <uuid>.json             {"model_info": {"id": …}, "evaluation_results": [{"evaluation_result_id": "acc", …}], …}
    <uuid>_samples.jsonl    {"sample_id": "0", "evaluation_result_id": "acc", "input": {"raw": …, "reference": ["1"]},
                             "output": {"raw": ["Paris"]}, "evaluation": {"score": 1.0, "is_correct": true}, …}

That such a file passes the schema says nothing about whether its rows are those of its aggregates: the checksum, the
number of rows and the mean of each metric's rows are compared here. A metric is called by its `evaluation_result_id`.
Repeats have no field of their own; converters write `metadata.epoch`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

from pydantic import Field

from evalservice.errors import InvalidInput
from evalservice.interchange.eee_rows import Row, item_of, row_of
from evalservice.interchange.limits import ItemSizes, check_epochs, check_metrics
from evalservice.interchange.logjson import LogShape, bad_line, document, finite, lines, opened
from evalservice.interchange.records import LogFiles, LogItem, LogRun
from evalservice.interchange.tally import Tally, disagreement

TOOL: Final = "every-eval-ever"
_HASHES: Final = {"sha256": hashlib.sha256, "md5": hashlib.md5}


class _Library(LogShape):
    name: str
    version: str


class _Model(LogShape):
    name: str
    id: str
    inference_platform: str | None = None


class _Source(LogShape):
    dataset_name: str


class _MetricConfig(LogShape):
    lower_is_better: bool


class _Details(LogShape):
    score: float | int


class _Result(LogShape):
    evaluation_result_id: str | None = None
    evaluation_name: str
    source_data: _Source
    metric_config: _MetricConfig
    score_details: _Details
    generation_config: dict[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """What rows call it."""
        return self.evaluation_result_id or self.evaluation_name


class _Sidecar(LogShape):
    file_path: str
    hash_algorithm: str | None = None
    checksum: str | None = None
    total_rows: int | None = None


class Aggregates(LogShape):
    """What is read of the main file."""

    schema_version: str
    evaluation_id: str
    evaluation_timestamp: str | None = None
    source_metadata: dict[str, Any]
    eval_library: _Library
    model_info: _Model
    evaluation_results: list[_Result]
    rows: _Sidecar | None = Field(default=None, alias="detailed_evaluation_results")


@dataclass(slots=True)
class _Sums:
    total: float = 0.0
    count: int = 0


@dataclass(slots=True)
class _Scan:
    """What the first pass over one dataset's rows found.

    places: item → epoch → metric → the row's first byte. unnamed: item and metric → the epoch from which on a row that
    names none may be.
    """

    places: dict[str, dict[int, dict[str, int]]] = field(default_factory=dict)
    unnamed: dict[tuple[str, str], int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    sizes: ItemSizes = field(default_factory=ItemSizes)
    sums: dict[str, _Sums] = field(default_factory=dict)

    def epoch_of(self, row: Row) -> int:
        """The epoch that a row names, else the first that lacks one of its metric."""
        if row.epoch is not None:
            return row.epoch
        of = row.sample_id, row.key
        known = self.places.get(row.sample_id, {})
        epoch = self.unnamed.get(of, 1)
        while row.key in known.get(epoch, ()):
            epoch += 1
        self.unnamed[of] = epoch
        return epoch

    def place(self, row: Row, epoch: int, start: int) -> bool:
        """Notes where a row is; False where its place is taken."""
        return self.places.setdefault(row.sample_id, {}).setdefault(epoch, {}).setdefault(row.key, start) == start

    def count(self, row: Row) -> None:
        """Adds a row's score; one with an error has none, whatever it says."""
        if row.error:
            return
        value = finite(row.evaluation.score)
        self.tally.add(row.key, value)
        sums = self.sums.setdefault(row.key, _Sums())
        sums.total += value or 0.0
        sums.count += value is not None


def read_every_eval_ever(log: LogFiles) -> list[LogRun]:
    """A run for each dataset of the file. Raises InvalidInput."""
    whole = document(log.path, log.main, Aggregates)
    if not whole.evaluation_results:
        raise InvalidInput(f"{log.main}: evaluation_results", [], "at least one result")
    check_metrics(len(whole.evaluation_results), log.main)
    name = _sidecar_name(log, whole)
    scans, count = _scanned(log, name, whole)
    if not scans:
        raise InvalidInput("file", name, "at least one row; aggregates alone cannot be compared or looked into")
    contradictions = _file_contradictions(log, name, whole, count)
    return [_run(log, name, whole, dataset, scan, contradictions) for dataset, scan in scans.items()]


def _sidecar_name(log: LogFiles, whole: Aggregates) -> str:
    """The file of rows: named in the main file, and always beside it, wherever its path says that it is."""
    wanted = (
        PurePosixPath(whole.rows.file_path).name if whole.rows else log.main.removesuffix(".json") + "_samples.jsonl"
    )
    if wanted not in log.paths:
        accepted = f"{wanted} beside it: aggregates without rows cannot be compared or looked into"
        raise InvalidInput("file", log.main, accepted)
    return wanted


def _scanned(log: LogFiles, name: str, whole: Aggregates) -> tuple[dict[str, _Scan], int]:
    keys = {result.key: result.source_data.dataset_name for result in whole.evaluation_results}
    names = {result.evaluation_name: result.source_data.dataset_name for result in whole.evaluation_results}
    scans: dict[str, _Scan] = {}
    count = 0
    with closing(opened(log.paths[name], name)) as file:
        for number, start, line in lines(file, name):
            row = row_of(line, f"{name}, line {number}")
            count += 1
            dataset = keys.get(row.key) or names.get(row.evaluation_name) or next(iter(names.values()))
            scan = scans.setdefault(dataset, _Scan())
            epoch = scan.epoch_of(row)
            if not scan.place(row, epoch, start):
                raise bad_line(
                    name, number, "sample_id", f"{row.sample_id!r} a second time for {row.key}, epoch {epoch}"
                )
            check_epochs(len(scan.places[row.sample_id]), f"{name}, line {number}")
            scan.sizes.add(row.sample_id, len(line), name)
            scan.count(row)
            check_metrics(len(scan.tally.seen), name)
    return {dataset: scan for dataset, scan in scans.items() if scan.tally.seen}, count


def _file_contradictions(log: LogFiles, name: str, whole: Aggregates, count: int) -> list[str]:
    found = []
    said = whole.rows
    if said is not None and said.checksum is not None:
        make = _HASHES.get(said.hash_algorithm or "sha256", hashlib.sha256)
        with opened(log.paths[name], name) as file:
            digest = hashlib.file_digest(file, make).hexdigest()
        if digest != said.checksum.lower():
            found.append(f"{name}: its checksum is {digest[:16]}…, stated is {said.checksum[:16]}…")
    if said is not None and said.total_rows is not None and said.total_rows != count:
        found.append(f"{name}: {said.total_rows} rows are stated, it has {count}")
    return found


def _run(log: LogFiles, name: str, whole: Aggregates, dataset: str, scan: _Scan, of_file: list[str]) -> LogRun:
    results = {r.key: r for r in whole.evaluation_results if r.source_data.dataset_name == dataset}
    scores = {key: finite(result.score_details.score) for key, result in results.items() if key in scan.sums}
    stated = {key: score for key, score in scores.items() if score is not None}
    contradictions = [
        f"{scan.sums[key].count} rows are of {key!r}, which is not among the results"
        for key in scan.sums
        if key not in results
    ]
    for key, value in stated.items():
        sums = scan.sums[key]
        found = sums.total / sums.count if sums.count else None
        if said := disagreement(key, value, found, sums.count, "samples"):
            contradictions.append(said)
    if contradictions:
        contradictions += [f"{key}: no row has it" for key in results if key not in scan.sums]
    lower = {key: result.metric_config.lower_is_better for key, result in results.items()}

    def items() -> Iterator[LogItem]:
        with closing(opened(log.paths[name], name)) as file:

            def at(start: int) -> Row:
                file.seek(start)
                return row_of(file.readline(), f"{name}, byte {start}")

            for own in sorted(scan.places, key=natural):
                epochs = scan.places[own]
                rows = [{key: at(start) for key, start in epochs[epoch].items()} for epoch in sorted(epochs)]
                yield item_of(rows, list(scan.tally.seen), whole.model_info.id)

    started = _moment(whole.evaluation_timestamp)
    generation = next((r.generation_config for r in results.values() if r.generation_config), {})
    return LogRun(
        task=dataset,
        model=whole.model_info.id,
        tool=TOOL,
        tool_version=whole.schema_version,
        measure=f"{TOOL} {whole.eval_library.name} {dataset}"[:500],
        metrics=scan.tally.metrics(lower),
        items=items,
        stated=stated,
        contradictions=(*of_file, *contradictions),
        notes=tuple(f"{key}: it has no rows" for key in results if key not in scan.sums),
        epochs=max(map(len, scan.places.values())),
        config=_config(generation.get("generation_args")),
        settings={
            "evaluation_id": whole.evaluation_id,
            "eval_library": {"name": whole.eval_library.name, "version": whole.eval_library.version},
            "inference_platform": whole.model_info.inference_platform,
            "source": whole.source_metadata,
        },
        started_at=started,
        completed_at=started,
    )


def natural(own: str) -> tuple[Any, ...]:
    """Digits by their value: 2 before 10."""
    return (0, int(own), own) if own.isdecimal() and len(own) < 19 else (1, own)


def _config(given: Any) -> dict[str, Any]:
    names = ("temperature", "top_p", "max_tokens")
    return {k: given[k] for k in names if given.get(k) is not None} if isinstance(given, Mapping) else {}


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromtimestamp(float(text), UTC)
    except (OverflowError, OSError, ValueError):
        return None

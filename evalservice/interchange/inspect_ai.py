"""Inspect AI: an `.eval` archive, or the same log as one JSON file.

    header.json, or the file itself   {"version": 2, "status": "success", "eval": {"task": "toy_qa", "model": …},
                                       "results": {"scores": [{"name": "graded", "scorer": "graded", "metrics": …}]}}
    samples/q-apples_epoch_1.json, or an element of `samples`
        {"id": "q-apples", "epoch": 1, "input": "Tom has …", "target": "7", "output": {"completion": "#### 7"},
         "scores": {"graded": {"value": "C", "answer": "7"}}, "model_usage": {…}, "error": {"message": …}}

A metric is called SCORER, with /KEY for the values of a dictionary and /REDUCER where epochs are not reduced by their
mean. An item's value is that of its epochs without an error; a run's value is the mean over items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol

from pydantic import Field

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.catalog.jsontext import JsonObjectReader
from evalservice.errors import InvalidInput, shown
from evalservice.interchange.archive import Archive
from evalservice.interchange.inspect_samples import Sample, item_of, moment_of, sample_of, size_of, values_of
from evalservice.interchange.limits import ItemSizes, check_epochs, check_metrics
from evalservice.interchange.logjson import LogShape, finite, opened, parsed, shaped
from evalservice.interchange.records import LogFiles, LogItem, LogRun
from evalservice.interchange.reducers import MEAN, is_known, reduced
from evalservice.interchange.tally import Tally

TOOL: Final = "inspect"
_MEANS: Final = ("accuracy", "mean")
_SAMPLE: Final = re.compile(r"samples/.+\.json")


class _Dataset(LogShape):
    name: str | None = None
    location: str | None = None
    samples: int | None = None
    shuffled: bool | None = None


class _Eval(LogShape):
    task: str
    task_version: int | str = 0
    task_args: dict[str, Any] = Field(default_factory=dict)
    model: str
    dataset: _Dataset = _Dataset()
    config: dict[str, Any] = Field(default_factory=dict)
    generate: dict[str, Any] = Field(default_factory=dict, alias="model_generate_config")
    packages: dict[str, Any] = Field(default_factory=dict)
    revision: Any = None
    created: str | None = None
    model_base_url: str | None = None
    tags: list[Any] | None = None


class _Score(LogShape):
    name: str
    scorer: str
    reducer: str | None = None
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """The mean over items, where it is one of the metrics."""
        found = (finite(self.metrics.get(metric, {}).get("value")) for metric in _MEANS)
        return next((value for value in found if value is not None), None)

    @property
    def of(self) -> tuple[str, str | None]:
        """The scorer, and the key of its dictionary."""
        return self.scorer, None if self.name == self.scorer else self.name


class _Results(LogShape):
    total_samples: int | None = None
    scores: list[_Score] = Field(default_factory=list)


class Header(LogShape):
    """The log without its samples."""

    version: int = 0
    status: str = "started"
    eval: _Eval
    results: _Results | None = None
    stats: dict[str, Any] = Field(default_factory=dict)
    plan: dict[str, Any] = Field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def scores(self) -> list[_Score]:
        """The aggregates; none in a log that failed."""
        return self.results.scores if self.results is not None else []


Place = str | tuple[int, int]
"""Where a sample is: a member's name, or first byte and length."""


@dataclass(slots=True)
class _Scan:
    """What the first pass over the samples found."""

    places: dict[str | int, dict[int, Place]] = field(default_factory=dict)
    measured: dict[tuple[str, str | None], None] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    sizes: ItemSizes = field(default_factory=ItemSizes)
    unreadable: dict[str, str] = field(default_factory=dict)
    count: int = 0


def read_inspect(log: LogFiles) -> list[LogRun]:
    """The log's one run. Raises InvalidInput."""
    with _opened(log) as source:
        header = shaped(Header, source.header(), log.main)
        scan = _scanned(source, log.main)
        names = _names(header, scan, log.main)
        known = {name: of for name, of in names.items() if is_known(of[2])}
        if not known:
            raise InvalidInput("file", log.main, "a log with scores" + _because(header, scan))
        for _, epochs in _items(source, scan, log.main):
            for name, (scorer, key, reducer) in known.items():
                scan.tally.add(name, reduced(reducer, values_of(epochs, scorer, key)))
    stated = _stated(header, known)

    def items() -> Iterator[LogItem]:
        with _opened(log) as again:
            for _, epochs in _items(again, scan, log.main):
                yield item_of(epochs, known, header.eval.model)

    own = header.eval
    return [
        LogRun(
            task=own.task,
            model=own.model,
            dataset=own.dataset.name or "",
            tool=TOOL,
            tool_version=str(own.packages.get("inspect_ai", "")),
            measure=f"{TOOL} {own.task} {own.task_version}"[:500],
            metrics=scan.tally.metrics(),
            items=items,
            stated=stated,
            contradictions=_contradictions(header, scan),
            notes=(
                *(f"{name}: its epochs are reduced by {of[2]}, which is not known here"
                  for name, of in names.items() if name not in known),
                *scan.unreadable.values(),
                *([f"the log's status is {header.status!r}"] if header.status != "success" else []),
            ),
            epochs=max(max(epochs) for epochs in scan.places.values()),
            config=_config(own.generate),
            settings=_settings(header),
            started_at=moment_of(header.stats.get("started_at") or own.created),
            completed_at=moment_of(header.stats.get("completed_at")),
        )
    ]  # fmt: skip


def _because(header: Header, scan: _Scan) -> str:
    if not scan.count:
        return f" (its status is {header.status!r}, and it has no samples)"
    return "; ".join(["", *scan.unreadable.values()])


class _Source(Protocol):
    """The header and the samples of a log, however it is packed."""

    def header(self) -> Any: ...

    def samples(self) -> Iterator[tuple[Place, str, bytes]]:
        """Each sample's place, what to call it in errors, and its text."""
        ...

    def at(self, place: Place) -> bytes: ...


class _Zipped:
    def __init__(self, file: IO[bytes], name: str) -> None:
        self._archive, self._name = Archive(file, name), name

    def header(self) -> Any:
        for member in ("header.json", "_journal/start.json"):  # the latter alone in a log that was never finished
            if member in self._archive.members:
                return parsed(self._archive.read(member), f"{self._name}: {member}")
        raise InvalidInput(
            "file", self._name, "an Inspect AI log (it has no header.json; unpack an archive of another tool)"
        )

    def samples(self) -> Iterator[tuple[Place, str, bytes]]:
        for member in self._archive.members:
            if _SAMPLE.fullmatch(member):
                yield member, f"{self._name}: {member}", self._archive.read(member)

    def at(self, place: Place) -> bytes:
        assert isinstance(place, str)
        return self._archive.read(place)


class _Plain:
    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def header(self) -> Any:
        wanted = ("version", "status", "eval", "results", "stats", "plan", "error")
        self._file.seek(0)
        reader = JsonObjectReader(self._file, self._name, MAX_RECORD_BYTES)
        return {
            member.key: parsed(member.text, f"{self._name}: {member.key}")
            for member in reader.members({"samples", "reductions"})
            if member.key in wanted
        }

    def samples(self) -> Iterator[tuple[Place, str, bytes]]:
        self._file.seek(0)
        count = 0
        for member in JsonObjectReader(self._file, self._name, MAX_RECORD_BYTES).members({"samples", "reductions"}):
            if member.key == "samples" and member.text != b"null":
                count += 1
                yield (member.start, len(member.text)), f"{self._name}: samples.{count - 1}", member.text

    def at(self, place: Place) -> bytes:
        assert isinstance(place, tuple)
        self._file.seek(place[0])
        return self._file.read(place[1])


@contextmanager
def _opened(log: LogFiles) -> Iterator[_Source]:
    with opened(log.path, log.main) as file:
        head = file.read(4)
        file.seek(0)
        yield _Zipped(file, log.main) if head.startswith(b"PK") else _Plain(file, log.main)


def _scanned(source: _Source, name: str) -> _Scan:
    scan = _Scan()
    for place, where, text in source.samples():
        sample = sample_of(text, where)
        epochs = scan.places.setdefault(sample.id, {})
        if sample.epoch in epochs:
            raise InvalidInput(
                "file", where, f"each sample once; {sample.id!r}, epoch {sample.epoch}, is another's, too"
            )
        epochs[sample.epoch] = place
        check_epochs(len(epochs), where)
        scan.sizes.add(sample.id, size_of(sample), where)
        scan.count += 1
        for scorer, score in (sample.scores or {}).items():
            if isinstance(score.value, dict):
                scan.measured |= {(scorer, str(key)): None for key in score.value}
            elif isinstance(score.value, list):
                scan.unreadable[scorer] = f"{scorer}: its values are lists ({shown(score.value, 40)})"
            else:
                scan.measured[scorer, None] = None
        check_metrics(len(scan.measured) + len(scan.unreadable), name)
    return scan


def _items(source: _Source, scan: _Scan, name: str) -> Iterator[tuple[str | int, list[Sample]]]:
    """Each item's epochs, in an order that is the same for every log of the same items."""
    for own in sorted(scan.places, key=_natural):
        places = scan.places[own]
        yield own, [sample_of(source.at(places[epoch]), f"{name}: sample {own!r}") for epoch in sorted(places)]


def _natural(own: str | int) -> tuple[Any, ...]:
    """Numbers by their value, texts by their parts: q-2 before q-10."""
    if isinstance(own, int):
        return (0, own)
    return (1, [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d{1,18})", own)], own)


def _names(header: Header, scan: _Scan, file: str) -> dict[str, tuple[str, str | None, str]]:
    """Our name of each metric → scorer, key and reducer; those with results first, in their order."""
    default = header.eval.config.get("epochs_reducer")
    everywhere = [str(each) for each in default] if isinstance(default, list) and default else [MEAN]
    listed = [(*score.of, score.reducer or everywhere[0]) for score in header.scores]
    with_results = {each[:2] for each in listed}
    without = [of for of in scan.measured if of not in with_results]
    check_metrics(len(listed) + len(without) * len(everywhere), file)
    others = [(*of, reducer) for of in without for reducer in everywhere]
    return {
        "/".join([scorer, *([key] if key is not None else []), *([reducer] if reducer != MEAN else [])]):
            (scorer, key, reducer)
        for scorer, key, reducer in (*listed, *others)
        if (scorer, key) in scan.measured
    }  # fmt: skip


def _stated(header: Header, names: Mapping[str, tuple[str, str | None, str]]) -> dict[str, float]:
    """The log's own means, by our names."""
    stated: dict[str, float] = {}
    by_metric: dict[tuple[str, str | None, str | None], str] = {of: name for name, of in names.items()}
    reducers = {of[:2]: of[2] for of in names.values()}
    for score in header.scores:
        name = by_metric.get((*score.of, score.reducer or reducers.get(score.of)))
        if name is not None and score.mean is not None:
            stated[name] = score.mean
    return stated


def _contradictions(header: Header, scan: _Scan) -> tuple[str, ...]:
    found = []
    total = header.results.total_samples if header.results is not None else None
    if total is not None and total != scan.count:
        found.append(f"{total} samples are stated, the log has {scan.count}")
    for score in header.scores:
        if score.mean is not None and score.of not in scan.measured and score.scorer not in scan.unreadable:
            name = "/".join(part for part in score.of if part)
            found.append(f"{name}: stated {score.mean:.10g}, but no sample has it")
    return tuple(found)


def _config(generate: Mapping[str, Any]) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty",
             "logit_bias", "reasoning_effort")  # fmt: skip
    config = {name: generate[name] for name in names if generate.get(name) is not None}
    return {**config, "stop": generate["stop_seqs"]} if generate.get("stop_seqs") else config


def _settings(header: Header) -> dict[str, Any]:
    own = header.eval
    given = {
        "status": header.status,
        "prompt": header.plan.get("steps"),
        "dataset_location": own.dataset.location,
        "shuffled": own.dataset.shuffled,
        "task_version": own.task_version,
        "task_args": own.task_args,
        "config": own.config,
        "revision": own.revision,
        "model_base_url": own.model_base_url,
        "tags": own.tags,
    }
    return {name: value for name, value in given.items() if value not in (None, {}, [])}

"""The one way of a log into the database: dataset, benchmark, model, and a completed run with all its rows.

What a run of our own leaves is made by the same functions: rows by `store_all`, aggregates, metrics and statistics
by `close_run`, from the rows. All runs of a log are made in the caller's one transaction, after its rows have been
compared with what it states.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from evalservice.catalog.datasets import snapshot
from evalservice.catalog.snapshots import Snapshot, open_snapshot
from evalservice.errors import Conflict, InvalidInput
from evalservice.interchange.criteria import Scoring, scoring_of
from evalservice.interchange.logjson import opened
from evalservice.interchange.logs import AUTO, read_log, tool_of
from evalservice.interchange.matching import Matcher, as_placed
from evalservice.interchange.records import LogFiles, LogItem, LogRun
from evalservice.interchange.result_rows import row_tables
from evalservice.interchange.tally import disagreement
from evalservice.interchange.targets import (
    Target,
    benchmark_of,
    dataset_of,
    model_of,
    named_benchmark,
    named_dataset,
    new_run,
)
from evalservice.lookup import find_or_none
from evalservice.runs.aggregates import Aggregator
from evalservice.runs.closing import close_run
from evalservice.runs.lifecycle import claim_completed, driver_name
from evalservice.runs.results import store_all
from evalservice.tables import EvaluationRun


@dataclass(frozen=True, slots=True)
class Asked:
    """How a log shall be imported. model, benchmark, dataset: names in the place of the log's own, of things that are
    registered or will be. force: import the rows of a log that contradicts itself."""

    tool: str = AUTO
    model: str | None = None
    benchmark: str | None = None
    dataset: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Importer:
    """Where to: a tenant's session and the data root."""

    session: Session
    data_root: str
    organization_id: uuid.UUID
    user_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """The runs of a log. known: they had been imported before, and nothing was written now."""

    runs: Sequence[EvaluationRun]
    known: bool
    notes: Sequence[str]


def import_log(importer: Importer, log: LogFiles, asked: Asked) -> Imported:
    """Import a log, or find that it has been. Raises InvalidInput (what is wrong with it), Conflict (it contradicts
    itself, does not fit the dataset, or was imported under other names)."""
    digest = digest_of(log)
    session = importer.session
    _one_at_a_time(session, f"import {importer.organization_id} {digest}")
    if known := _known(session, digest):
        return _recognised(session, known, log, asked)
    tool = tool_of(log) if asked.tool == AUTO else asked.tool
    runs = read_log(log, tool)
    if len(runs) > 1 and (asked.benchmark or asked.dataset):
        field = "benchmark" if asked.benchmark else "dataset"
        tasks = ", ".join(run.task for run in runs)
        raise InvalidInput(
            field, getattr(asked, field), f"none, for a log of several tasks ({tasks}): each keeps its name"
        )
    # Two logs of one task would each make its dataset. Held to the end: only then does the next see what was made.
    _one_at_a_time(session, f"import {importer.organization_id}")
    made = [_import_run(importer, log, run, asked, {"format": tool, "file_hash": digest}) for run in runs]
    notes = [f"{run.task}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    return Imported(made, False, notes)


def _one_at_a_time(session: Session, what: str) -> None:
    """Waits for other transactions that are at it."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(what, 0))))


def digest_of(log: LogFiles) -> str:
    """The SHA-256 of all of a log's files, by name."""
    whole = hashlib.sha256()
    for name in sorted(log.paths):
        with opened(log.paths[name], name) as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _known(session: Session, digest: str) -> Sequence[EvaluationRun]:
    return session.scalars(
        select(EvaluationRun)
        .where(EvaluationRun.provenance["imported"]["file_hash"].astext == digest)
        .options(joinedload(EvaluationRun.model), joinedload(EvaluationRun.benchmark))
        .order_by(EvaluationRun.created_at, EvaluationRun.id)
    ).all()


def _recognised(session: Session, known: Sequence[EvaluationRun], log: LogFiles, asked: Asked) -> Imported:
    first = known[0]
    for field, wanted, given in (
        ("model", asked.model, first.model),
        ("benchmark", asked.benchmark, first.benchmark),
        ("dataset", asked.dataset, first.dataset),
    ):
        kind: Any = type(given)
        found = None if wanted is None else find_or_none(session, kind, wanted)
        if wanted is not None and (found is None or found.id != given.id):
            said = f"{log.main} was imported as run {first.id} with the {field} {given.name!r}"
            raise Conflict(f"{said}: it is not imported a second time")
    return Imported(known, True, ())


def _import_run(importer: Importer, log: LogFiles, run: LogRun, asked: Asked, source: dict[str, Any]) -> EvaluationRun:
    session = importer.session
    suite = named_benchmark(session, asked.benchmark)
    scoring = scoring_of(run, suite)
    dataset = named_dataset(session, asked.dataset, suite, run.content_hash)
    checks = _Checks(run, scoring, asked.force)
    places: list[int] | None = None
    if dataset is not None:
        matcher = Matcher(dataset.name, open_snapshot(dataset.snapshot_uri))
        same_content = bool(run.content_hash) and run.content_hash == dataset.content_hash
        order_seed = run.order_seed if same_content else None
        places = matcher.places(checks.passed(run.items()), same_content=same_content, order_seed=order_seed)
    else:
        stored = _snapshot(importer, log, run, checks)
        wanted = asked.dataset or run.dataset or run.task
        dataset = dataset_of(session, importer.organization_id, stored, wanted, log.main, importer.user_id)
    target = Target(
        model=model_of(session, importer.organization_id, run, asked.model),
        dataset=dataset,
        benchmark=suite
        or benchmark_of(session, importer.organization_id, run, scoring, dataset, asked.benchmark, importer.user_id),
    )
    about = {**source, "file": log.main, "contradictions": list(checks.found)}
    row = new_run(importer.organization_id, run, scoring, target, checks.total, about, importer.user_id)
    session.add(row)
    session.flush()
    return _written(importer, run, scoring, row, places)


def _snapshot(importer: Importer, log: LogFiles, run: LogRun, checks: _Checks) -> Snapshot:
    records = ((number, item.record()) for number, item in enumerate(checks.passed(run.items()), 1))
    return snapshot(records, importer.data_root, importer.organization_id, source=f"{log.main}: {run.task}")


class _Checks:
    """Compares the rows that pass with what the log states, and raises at their end if they contradict it."""

    def __init__(self, run: LogRun, scoring: Scoring, force: bool) -> None:
        self._run, self._force = run, force
        self._totals = Aggregator(scoring.logged)
        self.found: Sequence[str] = ()

    @property
    def total(self) -> int:
        """Items so far."""
        return self._totals.total

    def passed(self, items: Iterator[LogItem]) -> Iterator[LogItem]:
        """The items, unchanged. Raises Conflict after the last."""
        for item in items:
            self._totals.add(item.cluster, item.error is None, item.scores)
            yield item
        told = self._run.contradictions
        own = [said for name, said in self._disagreements() if not any(each.startswith(f"{name}:") for each in told)]
        self.found = (*told, *own)
        if self.found and not self._force:
            raise Conflict(
                f"{self._run.task}: the log's rows contradict its own aggregates: {'; '.join(self.found)}; "
                "--force imports the rows as they are"
            )

    def _disagreements(self) -> Iterator[tuple[str, str]]:
        results = self._totals.results(resamples=10)
        for name, stated in self._run.stated.items():
            found = results.get(name, {}).get("value")
            if said := disagreement(name, stated, found, self.total):
                yield name, said


def _written(
    importer: Importer, run: LogRun, scoring: Scoring, row: EvaluationRun, places: list[int] | None
) -> EvaluationRun:
    """All the run's results, and what follows from them."""
    session = importer.session
    lease = claim_completed(session, row.id, driver_name())
    stored = open_snapshot(row.dataset.snapshot_uri)
    tables = row_tables(as_placed(places, run.items()), stored, scoring, row.completed_at)
    store_all(session, lease, importer.organization_id, tables)
    close_run(session, lease, "completed")
    session.refresh(row)
    return row

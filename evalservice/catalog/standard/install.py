"""Installing a standard benchmark: a dataset and a public benchmark, whole or not at all, and never over another.

Only the operator may: the session is the database owner's. The dataset belongs to the operator's organization and is
read by everyone through the benchmark; its snapshot is written first, under the hash of its content, and the two rows
in one transaction after it, so that a process that dies leaves at most files that nothing points at.

The version is the definition's, a plus sign and the first 12 digits of a hash of test cases and criteria, e.g.
1.0.0+3f6c8a1e92b4: other data, other worked examples or another prompt are another version beside the first.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from evalservice.catalog.criteria import EvaluationCriteria, parse_criteria
from evalservice.catalog.datasets import snapshot
from evalservice.catalog.formats import Record, guess_format
from evalservice.catalog.schemas import NewBenchmark
from evalservice.catalog.service import check_criteria
from evalservice.catalog.snapshots import Snapshot
from evalservice.catalog.standard.definition import StandardBenchmark
from evalservice.catalog.standard.sources import Found, case_records, few_shot, find, tail, with_examples
from evalservice.errors import AlreadyExists, Forbidden, InvalidInput
from evalservice.records import JSON
from evalservice.tables import DEFAULT_ORGANIZATION_ID, BenchmarkSuite, EvaluationDataset

TIMES_LARGER: Final = 20
"""A copy with so many times the known number of test cases is refused: it is something else."""
_LOCK: Final = 0x5E7_0B3A


@dataclass(frozen=True, slots=True)
class Prepared:
    """A local copy of a data set, read and stored as a snapshot, with the criteria that it is measured by."""

    definition: StandardBenchmark
    layout: str
    files: tuple[str, ...]
    file_format: str
    snapshot: Snapshot
    criteria: EvaluationCriteria

    @property
    def version(self) -> str:
        """The definition's version and a hash of all that is measured."""
        digest = hashlib.sha256(self.snapshot.content_hash.encode() + self.criteria.canonical_json()).hexdigest()
        return f"{self.definition.version}+{digest[:12]}"

    @property
    def warning(self) -> str | None:
        """What is odd about the number of test cases."""
        known = self.definition.test_cases
        if self.snapshot.total in known:
            return None
        return (
            f"{self.snapshot.total:,} test cases, where {self.definition.title} has "
            f"{' or '.join(f'{count:,}' for count in known)}: results do not compare with published ones"
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """A benchmark that is there now; `is_new` says whether it was not before."""

    benchmark_id: uuid.UUID
    version: str
    is_new: bool


def prepare(definition: StandardBenchmark, source: Path, data_root: str) -> Prepared:
    """Reads a file or folder and stores its snapshot.

    Raises `InvalidInput` (nothing fits), `InvalidRecords` (which records do not), `StorageFailed`: nothing is kept
    """
    found = find(definition, source)
    shots = few_shot(definition, found)
    criteria = definition.evaluation_criteria.as_json()
    if shots is not None:
        criteria = {**criteria, "few_shot": shots}
    parsed = parse_criteria(criteria)
    records = _not_far_too_many(definition, with_examples(definition, case_records(definition, found), shots), source)
    stored = snapshot(records, data_root, DEFAULT_ORGANIZATION_ID, source=str(source))
    return Prepared(definition, found.layout.name, _names(found, source), _format_of(found), stored, parsed)


def _not_far_too_many(definition: StandardBenchmark, records: Iterator[Record], source: Path) -> Iterator[Record]:
    most = TIMES_LARGER * max(definition.test_cases) + 10_000
    for count, record in enumerate(records, 1):
        if count > most:
            raise InvalidInput(
                "--from", tail(source), f"the {definition.source.split} split, of {definition.test_cases}"
            )
        yield record


def _names(found: Found, source: Path) -> tuple[str, ...]:
    """The files' names below the given folder: what lies above it is nobody's business."""
    return tuple(
        path.relative_to(source).as_posix() if source.is_dir() else path.name
        for path in (*found.files, *found.few_shot_files)
    )


def _format_of(found: Found) -> str:
    try:
        return guess_format(found.files[0])
    except InvalidInput:
        return ""


def install(session: Session, prepared: Prepared, details: dict[str, JSON]) -> Installed:
    """Writes what is not there yet, in the owner's transaction. `details` are kept in the benchmark's metadata.

    Raises `Forbidden` where the session is not the owner's.
    """
    try:
        return _install(session, prepared, details)
    except ProgrammingError as error:
        if "row-level security" in str(error.orig) or "permission denied" in str(error.orig):
            raise Forbidden(
                "standard benchmarks are the operator's: DATABASE_URL must be the database owner's login"
            ) from None
        raise


def _install(session: Session, prepared: Prepared, details: dict[str, JSON]) -> Installed:
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    definition, version = prepared.definition, prepared.version
    found = session.scalars(
        select(BenchmarkSuite).where(
            BenchmarkSuite.organization_id.is_(None),
            BenchmarkSuite.name == definition.name,
            BenchmarkSuite.version == version,
        )
    ).first()
    if found is not None:
        was_archived, found.archived_at = found.archived_at is not None, None
        _point_at(found.dataset, prepared.snapshot)
        session.flush()
        return Installed(found.id, version, was_archived)
    dataset = _dataset(session, prepared)
    suite = BenchmarkSuite(
        organization_id=None,
        is_standard=True,
        name=definition.name,
        version=version,
        description=f"{definition.title}. {definition.description}",
        category=definition.category,
        dataset_id=dataset.id,
        evaluation_criteria=prepared.criteria.as_json(),
        scoring_methodology=f"{definition.methodology}\n\n{definition.reported}",
        tags=["standard", *definition.tags],
        metadata_={"standard": details},
    )
    new = NewBenchmark(
        name=definition.name, dataset=dataset.name, category=definition.category, criteria=prepared.criteria
    )
    check_criteria(new, dataset)
    session.add(suite)
    session.flush()
    return Installed(suite.id, version, True)


def _dataset(session: Session, prepared: Prepared) -> EvaluationDataset:
    """The operator's dataset of this content, made where there is none."""
    definition, stored = prepared.definition, prepared.snapshot
    name = f"standard-{definition.name}-{stored.content_hash[:12]}"
    found = session.scalars(
        select(EvaluationDataset).where(
            EvaluationDataset.organization_id == DEFAULT_ORGANIZATION_ID, EvaluationDataset.name == name
        )
    ).first()
    if found is not None:
        if found.content_hash != stored.content_hash:
            raise AlreadyExists(f"dataset: {name!r} is taken by another content of the operator's organization")
        _point_at(found, stored)
        return found
    facts: dict[str, Any] = {"has_clusters": stored.has_clusters, "has_choices": stored.has_choices}
    source = definition.source
    dataset = EvaluationDataset(
        organization_id=DEFAULT_ORGANIZATION_ID,
        name=name,
        description=f"{definition.title}, {source.split} split of {source.repository}. Licence: {source.licence}.",
        tags=["standard", *definition.tags],
        test_cases=[],
        file_path=", ".join(prepared.files[:5])[:500],
        file_format=prepared.file_format,
        input_schema={},
        output_schema={},
        total_test_cases=stored.total,
        has_ground_truth=stored.has_ground_truth,
        content_hash=stored.content_hash,
        snapshot_uri=stored.uri,
        metadata_=facts,
    )
    session.add(dataset)
    session.flush()
    return dataset


def _point_at(dataset: EvaluationDataset, stored: Snapshot) -> None:
    """The same content may lie elsewhere now: the data root has moved, or somebody put the dataset away."""
    dataset.snapshot_uri, dataset.archived_at = stored.uri, None


def details_of(prepared: Prepared, revision: str | None) -> dict[str, JSON]:
    """What is kept of where it came from. `revision`: of the download; None for a local copy, whose hash it is then."""
    definition = prepared.definition
    source = definition.source
    return {
        "title": definition.title,
        "definition_version": definition.version,
        "primary_metric": definition.primary_metric,
        "few_shot": definition.few_shot.count if definition.few_shot is not None else 0,
        "test_cases": prepared.snapshot.total,
        "content_hash": prepared.snapshot.content_hash,
        "layout": prepared.layout,
        "files": [*prepared.files[:10]],
        "repository": source.repository,
        "config": source.config,
        "split": source.split,
        "revision": revision,
        "licence": source.licence,
        "citation": source.citation,
        "warning": prepared.warning,
    }

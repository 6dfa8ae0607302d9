"""What an imported run hangs on: the dataset, benchmark and model that are registered, or new ones.

The same items are the same dataset, found by the hash of their content. A name that is taken by other items gets the
beginning of that hash: `tiny_qa-9f2c1e07`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from evalservice.catalog.model_config import ModelConfig
from evalservice.catalog.schemas import NewBenchmark, NewDataset
from evalservice.catalog.service import add_benchmark, add_dataset
from evalservice.catalog.snapshots import Snapshot
from evalservice.errors import Conflict, InvalidInput
from evalservice.interchange.criteria import Scoring
from evalservice.interchange.records import LogRun
from evalservice.lookup import find_or_none
from evalservice.runs.service import IMPORTED, configuration_hash, primary_metric_of
from evalservice.storable import dump, storable_text
from evalservice.tables import BenchmarkSuite, EvaluationDataset, EvaluationRun, Model
from evalservice.web.fields import Name

_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True, slots=True)
class Target:
    """What a run hangs on."""

    model: Model
    dataset: EvaluationDataset
    benchmark: BenchmarkSuite


def named_benchmark(session: Session, name: str | None) -> BenchmarkSuite | None:
    """The benchmark of that name, if there is one. Raises InvalidInput when it is archived."""
    suite = None if name is None else find_or_none(session, BenchmarkSuite, name)
    if suite is not None and suite.archived_at is not None:
        raise InvalidInput("benchmark", name, "it is archived")
    return suite


def named_dataset(
    session: Session, name: str | None, suite: BenchmarkSuite | None, content_hash: str
) -> EvaluationDataset | None:
    """The registered dataset that the log's items must be of: the named one, the benchmark's, or that of the hash.

    Raises InvalidInput, and Conflict when the benchmark is over another one than the named.
    """
    dataset = None if name is None else find_or_none(session, EvaluationDataset, name)
    if suite is not None:
        if dataset is not None and dataset.id != suite.dataset_id:
            raise Conflict(f"benchmark: {suite.name!r} is over the dataset {suite.dataset.name!r}, not over {name!r}")
        dataset = suite.dataset
    if dataset is None and name is None and content_hash:
        dataset = _of_content(session, content_hash)
    if dataset is not None and dataset.archived_at is not None:
        raise InvalidInput("dataset", dataset.name, "it is archived")
    return dataset


def dataset_of(
    session: Session, organization_id: uuid.UUID, stored: Snapshot, wanted: str, file: str, user_id: uuid.UUID | None
) -> EvaluationDataset:
    """The dataset with this content, else a new one."""
    found = _of_content(session, stored.content_hash)
    if found is not None:
        return found
    name = _free(session, EvaluationDataset, _name("dataset", wanted), stored.content_hash)
    new = NewDataset(name=name, tags=("imported",), description=f"The test cases of {storable_text(file)[:200]}")
    return add_dataset(session, organization_id, new, stored, file_path=storable_text(file), user_id=user_id)


def _of_content(session: Session, content_hash: str) -> EvaluationDataset | None:
    return session.scalars(
        select(EvaluationDataset)
        .where(EvaluationDataset.content_hash == content_hash, EvaluationDataset.archived_at.is_(None))
        .order_by(EvaluationDataset.created_at, EvaluationDataset.id)
    ).first()


def benchmark_of(
    session: Session,
    organization_id: uuid.UUID,
    run: LogRun,
    scoring: Scoring,
    dataset: EvaluationDataset,
    wanted: str | None,
    user_id: uuid.UUID | None,
) -> BenchmarkSuite:
    """The benchmark over this dataset that scores so, or was made for this measure before; else a new one."""
    found = session.scalars(
        select(BenchmarkSuite)
        .where(
            BenchmarkSuite.organization_id == organization_id,
            BenchmarkSuite.dataset_id == dataset.id,
            BenchmarkSuite.archived_at.is_(None),
            or_(
                BenchmarkSuite.metadata_["imported"]["measure"].astext == run.measure,
                BenchmarkSuite.evaluation_criteria == scoring.criteria.as_json(),
            ),
        )
        .order_by(BenchmarkSuite.created_at, BenchmarkSuite.id)
    ).first()
    if found is not None and wanted is None:
        return found
    primary = primary_metric_of(scoring.criteria)
    bounded = any(m.name == primary and m.scale == (0.0, 1.0) for scorer in scoring.scorers for m in scorer.metrics)
    name = _name("benchmark", wanted or run.task)
    new = NewBenchmark(
        name=_free(session, BenchmarkSuite, name, dataset.content_hash),
        dataset=str(dataset.id),
        category="qa" if bounded else "custom",
        criteria=scoring.criteria,
        description=f"Imported: the task {storable_text(run.task)[:200]} of {run.tool}"[:1000],
        metadata={"imported": {"measure": run.measure, "tool": run.tool}},
        tags=("imported",),
    )
    return add_benchmark(session, organization_id, new, user_id=user_id)


def _free(session: Session, kind: type[EvaluationDataset] | type[BenchmarkSuite], name: str, content_hash: str) -> str:
    """The name, with as much of the hash as tells it from others."""
    for candidate in (name, *(f"{name[:150]}-{content_hash[:length]}" for length in (8, 16, 32))):
        if session.scalar(select(kind.id).where(kind.name == candidate).limit(1)) is None:
            return candidate
    return f"{name[:150]}-{uuid.uuid4().hex[:12]}"


def model_of(session: Session, organization_id: uuid.UUID, run: LogRun, wanted: str | None) -> Model:
    """The model of that name, or the one that its platform calls so, else a new one without an address."""
    called = wanted or run.model
    if not called:
        raise InvalidInput("model", None, "the log does not say which model it measured: give --model NAME")
    found = find_or_none(session, Model, called)
    if found is None and wanted is None:
        platform, _, rest = called.partition("/")
        found = session.scalars(
            select(Model)
            .where(
                or_(
                    Model.platform_model_id == called,
                    (Model.platform == platform) & (Model.platform_model_id == rest),
                ),
                Model.status != "archived",
            )
            .order_by(Model.created_at.desc(), Model.id)
        ).first()
    if found is not None:
        if found.status == "archived":
            raise InvalidInput("model", called, "it is archived")
        return found
    name = _name("model", called)
    model = Model(
        organization_id=organization_id,
        name=name,
        display_name=name,
        description=f"Known from imported logs of {run.tool}; it has no address to be asked at.",
        platform=IMPORTED,
        platform_model_id=name,
        metadata_={"imported": {"tool": run.tool, "model": storable_text(run.model)}},
        tags=["imported"],
    )
    session.add(model)
    session.flush()
    return model


def _name(field: str, wanted: str) -> str:
    try:
        return _NAME.validate_python(storable_text(wanted).replace("@", "-"))
    except ValidationError:
        raise InvalidInput(
            field, wanted, f"a name of 1 to 200 printable characters: give another with --{field}"
        ) from None


def new_run(
    organization_id: uuid.UUID,
    run: LogRun,
    scoring: Scoring,
    target: Target,
    total: int,
    about: Mapping[str, Any],
    user_id: uuid.UUID | None,
) -> EvaluationRun:
    """The run's row, completed, before its results. When it was measured is when the log says it was."""
    config, rest = _config(run.config)
    evaluation_config = {"limit": total} if total < target.dataset.total_test_cases else {}
    if evaluation_config and run.order_seed is not None and run.content_hash == target.dataset.content_hash:
        evaluation_config["order_seed"] = run.order_seed
    settings = orjson.loads(dump({**run.settings, **rest}))
    imported = {
        **about,
        "tool": run.tool,
        "tool_version": run.tool_version,
        "task": run.task,
        "stated": dict(run.stated),
        "notes": list(run.notes),
        "settings": settings,
    }
    provenance = {
        "model": {
            "name": target.model.name,
            "version": target.model.version,
            "platform": target.model.platform,
            "platform_model_id": target.model.platform_model_id,
            "base_url": target.model.base_url,
        },
        "config": config,
        "dataset": {"name": target.dataset.name, "content_hash": target.dataset.content_hash},
        "benchmark": {"name": target.benchmark.name, "version": target.benchmark.version},
        "template_hash": hashlib.sha256(dump(settings.get("prompt")).encode()).hexdigest(),
        "criteria": scoring.criteria.as_json(),
        "scorers": {scorer.key: scorer.version for scorer in scoring.scorers},
        "epochs": scoring.criteria.epochs,
        "seed": scoring.criteria.seed,
        "packages": {run.tool: run.tool_version} if run.tool_version else {},
        "imported": orjson.loads(dump(imported)),
    }
    now = datetime.now(UTC)
    ended = min(run.completed_at or run.started_at or now, now)
    started = min(run.started_at or ended, ended)
    return EvaluationRun(
        organization_id=organization_id,
        name="",
        model_id=target.model.id,
        benchmark_id=target.benchmark.id,
        dataset_id=target.dataset.id,
        model_config=config,
        evaluation_config=evaluation_config,
        configuration_hash=configuration_hash(provenance, evaluation_config),
        provenance=provenance,
        status="completed",
        total_test_cases=total,
        started_at=started,
        completed_at=ended,
        duration_seconds=(ended - started).total_seconds() if run.completed_at else None,
        created_by_id=user_id,
    )


def _config(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the model was asked, in the form of our own configuration, and what does not fit it."""
    fitting: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in given.items():
        try:
            fitting |= ModelConfig.model_validate({name: value}).set_values()
        except ValidationError:
            rest[name] = value
    return fitting, rest

"""Register and find models, datasets and benchmarks. Every function takes the tenant's session; edges commit."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select
from sqlalchemy.orm import Session

from evalservice.addresses import check_base_url
from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.model_config import ENGINES
from evalservice.catalog.prompts import PromptRenderer
from evalservice.catalog.schemas import NewBenchmark, NewDataset, NewModel
from evalservice.catalog.snapshots import Snapshot, open_snapshot
from evalservice.errors import AlreadyExists, Forbidden, InvalidInput
from evalservice.lookup import find
from evalservice.organizations.secrets import SecretBox, origin_of
from evalservice.organizations.service import credential, store_credential
from evalservice.records import TestCase
from evalservice.scoring import AnyScorer, Item, build_extraction, build_scorers, imported
from evalservice.tables import (
    BENCHMARK_CATEGORIES,
    ABTest,
    ABTestModel,
    BenchmarkSuite,
    EvaluationDataset,
    EvaluationRun,
    Model,
    ModelCapability,
    ModelCapabilityLink,
)


def add_model(
    session: Session,
    organization_id: uuid.UUID,
    new: NewModel,
    box: SecretBox,
    *,
    platforms: Mapping[str, str],
    private_addresses: bool = True,
    user_id: uuid.UUID | None = None,
) -> Model:
    """Register a model; its key is stored encrypted, for its origin. `platforms`: those that can be called here, and
    where their models are that name no URL.

    private_addresses: whether it may live on loopback and private networks.

    Raises InvalidInput (platform, capability, base_url, price), NotFound (parent), AlreadyExists.
    """
    _check_platform(new, platforms, private_addresses)
    _refuse_taken(session, Model, "model", new.name, new.version)
    same = session.execute(
        select(Model.name).where(
            Model.platform == new.platform, Model.platform_model_id == new.model_id, Model.version == new.version
        )
    ).scalar()
    if same is not None:
        raise AlreadyExists(
            f"model: {new.platform} {new.model_id!r} version {new.version} is registered as {same!r}: "
            "give another --version"
        )
    url = new.base_url or platforms[new.platform]
    credential_id = _credential(session, organization_id, new, url, box, user_id)
    links = [_capability(session, name) for name in new.capabilities]
    parent = find(session, Model, new.parent, "parent") if new.parent else None
    model = Model(
        organization_id=organization_id,
        name=new.name,
        display_name=new.display_name or new.name,
        description=new.description,
        platform=new.platform,
        platform_model_id=new.model_id,
        version=new.version,
        parent_model_id=parent.id if parent else None,
        default_config=new.config.set_values(),
        supported_configs=sorted(type(new.config).model_fields),
        tags=list(new.tags),
        base_url=new.base_url,
        credential_id=credential_id,
        input_price_per_million=new.input_price,
        output_price_per_million=new.output_price,
    )
    for older in session.scalars(select(Model).where(Model.name == new.name, Model.is_latest)):
        older.is_latest = False
    session.add(model)
    session.flush()
    for capability in links:
        session.add(
            ModelCapabilityLink(organization_id=organization_id, model_id=model.id, capability_id=capability.id)
        )
    session.flush()
    return model


def _check_platform(new: NewModel, platforms: Mapping[str, str], private_addresses: bool) -> None:
    if new.platform not in platforms:
        raise InvalidInput("platform", new.platform, f"accepted are {', '.join(platforms)}")
    if (new.input_price is None) != (new.output_price is None):
        missing = "input_price" if new.input_price is None else "output_price"
        raise InvalidInput(missing, None, "give both prices (USD per million tokens) or neither")
    if new.platform in ENGINES:
        for field, value in (
            ("base_url", new.base_url),
            ("api_key", new.api_key),
            ("credential_id", new.credential_id),
        ):
            if value:
                raise InvalidInput(
                    field,
                    value if field == "base_url" else "…",
                    f"{new.platform} loads the weights itself; an engine server that already runs is --platform openai",
                )
        return
    if new.base_url:
        check_base_url(new.base_url, private=private_addresses)
    if new.config.engine:
        raise InvalidInput("config.engine", new.config.engine, f"only {' and '.join(ENGINES)} take engine options")


def _capability(session: Session, name: str) -> ModelCapability:
    capability = session.scalar(select(ModelCapability).where(ModelCapability.name == name))
    if capability is None:
        known = session.scalars(select(ModelCapability.name).order_by(ModelCapability.name))
        raise InvalidInput("capability", name, f"accepted are {', '.join(known)}")
    return capability


def add_dataset(
    session: Session,
    organization_id: uuid.UUID,
    new: NewDataset,
    snapshot: Snapshot,
    *,
    file_path: str = "",
    file_format: str = "",
    test_cases: Iterable[Any] = (),
    user_id: uuid.UUID | None = None,
) -> EvaluationDataset:
    """Register a dataset whose snapshot is written. `file_path` is where it came from; `test_cases` if inline."""
    refuse_taken_dataset(session, new.name)
    dataset = EvaluationDataset(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        tags=list(new.tags),
        test_cases=list(test_cases),
        file_path=file_path[-500:],
        file_format=file_format,
        input_schema=new.input_schema,
        output_schema=new.output_schema,
        total_test_cases=snapshot.total,
        has_ground_truth=snapshot.has_ground_truth,
        content_hash=snapshot.content_hash,
        snapshot_uri=snapshot.uri,
        metadata_={"has_clusters": snapshot.has_clusters, "has_choices": snapshot.has_choices},
        created_by_id=user_id,
    )
    session.add(dataset)
    session.flush()
    return dataset


def refuse_taken_dataset(session: Session, name: str) -> None:
    """Raises AlreadyExists; asked before a long file is read, too."""
    if session.scalar(select(EvaluationDataset.id).where(EvaluationDataset.name == name)) is not None:
        raise AlreadyExists(f"dataset: the name {name!r} is taken")


def add_benchmark(
    session: Session, organization_id: uuid.UUID, new: NewBenchmark, *, user_id: uuid.UUID | None = None
) -> BenchmarkSuite:
    """Register a benchmark: its prompt is tried on a real record, its scorers and extraction are built once.

    Raises InvalidInput naming the part of the criteria that is wrong, NotFound (dataset), AlreadyExists.
    """
    if new.category not in BENCHMARK_CATEGORIES:
        raise InvalidInput("category", new.category, f"accepted are {', '.join(BENCHMARK_CATEGORIES)}")
    dataset = find(session, EvaluationDataset, new.dataset, "dataset")
    if dataset.archived_at is not None:
        raise InvalidInput("dataset", new.dataset, "it is archived")
    _refuse_taken(session, BenchmarkSuite, "benchmark", new.name, new.version)
    check_criteria(new, dataset)
    suite = BenchmarkSuite(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        version=new.version,
        category=new.category,
        dataset_id=dataset.id,
        evaluation_criteria=new.criteria.as_json(),
        scoring_methodology=new.scoring_methodology,
        tags=list(new.tags),
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(suite)
    session.flush()
    return suite


def check_criteria(new: NewBenchmark, dataset: EvaluationDataset) -> None:
    """Everything about the criteria that can be known before a run."""
    scorers = build_scorers(new.criteria.as_json()["scorers"])
    build_extraction(new.criteria.output_extraction)
    metrics = [metric.name for scorer in scorers for metric in scorer.metrics]
    primary = new.criteria.primary_metric
    if primary is not None and primary not in metrics:
        raise InvalidInput("primary_metric", primary, f"the scorers give {', '.join(metrics)}")
    first = read_block(open_snapshot(dataset.snapshot_uri), Block(0, 1))[0]
    if new.criteria.likelihood is not None and not first.choices:
        raise InvalidInput("dataset", dataset.name, "a dataset whose test cases have choices to be compared")
    PromptRenderer(new.criteria).check_against(first)
    if not dataset.has_ground_truth:
        _check_without_ground_truth(scorers, first, dataset)


def _check_without_ground_truth(scorers: Sequence[AnyScorer], first: TestCase, dataset: EvaluationDataset) -> None:
    """A scorer that compares with an expected output would fail on every item, after all of them were paid for."""
    for scorer in scorers:
        if scorer.name != imported.NAME and scorer.score([Item(first, "")])[0].status == "scorer_failed":
            raise InvalidInput(
                "scorer", scorer.name, f"dataset {dataset.name!r} has no expected outputs to compare with"
            )


def _credential(
    session: Session, organization_id: uuid.UUID, new: NewModel, url: str, box: SecretBox, user_id: uuid.UUID | None
) -> uuid.UUID | None:
    """The credential that the model shall use: a stored one for the same origin, or one that is stored now."""
    if new.api_key is None and new.credential_id is None:
        return None
    origin = origin_of(url)
    if new.api_key is None:
        assert new.credential_id is not None
        return credential_of_origin(session, new.credential_id, origin)
    if new.credential_id is not None:
        raise InvalidInput("api_key", "…", "either a key or the credential_id of a stored one")
    return store_credential(
        session, box, organization_id, name=new.name, origin=origin, secret=new.api_key, user_id=user_id
    ).id


def credential_of_origin(session: Session, credential_id: uuid.UUID, origin: str) -> uuid.UUID:
    """The id again. Raises NotFound, and InvalidInput for a credential that may not be sent there."""
    stored = credential(session, credential_id)
    if stored.origin != origin:
        raise InvalidInput(
            "credential_id", str(credential_id), f"a credential for {origin}: this is for {stored.origin}"
        )
    return stored.id


_PRICES = {"input_price": "input_price_per_million", "output_price": "output_price_per_million"}


def change_model(session: Session, model: Model, given: Mapping[str, Any]) -> None:
    """Change the given fields; null empties a credential or both prices. Raises InvalidInput (one price alone)."""
    now = session.execute(select(func.now())).scalar_one()
    if given.get("status") == "deprecated" and model.status != "deprecated":
        model.deprecated_at = now
    prices = {_PRICES[name]: value for name, value in given.items() if name in _PRICES}
    for name, value in prices.items():
        setattr(model, name, value)
    if (model.input_price_per_million is None) != (model.output_price_per_million is None):
        missing = "input_price" if model.input_price_per_million is None else "output_price"
        raise InvalidInput(missing, None, "give both prices (USD per million tokens) or neither")
    if "credential_id" in given:
        model.credential_id = given["credential_id"]
    change(session, model, {k: v for k, v in given.items() if k not in (*_PRICES, "credential_id")})


def change(session: Session, row: Model | EvaluationDataset | BenchmarkSuite, given: Mapping[str, Any]) -> None:
    """Set the given fields that are not null, and read back what the database made of it."""
    for name, value in given.items():
        if value is not None:
            setattr(row, "metadata_" if name == "metadata" else name, list(value) if name == "tags" else value)
    session.flush()
    session.refresh(row)


def remove_model(session: Session, model: Model) -> bool:
    """Delete a model that nothing hangs on, else archive it; whether it is gone."""
    if not _hangs(session, EvaluationRun.model_id == model.id, ABTestModel.model_id == model.id):
        session.delete(model)
        session.flush()
        return True
    model.status, model.is_latest = "archived", False
    session.flush()
    session.refresh(model)
    return False


def refuse_public_dataset(session: Session, dataset: EvaluationDataset) -> None:
    """Raises Forbidden for the dataset of a public benchmark, which is the operator's to change."""
    public = (
        BenchmarkSuite.dataset_id == dataset.id,
        BenchmarkSuite.is_standard,
        BenchmarkSuite.organization_id.is_(None),
    )
    if session.scalar(select(literal(1)).where(*public).limit(1)):
        raise Forbidden(f"dataset: {dataset.name!r} is public: only the operator changes it")


def remove_dataset(session: Session, dataset: EvaluationDataset) -> bool:
    """Delete a dataset that nothing hangs on, else archive it; whether it is gone. Its snapshot may be another's.

    Raises Forbidden (public).
    """
    refuse_public_dataset(session, dataset)
    used = (BenchmarkSuite.dataset_id, EvaluationRun.dataset_id, ABTest.dataset_id)
    return _delete_or_archive(session, dataset, *(column == dataset.id for column in used))


def remove_benchmark(session: Session, suite: BenchmarkSuite) -> bool:
    """Delete a benchmark that no run hangs on, else archive it; whether it is gone. Raises Forbidden (public)."""
    if suite.organization_id is None:
        raise Forbidden(f"benchmark: {suite.name!r} is public: only the operator changes it")
    return _delete_or_archive(session, suite, EvaluationRun.benchmark_id == suite.id)


def _delete_or_archive(
    session: Session, row: EvaluationDataset | BenchmarkSuite, *hanging: ColumnElement[bool]
) -> bool:
    if not _hangs(session, *hanging):
        session.delete(row)
        session.flush()
        return True
    row.archived_at = row.archived_at or session.execute(select(func.now())).scalar_one()
    session.flush()
    session.refresh(row)
    return False


def _hangs(session: Session, *conditions: ColumnElement[bool]) -> bool:
    return any(session.scalar(select(literal(1)).where(condition).limit(1)) for condition in conditions)


def _refuse_taken(
    session: Session, kind: type[Model] | type[BenchmarkSuite], field: str, name: str, version: str
) -> None:
    if session.scalar(select(func.count()).where(kind.name == name, kind.version == version)):
        raise AlreadyExists(f"{field}: {name!r} version {version} exists: give another name or --version")

"""Register and change A/B tests and experiments. Every function takes the tenant's session; edges commit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from evalservice.comparisons.schemas import NewABTest, NewExperiment
from evalservice.errors import InvalidInput, InvalidTransition, NotFound
from evalservice.lookup import find
from evalservice.tables import ABTest, ABTestModel, BenchmarkSuite, Experiment, Model

_DRAFT_ONLY = ("significance_level", "test_config", "experiment_config")


def create_ab_test(
    session: Session, organization_id: uuid.UUID, new: NewABTest, *, user_id: uuid.UUID | None
) -> ABTest:
    """A draft. Raises NotFound (benchmark, models), InvalidInput (a model twice)."""
    suite = find(session, BenchmarkSuite, new.benchmark, "benchmark")
    models = [find(session, Model, reference, "models").id for reference in new.models]
    if len(set(models)) < len(models):
        raise InvalidInput("models", list(new.models), "each model once")
    row = ABTest(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        dataset_id=suite.dataset_id,
        test_config={**new.test_config, "benchmark": str(suite.id)},
        significance_level=new.significance_level,
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    session.add_all(ABTestModel(organization_id=organization_id, ab_test_id=row.id, model_id=each) for each in models)
    session.flush()
    session.refresh(row)
    return row


def create_experiment(
    session: Session, organization_id: uuid.UUID, new: NewExperiment, *, user_id: uuid.UUID | None
) -> Experiment:
    """A draft."""
    row = Experiment(
        organization_id=organization_id,
        name=new.name,
        description=new.description,
        hypothesis=new.hypothesis,
        objective=new.objective,
        experiment_config=new.experiment_config,
        tags=list(new.tags),
        metadata_=new.metadata,
        created_by_id=user_id,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def locked(session: Session, kind: type[Any], row_id: uuid.UUID, field: str) -> Any:
    """The row, until the transaction ends nobody else's. Raises NotFound."""
    row = session.get(kind, row_id, with_for_update=True)
    if row is None:
        raise NotFound(field, str(row_id))
    return row


def change(session: Session, row: ABTest | Experiment, given: Mapping[str, Any]) -> None:
    """Set the given fields that are not null. Raises InvalidTransition for what only a draft may change."""
    for name, value in given.items():
        if value is None:
            continue
        if name in _DRAFT_ONLY and row.status != "draft":
            raise InvalidTransition(f"{name}: it is {row.status}: only a draft's can be changed")
        if name == "test_config":
            value = {**value, "benchmark": row.test_config["benchmark"]}  # type: ignore[union-attr]
        setattr(row, "metadata_" if name == "metadata" else name, list(value) if name == "tags" else value)
    session.flush()
    session.refresh(row)


def cancel_ab_test(session: Session, row: ABTest) -> None:
    """Raises InvalidTransition when it has ended."""
    if row.status not in ("draft", "running"):
        raise InvalidTransition(f"A/B test {row.id} is {row.status}: only a draft or a running one can be cancelled")
    row.status = "cancelled"
    session.flush()
    session.refresh(row)

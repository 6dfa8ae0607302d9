"""Which model is better: A/B tests, experiments with their numbered runs, experiment templates."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Integer, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, backref, mapped_column, relationship

from evalservice.tables.base import (
    Base,
    CreatedAt,
    CreatedBy,
    Identified,
    Owned,
    Timestamps,
    count,
    flag,
    index,
    json_list,
    json_object,
    long,
    maybe_real,
    maybe_time,
    one_of,
    parent_key,
    real,
    same_organization,
    short,
)
from evalservice.tables.catalog import EvaluationDataset, Model
from evalservice.tables.organizations import Organization, User
from evalservice.tables.runs import RUN_STATUSES, EvaluationRun

AB_TEST_STATUSES = ("draft", "running", "completed", "failed", "cancelled")
EXPERIMENT_STATUSES = ("draft", "active", "paused", "archived")


class ABTest(Identified, Owned, CreatedBy, Timestamps, Base):
    """Two or more models on the same dataset. `test_config` names the benchmark, because a run needs one."""

    __tablename__ = "ab_tests"
    __table_args__ = (
        parent_key("ab_tests"),
        one_of("status", AB_TEST_STATUSES),
        CheckConstraint("significance_level > 0 AND significance_level < 1", name="significance_level"),
        index("ab_tests", "organization_id", "status"),
        index("ab_tests", "status", "-created_at"),
        index("ab_tests", "dataset_id"),
        index("ab_tests", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("evaluation_datasets.id", ondelete="RESTRICT"))
    test_config: Mapped[dict[str, Any]] = json_object()
    significance_level: Mapped[float] = real(0.05)
    status: Mapped[str] = short(20, "draft")
    results: Mapped[dict[str, Any]] = json_object()
    winner_model_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    started_at: Mapped[datetime | None] = maybe_time()
    completed_at: Mapped[datetime | None] = maybe_time()
    duration_seconds: Mapped[float | None] = maybe_real()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")

    organization: Mapped[Organization] = relationship()
    dataset: Mapped[EvaluationDataset] = relationship()
    created_by: Mapped[User | None] = relationship()
    models: Mapped[list[Model]] = relationship(
        secondary="ab_tests_models",
        primaryjoin="ABTest.id == ABTestModel.ab_test_id",
        secondaryjoin="ABTestModel.model_id == Model.id",
        viewonly=True,
        backref=backref("ab_tests", viewonly=True),
    )
    runs: Mapped[list[ABTestRun]] = relationship(
        primaryjoin="ABTest.id == ABTestRun.ab_test_id",
        foreign_keys="ABTestRun.ab_test_id",
        viewonly=True,
        order_by="ABTestRun.created_at, ABTestRun.evaluation_run_id",
    )


class ABTestModel(Base):
    """Test compares model: the many-to-many table of `ABTest.models`, written row by row."""

    __tablename__ = "ab_tests_models"
    __table_args__ = (
        same_organization("ab_tests_models", "ab_test_id", "ab_tests", "CASCADE"),
        same_organization("ab_tests_models", "model_id", "evaluation_models", "CASCADE"),
        index("ab_tests_models", "organization_id", "model_id"),
        index("ab_tests_models", "model_id"),
    )

    ab_test_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)

    ab_test: Mapped[ABTest] = relationship(
        primaryjoin="ABTestModel.ab_test_id == ABTest.id", foreign_keys="ABTestModel.ab_test_id"
    )
    model: Mapped[Model] = relationship(
        primaryjoin="ABTestModel.model_id == Model.id", foreign_keys="ABTestModel.model_id"
    )


class ABTestRun(CreatedAt, Base):
    """The evaluation run that gives a test its values for one model. `is_shared`: it existed before the test."""

    __tablename__ = "ab_test_runs"
    __table_args__ = (
        same_organization("ab_test_runs", "ab_test_id", "ab_tests", "CASCADE"),
        same_organization("ab_test_runs", "model_id", "evaluation_models", "CASCADE"),
        same_organization("ab_test_runs", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        index("ab_test_runs", "organization_id", "ab_test_id"),
        index("ab_test_runs", "model_id"),
        index("ab_test_runs", "evaluation_run_id"),
    )

    ab_test_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    model_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    is_shared: Mapped[bool] = flag(False)

    ab_test: Mapped[ABTest] = relationship(
        primaryjoin="ABTestRun.ab_test_id == ABTest.id", foreign_keys="ABTestRun.ab_test_id"
    )
    model: Mapped[Model] = relationship(primaryjoin="ABTestRun.model_id == Model.id", foreign_keys="ABTestRun.model_id")
    evaluation_run: Mapped[EvaluationRun] = relationship(
        primaryjoin="ABTestRun.evaluation_run_id == EvaluationRun.id", foreign_keys="ABTestRun.evaluation_run_id"
    )


class ExperimentTemplate(Identified, Owned, CreatedBy, Timestamps, Base):
    """What an experiment can be made from; `Experiment.template_id` says from which it was."""

    __tablename__ = "experiment_templates"
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        index("experiment_templates", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    hypothesis: Mapped[str] = long()
    objective: Mapped[str] = long()
    experiment_config: Mapped[dict[str, Any]] = json_object()
    tags: Mapped[list[Any]] = json_list()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()


class Experiment(Identified, Owned, CreatedBy, Timestamps, Base):
    """A grid of runs that tests a hypothesis."""

    __tablename__ = "experiments"
    __table_args__ = (
        parent_key("experiments"),
        one_of("status", EXPERIMENT_STATUSES),
        index("experiments", "organization_id", "status"),
        index("experiments", "status", "-created_at"),
        index("experiments", "created_by_id"),
    )

    name: Mapped[str] = short(200)
    description: Mapped[str] = long()
    hypothesis: Mapped[str] = long()
    objective: Mapped[str] = long()
    experiment_config: Mapped[dict[str, Any]] = json_object()
    template_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    status: Mapped[str] = short(20, "draft")
    total_runs: Mapped[int] = count()
    last_run_at: Mapped[datetime | None] = maybe_time()
    tags: Mapped[list[Any]] = json_list()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")

    organization: Mapped[Organization] = relationship()
    created_by: Mapped[User | None] = relationship()
    runs: Mapped[list[ExperimentRun]] = relationship(
        primaryjoin="Experiment.id == ExperimentRun.experiment_id",
        foreign_keys="ExperimentRun.experiment_id",
        back_populates="experiment",
        passive_deletes="all",
        order_by="ExperimentRun.run_number",
    )


class ExperimentRun(Identified, CreatedBy, Timestamps, Base):
    """One numbered execution of an experiment, with its own configuration and linked evaluation runs."""

    __tablename__ = "experiment_runs"
    __table_args__ = (
        same_organization("experiment_runs", "experiment_id", "experiments", "CASCADE"),
        UniqueConstraint("experiment_id", "run_number"),
        parent_key("experiment_runs"),
        one_of("status", RUN_STATUSES),
        index("experiment_runs", "experiment_id", "-run_number"),
        index("experiment_runs", "status", "-created_at"),
        index("experiment_runs", "organization_id", "status"),
        index("experiment_runs", "created_by_id"),
    )

    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    experiment_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    run_number: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = short(200, "")
    description: Mapped[str] = long()
    run_config: Mapped[dict[str, Any]] = json_object()
    status: Mapped[str] = short(20, "pending")
    results: Mapped[dict[str, Any]] = json_object()
    started_at: Mapped[datetime | None] = maybe_time()
    completed_at: Mapped[datetime | None] = maybe_time()
    duration_seconds: Mapped[float | None] = maybe_real()
    metadata_: Mapped[dict[str, Any]] = json_object("metadata")

    experiment: Mapped[Experiment] = relationship(
        primaryjoin="ExperimentRun.experiment_id == Experiment.id",
        foreign_keys="ExperimentRun.experiment_id",
        back_populates="runs",
    )
    created_by: Mapped[User | None] = relationship()
    evaluation_runs: Mapped[list[EvaluationRun]] = relationship(
        secondary="experiment_runs_evaluation_runs",
        primaryjoin="ExperimentRun.id == ExperimentRunEvaluation.experiment_run_id",
        secondaryjoin="ExperimentRunEvaluation.evaluation_run_id == EvaluationRun.id",
        viewonly=True,
    )


class ExperimentRunEvaluation(Base):
    """Experiment run links evaluation run: the many-to-many table of `ExperimentRun.evaluation_runs`."""

    __tablename__ = "experiment_runs_evaluation_runs"
    __table_args__ = (
        same_organization("experiment_runs_evaluation_runs", "experiment_run_id", "experiment_runs", "CASCADE"),
        same_organization("experiment_runs_evaluation_runs", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        index(
            "experiment_runs_evaluation_runs",
            "organization_id",
            "evaluation_run_id",
            name="ix_experiment_runs_evaluation_runs_organization_id",
        ),
        index("experiment_runs_evaluation_runs", "evaluation_run_id"),
    )

    experiment_run_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)

    experiment_run: Mapped[ExperimentRun] = relationship(
        primaryjoin="ExperimentRunEvaluation.experiment_run_id == ExperimentRun.id",
        foreign_keys="ExperimentRunEvaluation.experiment_run_id",
    )
    evaluation_run: Mapped[EvaluationRun] = relationship(
        primaryjoin="ExperimentRunEvaluation.evaluation_run_id == EvaluationRun.id",
        foreign_keys="ExperimentRunEvaluation.evaluation_run_id",
    )

"""Change over time: which completed runs were compared with their baseline, and which of them are worse."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Uuid, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from evalservice.tables.base import (
    TIME,
    Base,
    CreatedAt,
    Identified,
    Owned,
    index,
    long,
    maybe_real,
    maybe_time,
    one_of,
    parent_key,
    same_organization,
    short,
)
from evalservice.tables.catalog import BenchmarkSuite, Model
from evalservice.tables.organizations import Organization
from evalservice.tables.runs import EvaluationRun

CHECK_OUTCOMES = ("baseline", "passed", "regressed", "not_compared")


class RegressionCheck(Base):
    """A completed run that is to be compared with its baseline (`outcome` NULL: due), or was.

    A trigger makes the row when a run becomes completed, so that closing a run knows nothing of checks. A run is
    checked once, also when it is scored again later.
    """

    __tablename__ = "regression_checks"
    __table_args__ = (
        same_organization("regression_checks", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        same_organization("regression_checks", "baseline_run_id", "evaluation_runs", "CASCADE"),
        one_of("outcome", CHECK_OUTCOMES),
        CheckConstraint("look_number >= 1", name="look_number"),
        index("regression_checks", "organization_id", "evaluation_run_id"),
        Index(
            "uq_regression_checks_baseline_run_id_look_number",
            "baseline_run_id",
            "look_number",
            unique=True,
        ),
        Index("ix_regression_checks_due", "due_since", "evaluation_run_id", postgresql_where=text("outcome IS NULL")),
    )

    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    organization_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    baseline_run_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    outcome: Mapped[str | None] = mapped_column(String(20))
    reason: Mapped[str] = long()
    look_number: Mapped[int | None] = mapped_column(Integer)
    value: Mapped[float | None] = maybe_real()
    p_value: Mapped[float | None] = maybe_real()
    due_since: Mapped[datetime] = mapped_column(TIME, server_default=func.now())
    checked_at: Mapped[datetime | None] = maybe_time()


class RegressionAlert(Identified, Owned, CreatedAt, Base):
    """A run that is worse than its baseline beyond noise. The difference is the run's value minus the baseline's."""

    __tablename__ = "regression_alerts"
    __table_args__ = (
        same_organization("regression_alerts", "model_id", "evaluation_models", "CASCADE"),
        same_organization("regression_alerts", "evaluation_run_id", "evaluation_runs", "CASCADE"),
        same_organization("regression_alerts", "baseline_run_id", "evaluation_runs", "CASCADE"),
        ForeignKeyConstraint(
            ["organization_id", "acknowledged_by_id"],
            ["memberships.organization_id", "memberships.user_id"],
            name="fk_regression_alerts_acknowledged_by_id",
            ondelete="SET NULL (acknowledged_by_id)",
        ),
        parent_key("regression_alerts"),
        Index("uq_regression_alerts_evaluation_run_id", "evaluation_run_id", unique=True),
        index("regression_alerts", "organization_id", "-created_at"),
        index("regression_alerts", "model_id", "-created_at"),
        index("regression_alerts", "benchmark_id", "-created_at"),
        index("regression_alerts", "baseline_run_id"),
        index("regression_alerts", "acknowledged_by_id"),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    benchmark_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("benchmark_suites.id", ondelete="CASCADE"))
    evaluation_run_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    baseline_run_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    metric: Mapped[str] = short(200)
    value: Mapped[float]
    baseline_value: Mapped[float]
    difference: Mapped[float]
    ci_low: Mapped[float | None] = maybe_real()
    ci_high: Mapped[float | None] = maybe_real()
    n: Mapped[int] = mapped_column(Integer)
    test: Mapped[str] = short(50)
    p_value: Mapped[float]
    alpha: Mapped[float]
    look_number: Mapped[int] = mapped_column(Integer)
    retest_stderr: Mapped[float | None] = maybe_real()
    acknowledged_at: Mapped[datetime | None] = maybe_time()
    acknowledged_by_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)

    organization: Mapped[Organization] = relationship()
    benchmark: Mapped[BenchmarkSuite] = relationship()
    model: Mapped[Model] = relationship(
        primaryjoin="RegressionAlert.model_id == Model.id", foreign_keys="RegressionAlert.model_id"
    )
    evaluation_run: Mapped[EvaluationRun] = relationship(
        primaryjoin="RegressionAlert.evaluation_run_id == EvaluationRun.id",
        foreign_keys="RegressionAlert.evaluation_run_id",
    )

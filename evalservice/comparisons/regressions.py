"""Checks of completed runs against their baseline: each once, in its organization's transaction, after it was closed.

The baseline of a configuration is its first completed run, after an alert the run that raised it, until one that is
better beyond noise takes over: what has recovered may fall again. A run that covers more test cases takes over from a
baseline that it cannot be compared with for that reason, so that one bad start does not end the watch. Whoever is there
checks: the supervisors of a service, the command that drove a run without one.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, joinedload

from evalservice.comparisons.webhooks import announce
from evalservice.errors import Conflict, EvalserviceError, NotFound
from evalservice.runs.service import primary_metric
from evalservice.tables import EvaluationRun, RegressionAlert, RegressionCheck


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check: the outcome of its row, and why where it could not be compared."""

    outcome: str
    reason: str
    alert: RegressionAlert | None = None


def due_checks(session: Session, most: int) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(organization, run) of checks that are due, the longest waiting first. The session needs no organization."""
    query = text("SELECT organization_id, evaluation_run_id FROM evalservice_due_regression_checks(:most)")
    return [(organization, run) for organization, run in session.execute(query, {"most": most})]


def own_due_checks(session: Session, most: int) -> Sequence[uuid.UUID]:
    """The runs of the session's organization that are due, the longest waiting first."""
    return session.scalars(
        select(RegressionCheck.evaluation_run_id)
        .where(RegressionCheck.outcome.is_(None))
        .order_by(RegressionCheck.due_since, RegressionCheck.evaluation_run_id)
        .limit(most)
    ).all()


def check_run(session: Session, run_id: uuid.UUID) -> Checked | None:
    """Compare a run with its baseline; None when it is not due, or somebody else is at it."""
    row = session.scalars(
        select(RegressionCheck)
        .where(RegressionCheck.evaluation_run_id == run_id, RegressionCheck.outcome.is_(None))
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    run = session.get_one(EvaluationRun, run_id, options=[joinedload(EvaluationRun.model)])
    # Looks at one baseline are counted one after the other, however many supervisors there are.
    configuration = f"{run.organization_id} {run.configuration_hash}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(configuration, 0))))
    baseline = _baseline(session, run)
    if baseline is None:
        checked = Checked("baseline", "")
    else:
        try:
            checked = _compared(session, row, run, baseline)
        except (EvalserviceError, ValueError) as error:
            checked = Checked("not_compared", error.message if isinstance(error, EvalserviceError) else str(error))
    row.outcome, row.reason, row.checked_at = checked.outcome, checked.reason, func.clock_timestamp()
    session.flush()
    return checked


def set_aside(session: Session, run_id: uuid.UUID, reason: str) -> None:
    """Note that a check failed by a fault, so that it is not tried again for ever."""
    row = session.get(RegressionCheck, run_id, with_for_update=True)
    if row is not None and row.outcome is None:
        row.outcome, row.reason, row.checked_at = "not_compared", reason[:2000], func.clock_timestamp()


def alert_of(session: Session, alert_id: uuid.UUID, *, lock: bool = False) -> RegressionAlert:
    """An alert. Raises NotFound."""
    row = session.get(RegressionAlert, alert_id, with_for_update={"of": RegressionAlert} if lock else None)
    if row is None:
        raise NotFound("regression_alert", str(alert_id), "`evalservice alerts list` shows the ids")
    return row


def acknowledge(session: Session, row: RegressionAlert, user_id: uuid.UUID) -> None:
    """Note who has seen it; who was first stays."""
    if row.acknowledged_at is None:
        row.acknowledged_at, row.acknowledged_by_id = func.now(), user_id
        session.flush()
        session.refresh(row, ["acknowledged_at"])


def _baseline(session: Session, run: EvaluationRun) -> EvaluationRun | None:
    return session.scalars(
        select(EvaluationRun)
        .join(RegressionCheck, RegressionCheck.evaluation_run_id == EvaluationRun.id)
        .where(
            EvaluationRun.configuration_hash == run.configuration_hash,
            EvaluationRun.id != run.id,
            RegressionCheck.outcome.in_(("baseline", "regressed")),
        )
        .order_by(RegressionCheck.checked_at.desc(), EvaluationRun.id.desc())
        .options(joinedload(EvaluationRun.model))
        .limit(1)
    ).first()


def _is_of_an_alert(session: Session, baseline: EvaluationRun) -> bool:
    return session.get_one(RegressionCheck, baseline.id).outcome == "regressed"


def _compared(session: Session, row: RegressionCheck, run: EvaluationRun, baseline: EvaluationRun) -> Checked:
    """The look at the baseline. Raises Conflict, InvalidInput and ValueError where the two cannot be paired."""
    from evalservice.comparisons.comparing import Asked  # not at the top: statsmodels takes a second, and a first run
    from evalservice.comparisons.pairing import asked_by_all, check_coverage, check_runs, comparable_metrics, load
    from evalservice.comparisons.regression_rule import compare_with_baseline, is_blind, judge, value_of

    asked, runs = Asked(), (run, baseline)
    check_runs(runs)
    [wanted], _ = comparable_metrics(runs, [primary_metric(run)])
    name, metric = wanted.metric.name, wanted.metric
    loaded = load(session, runs, [wanted], asked_by_all(runs))
    coverage = loaded.coverage[name]
    try:
        check_coverage(name, coverage, asked.min_coverage, asked.max_coverage_gap)
    except Conflict as error:
        if coverage[str(run.id)] <= coverage[str(baseline.id)]:
            raise
        return Checked("baseline", f"it takes over from run {baseline.id}: {error.message}")
    own, other = loaded.systems[name]
    looks = session.execute(
        select(RegressionCheck.look_number, RegressionCheck.value)
        .where(RegressionCheck.baseline_run_id == baseline.id, RegressionCheck.look_number.is_not(None))
        .order_by(RegressionCheck.look_number)
    ).all()
    look = looks[-1].look_number + 1 if looks else 1
    pair = compare_with_baseline(own, other, metric, loaded.items, look)
    both = own.scored & other.scored
    value, baseline_value = value_of(own, both, metric), value_of(other, both, metric)
    if value is None or baseline_value is None:
        raise Conflict(f"{name} is undefined over the test cases that both runs have scored")
    found = judge(
        difference=value - baseline_value,
        p_value=pair.p_value,
        look=look,
        earlier=[baseline_value, *(each.value for each in looks)],
        higher_is_better=metric.higher_is_better,
    )
    row.baseline_run_id, row.look_number = baseline.id, look
    row.value, row.p_value = value, found.p_value
    if not found.regressed and _is_of_an_alert(session, baseline):
        recovery = judge(
            difference=baseline_value - value,
            p_value=pair.p_value,
            look=look,
            earlier=[baseline_value],
            higher_is_better=metric.higher_is_better,
        )
        if recovery.regressed:  # the baseline against it: as sure as an alert would be
            return Checked("baseline", f"it is better than run {baseline.id} of the last alert, and takes over from it")
    if not found.regressed:
        blind = f"look {look} may spend {found.alpha:.1g}, less than its draws can show: no drop is found any more"
        return Checked("passed", blind if is_blind(pair.test, pair.n, look) else "")
    alert = RegressionAlert(
        organization_id=run.organization_id,
        model_id=run.model_id,
        benchmark_id=run.benchmark_id,
        evaluation_run_id=run.id,
        baseline_run_id=baseline.id,
        metric=name,
        value=value,
        baseline_value=baseline_value,
        difference=value - baseline_value,
        ci_low=pair.interval.low,
        ci_high=pair.interval.high,
        n=pair.n,
        test=pair.test,
        p_value=found.p_value,
        alpha=found.alpha,
        look_number=look,
        retest_stderr=found.retest_stderr,
    )
    session.add(alert)
    session.flush()
    announce(session, alert)
    return Checked("regressed", "", alert)

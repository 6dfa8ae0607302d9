"""Outcomes become evidence: beliefs, breakers, the log's rows and `model_metrics`, in one transaction.

One at a time for each organization, under an advisory lock, in the order in which the outcomes came; what has been
applied is written on the outcome, so that a part that comes later (quality, tomorrow) is applied once, alone.
"""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, bindparam, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from evalservice.selection import breaker as breakers
from evalservice.selection.breaker import Breaker
from evalservice.selection.learned import placed
from evalservice.selection.learning import Beliefs, Outcomes, fold, unknown
from evalservice.selection.trials import watch_trials
from evalservice.tables import (
    Model,
    ModelMetric,
    ModelSelectionLog,
    SelectionBelief,
    SelectionBreaker,
    SelectionOutcome,
    new_id,
)

AT_ONCE = 1000
PARTS = ("success", "quality", "latency_ms", "cost")
KEPT_LATENCIES = 500
MOST_USE_CASES = 200
"""Each is read at every refresh of the evidence. Outcomes of others still teach what is known over all use cases."""
LATE = timedelta(seconds=60)
"""What is told so long after it happened says nothing of whether the model works now."""
PATIENCE = timedelta(minutes=10)
"""So long an outcome waits for its decision; after that it is applied without it, or not at all."""
METRICS = {
    "success": ("outcome_success", ""),
    "quality": ("outcome_quality", ""),
    "latency_ms": ("outcome_latency_ms", "ms"),
    "cost": ("outcome_cost", "USD"),
}
"""Part → the name and unit of its measurements, of type `custom`."""


@dataclass(frozen=True, slots=True)
class _New:
    """What is new of an outcome: the parts that were not applied before."""

    outcome: SelectionOutcome
    model_id: uuid.UUID
    use_case: str
    parts: dict[str, float]


def waiting_organizations(session: Session) -> list[uuid.UUID]:
    """The organizations with outcomes to apply, the longest waiting first. Needs no organization set."""
    return list(session.scalars(text("SELECT organization_id FROM evalservice_waiting_outcomes()")))


def set_aside(session: Session, organization_id: uuid.UUID, reason: str) -> None:
    """The outcome that waits longest cannot be applied: it counts for nothing, and says why."""
    row = session.scalars(_waiting(datetime.now(UTC)).with_only_columns(SelectionOutcome.id).limit(1)).first()
    if row is not None:
        session.execute(
            update(SelectionOutcome)
            .where(SelectionOutcome.id == row)
            .values(applied_at=func.now(), metadata_=func.jsonb_build_object("error", reason[:500]))
        )


def _waiting(now: datetime) -> Select[SelectionOutcome, uuid.UUID | None, str]:
    """The outcomes to apply, with what is known of their decisions, in their order."""
    return (
        select(SelectionOutcome, ModelSelectionLog.selected_model_ref_id, ModelSelectionLog.use_case)
        .outerjoin(ModelSelectionLog, ModelSelectionLog.id == SelectionOutcome.selection_id)
        .where(
            SelectionOutcome.applied_at.is_(None),
            or_(ModelSelectionLog.id.isnot(None), SelectionOutcome.created_at < now - PATIENCE),
        )
        .order_by(SelectionOutcome.updated_at, SelectionOutcome.id)
    )


def apply_outcomes(
    session: Session, organization_id: uuid.UUID, now: datetime | None = None, most: int = AT_ONCE
) -> int:
    """Apply up to `most` waiting outcomes of the transaction's organization; gives how many."""
    now = now or datetime.now(UTC)
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"outcomes {organization_id}"}
    )
    rows = session.execute(
        _waiting(now)
        .limit(most)
        .with_for_update(of=SelectionOutcome, skip_locked=True)  # one that is being added to comes next time
    ).all()
    if not rows:
        return 0
    models = set(session.scalars(select(Model.id)))
    found = []
    for outcome, selected, use_case in rows:
        parts = _new_parts(outcome)
        model_id = outcome.served_model_id or selected
        if model_id in models and parts:
            found.append(_New(outcome, model_id, use_case or "", parts))
        done = sorted({*outcome.metadata_.get("applied", []), *parts})
        outcome.metadata_ = {**outcome.metadata_, "applied": done}
        outcome.applied_at = now
    by_use_case: dict[str, list[_New]] = defaultdict(list)
    for each in found:
        by_use_case[""].append(each)
        if each.use_case:
            by_use_case[each.use_case].append(each)
    for use_case, news in by_use_case.items():
        _learn(session, organization_id, use_case, news, now)
    _break(session, organization_id, found, now)
    _note(session, [outcome for outcome, *_ in rows])
    _measure(session, organization_id, found, now)
    watch_trials(session, organization_id, [(each.outcome, each.parts) for each in found], now)
    return len(rows)


def _new_parts(outcome: SelectionOutcome) -> dict[str, float]:
    applied = outcome.metadata_.get("applied", [])
    values = {name: getattr(outcome, name) for name in PARTS if name not in applied}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _learn(session: Session, organization_id: uuid.UUID, use_case: str, news: Sequence[_New], now: datetime) -> None:
    row = session.get(SelectionBelief, (organization_id, use_case))
    count = select(func.count()).select_from(SelectionBelief)
    if row is None and use_case and (session.scalar(count) or 0) > MOST_USE_CASES:
        return  # names that are made up for each request teach nothing of their own
    known = [uuid.UUID(own) for own in row.model_ids] if row is not None else []
    more = [own for own in dict.fromkeys(each.model_id for each in news) if own not in known]
    position = {own: index for index, own in enumerate((*known, *more))}
    before = unknown(0) if row is None else Beliefs.restored(row.beliefs)
    learned = fold(
        placed(before, known, position),
        Outcomes.of(
            [position[each.model_id] for each in news],
            success=_column(news, "success"),
            quality=_column(news, "quality"),
            latency_ms=_column(news, "latency_ms"),
            cost_usd=_column(news, "cost"),
        ),
    )
    values = {"model_ids": [str(own) for own in position], "beliefs": learned.stored(), "updated_at": now}
    session.execute(
        upsert(SelectionBelief)
        .values(organization_id=organization_id, use_case=use_case, **values)
        .on_conflict_do_update(index_elements=["organization_id", "use_case"], set_=values)
    )


def _column(news: Sequence[_New], part: str) -> list[float]:
    return [each.parts.get(part, math.nan) for each in news]


def _break(session: Session, organization_id: uuid.UUID, news: Sequence[_New], now: datetime) -> None:
    """Breakers and latencies of the models that served."""
    by_model: dict[uuid.UUID, list[_New]] = defaultdict(list)
    for each in news:
        if "success" in each.parts or "latency_ms" in each.parts:
            by_model[each.model_id].append(each)
    stored = {
        row.model_id: row
        for row in session.scalars(select(SelectionBreaker).where(SelectionBreaker.model_id.in_(by_model)))
    }
    for model_id, mine in sorted(by_model.items()):
        row = stored.get(model_id)
        state = Breaker.restored(row.state) if row is not None and row.state else Breaker()
        for each in mine:
            # A time that a caller gives opens no breaker of the future.
            moment = min(each.outcome.occurred_at or each.outcome.updated_at, now)
            if each.outcome.updated_at - moment <= LATE:
                state = breakers.fold(state, moment.timestamp(), each.parts.get("success", math.nan))
        latencies = list(row.latencies) if row is not None else []
        latencies += [each.parts["latency_ms"] for each in mine if "latency_ms" in each.parts]
        values = {
            "state": state.stored(),
            "latencies": latencies[-KEPT_LATENCIES:],
            "outcome_at": now,
            "probe_until": None,
            "updated_at": now,
        }
        session.execute(
            upsert(SelectionBreaker)
            .values(organization_id=organization_id, model_id=model_id, **values)
            .on_conflict_do_update(index_elements=["organization_id", "model_id"], set_=values)
        )


def _note(session: Session, outcomes: Sequence[SelectionOutcome]) -> None:
    """What happened, on the decision's row."""
    session.connection().execute(
        update(ModelSelectionLog)
        .where(ModelSelectionLog.id == bindparam("selection"))
        .values(execution_successful=bindparam("succeeded"), actual_performance=bindparam("performance")),
        [
            {
                "selection": outcome.selection_id,
                "succeeded": outcome.success,
                "performance": performance_of(outcome),
            }
            for outcome in outcomes
        ],
    )


def performance_of(outcome: SelectionOutcome) -> dict[str, Any]:
    """`actual_performance`: what is known of the outcome."""
    known = {
        "latency_ms": outcome.latency_ms,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "cost": None if outcome.cost is None else float(outcome.cost),
        "quality": outcome.quality,
        "error_kind": outcome.error_kind or None,
        "served_model_id": None if outcome.served_model_id is None else str(outcome.served_model_id),
        "served_model_name": outcome.served_model_name or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _measure(session: Session, organization_id: uuid.UUID, news: Sequence[_New], now: datetime) -> None:
    """A measurement for each new part, and the cost of a thousand tokens where both are known."""
    rows = []
    for each in news:
        outcome = each.outcome
        values = [("custom", *METRICS[part], value) for part, value in each.parts.items()]
        tokens = (outcome.input_tokens or 0) + (outcome.output_tokens or 0)
        if "cost" in each.parts and tokens:
            values.append(("cost_per_1k_tokens", "", "USD", each.parts["cost"] * 1000 / tokens))
        for metric_type, name, unit, value in values:
            about: dict[str, Any] = {"selection_id": str(outcome.selection_id), "use_case": each.use_case, "n": 1}
            rows.append(
                {
                    "id": new_id(),
                    "organization_id": organization_id,
                    "model_id": each.model_id,
                    "metric_type": metric_type,
                    "value": value,
                    "unit": unit,
                    "metadata_": {"name": name, **about} if name else about,
                    "timestamp": min(outcome.occurred_at or now, now),
                }
            )
    if rows:
        session.execute(insert(ModelMetric), rows)

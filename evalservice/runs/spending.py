"""A run's budget and its organization's daily limit: money is reserved here, in Postgres, before anything is sent.

What is reserved and never given back counts as spent, so whatever dies between a reservation and the answers that it
paid for, no limit is exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_DOWN, Decimal
from typing import Any

from sqlalchemy import Date, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from evalservice.catalog.model_config import ENGINES, ModelConfig
from evalservice.errors import InvalidInput
from evalservice.runs.lifecycle import Lease, lost
from evalservice.tables import DailySpend, EvaluationResult, EvaluationRun, Model, Organization

MAX_COST = "max_cost"
"""The budget in a run's `evaluation_config`: US dollars as a text, so that it stays exact."""
STORED = Decimal("1e-10")
ITS_BUDGET = "its budget"
"""How the refusal of a run's own budget begins."""
BOUNDED_BY = ("max_tokens", "max_completion_tokens")
UNBOUNDED_KEYS = frozenset(
    {
        *(*BOUNDED_BY, "generationConfig", "generation_config", "n", "best_of"),
        *("service_tier", "prediction", "modalities", "audio", "web_search_options"),
    }
)
"""What in `extra_body` could make an answer longer, or dearer, than `max_tokens` says."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """amount: US dollars that were granted. day: whose limit they count against. refusal: why there were none."""

    amount: Decimal
    day: date | None = None
    refusal: str = ""


def has_budget(session: Session, run: EvaluationRun, model: Model, config: ModelConfig) -> bool:
    """Whether what the run spends is limited: by its own budget, or by its organization's daily limit.

    Raises InvalidInput when that could not be held: a limit, or a model's price, may be another than when the run was
    created.
    """
    limit = session.scalar(select(Organization.daily_spend_limit).where(Organization.id == run.organization_id))
    budget = budget_of(run.evaluation_config)
    check_budget(model, config, budget, limit)
    return model.platform not in ENGINES and (budget is not None or limit is not None)


def budget_of(evaluation_config: dict[str, Any]) -> Decimal | None:
    """The run's own budget in US dollars."""
    value = evaluation_config.get(MAX_COST)
    return None if value is None else Decimal(value)


def check_budget(model: Model, config: ModelConfig, max_cost: Decimal | None, daily_limit: Decimal | None) -> None:
    """Refuse what no budget could hold. Raises InvalidInput."""
    if max_cost is not None and max_cost <= 0:
        raise InvalidInput(MAX_COST, max_cost, "more than 0 US dollars")
    if model.platform in ENGINES:
        if max_cost is not None:
            raise InvalidInput(MAX_COST, max_cost, f"no budget: {model.name!r} runs on your own machines, at no price")
        return
    if max_cost is None and daily_limit is None:
        return
    why = "with a budget" if max_cost is not None else "under the organization's daily spend limit"
    if daily_limit is not None and daily_limit <= 0:
        raise InvalidInput("daily_spend_limit", daily_limit, "more than 0 for a model that costs money")
    for name in ("input_price_per_million", "output_price_per_million"):
        if getattr(model, name) is None:
            raise InvalidInput(name, None, f"the model's price, {why}: `evalservice models` sets it")
    sampling = config.sampling()
    if all(sampling.get(name) is None for name in BOUNDED_BY):
        raise InvalidInput("config.max_tokens", None, f"a number, {why}: nothing else bounds what an answer costs")
    unbounded = sorted(UNBOUNDED_KEYS & set(sampling.get("extra_body") or {}))
    if unbounded:
        raise InvalidInput(
            f"config.extra_body.{unbounded[0]}", "…", f"nothing that changes what an answer costs, {why}"
        )


def set_budget(run: EvaluationRun, max_cost: Decimal) -> None:
    """Another budget for a run. Raises InvalidInput when it has spent as much already."""
    if max_cost <= run.reserved_cost:
        accepted = f"more than the ${run.reserved_cost.normalize():f} that the run has spent"
        raise InvalidInput(MAX_COST, f"{max_cost.normalize():f}", accepted)
    run.evaluation_config = {**run.evaluation_config, MAX_COST: str(max_cost)}


def reserved_cost(session: Session, lease: Lease) -> Decimal:
    """What counts against the run's budget, its row locked. Raises LeaseLost."""
    amount = session.scalar(select(EvaluationRun.reserved_cost).where(lease.holds()).with_for_update())
    if amount is None:
        raise lost(lease)
    return amount


def reserve(session: Session, lease: Lease, wanted: Decimal, least: Decimal, parts: int) -> Reserved:
    """Reserve `wanted`, or when that is more than a part of what is left, less, but `least` if that is there.

    parts: how many may want some of it. Raises LeaseLost.
    """
    run = session.execute(
        select(EvaluationRun.organization_id, EvaluationRun.evaluation_config, EvaluationRun.reserved_cost)
        .where(lease.holds())
        .with_for_update()
    ).one_or_none()
    if run is None:
        raise lost(lease)
    today = _today(session)
    rooms: list[tuple[Decimal, str]] = []
    budget = budget_of(run.evaluation_config)
    if budget is not None:
        rooms.append((budget - run.reserved_cost, f"{ITS_BUDGET} of ${budget.normalize():f}"))
    limit = session.scalar(select(Organization.daily_spend_limit).where(Organization.id == run.organization_id))
    if limit is not None:
        spent = _spent_on(session, run.organization_id, today)
        rooms.append((limit - spent, f"the organization's daily spend limit of ${limit.normalize():f}"))
    room, whose = min(rooms, default=(wanted, ""))
    share = (max(Decimal(0), room) / (2 * parts)).quantize(STORED, ROUND_DOWN)
    amount = min(wanted, max(least, share))
    if amount > room or amount <= 0:
        return Reserved(Decimal(0), refusal=whose)
    day = today if limit is not None else None
    _change(session, lease, day, amount)
    return Reserved(amount, day)


def give_back(session: Session, lease: Lease, day: date | None, amount: Decimal) -> None:
    """What was reserved and not spent. day: as it was reserved. Raises LeaseLost."""
    _change(session, lease, day, -amount)


def charge(session: Session, lease: Lease, amount: Decimal) -> None:
    """What was spent beyond all that was reserved: it counts, whatever the limits say. Raises LeaseLost."""
    organization_id = session.scalar(
        select(Organization.id)
        .join(EvaluationRun, EvaluationRun.organization_id == Organization.id)
        .where(lease.holds(), Organization.daily_spend_limit.isnot(None))
    )
    today = None if organization_id is None else _today(session)
    if today is not None:
        _spent_on(session, organization_id, today)
    _change(session, lease, today, amount)


def _today(session: Session) -> date:
    return session.execute(select(cast(func.timezone("UTC", func.now()), Date))).scalar_one()


def _change(session: Session, lease: Lease, day: date | None, amount: Decimal) -> None:
    organization_id = session.scalar(
        update(EvaluationRun)
        .where(lease.holds())
        .values(
            reserved_cost=func.greatest(0, EvaluationRun.reserved_cost + amount), updated_at=EvaluationRun.updated_at
        )
        .returning(EvaluationRun.organization_id)
    )
    if organization_id is None:
        raise lost(lease)
    if day is not None:
        session.execute(
            update(DailySpend)
            .where(DailySpend.organization_id == organization_id, DailySpend.day == day)
            .values(reserved_cost=func.greatest(0, DailySpend.reserved_cost + amount))
        )


def _spent_on(session: Session, organization_id: Any, day: date) -> Decimal:
    """What counts against the day's limit, its row locked; the day's first look counts what it cost until then."""
    mine = (DailySpend.organization_id == organization_id, DailySpend.day == day)
    spent = session.scalar(select(DailySpend.reserved_cost).where(*mine).with_for_update())
    if spent is None:
        before = session.scalar(
            select(func.coalesce(func.sum(EvaluationResult.cost), 0))
            .join(EvaluationRun, EvaluationRun.id == EvaluationResult.evaluation_run_id)
            .where(EvaluationRun.updated_at >= day, EvaluationResult.executed_at >= day)
        )
        session.execute(
            insert(DailySpend)
            .values(organization_id=organization_id, day=day, reserved_cost=before)
            .on_conflict_do_nothing()
        )
        spent = session.scalar(select(DailySpend.reserved_cost).where(*mine).with_for_update())
    assert spent is not None
    return spent

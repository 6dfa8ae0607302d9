"""Follows versions of policies that serve a share of the requests: what outcomes say of them, and a canary's end.

A trial begins when a version gets its share, and anew when that is changed or another version is activated beside it.
Outcomes count for it in the order in which they are applied, each part once: those of decisions since its beginning
whose version was left to chance, so not of requests that name a version or bring a seed.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from evalservice.errors import Conflict, InvalidInput
from evalservice.selection.contest import ACTIVE, TRIAL, Contest
from evalservice.selection.policy_schemas import Difference, PolicyTrialRead, Reward, VersionRewards
from evalservice.selection.policy_service import SHARING, find_policy, lock_policies, retire
from evalservice.statistics.unpaired import Values
from evalservice.tables import ModelSelectionLog, SelectionOutcome, SelectionPolicy, SelectionTrial

log = logging.getLogger(__name__)
News = Sequence[tuple[SelectionOutcome, Mapping[str, float]]]
"""Outcomes, each with its parts that are new, in the order in which they are applied."""
_STATUS: Mapping[str, Literal["canary", "ab"]] = {"canary": "canary", "ab": "ab"}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A version with a share and the active one beside it. started_at: since when both have their share."""

    trial: SelectionPolicy
    active: SelectionPolicy

    @property
    def started_at(self) -> datetime:
        return max(self.trial.updated_at, self.active.activated_at or self.trial.updated_at)

    @property
    def cost_weight(self) -> float | None:
        """Of utility: the trial's, else the active version's."""
        for version in (self.trial, self.active):
            if version.parameters.get("cost_weight") is not None:
                return float(version.parameters["cost_weight"])
        return None


def watch_trials(session: Session, organization_id: uuid.UUID, news: News, now: datetime) -> None:
    """Let the outcomes count for the trials that run; a canary that fails more often than the active version, shown at
    5 % however often one looks, is retired. One at a time for each organization, as outcomes are applied."""
    pairs = _pairs(session)
    if not pairs or not news:
        return
    decided = _left_to_chance(session, [outcome.selection_id for outcome, _ in news], pairs)
    for pair in pairs:
        versions = {pair.active.id: ACTIVE, pair.trial.id: TRIAL}
        mine = [
            (versions[decision.policy_id], outcome, parts)
            for outcome, parts in news
            if (decision := decided.get(outcome.selection_id)) is not None
            and decision.policy_id in versions
            and decision.at >= pair.started_at
        ]
        if not mine:
            continue
        row = _stored(session, pair) or SelectionTrial(
            organization_id=organization_id,
            policy_id=pair.trial.id,
            against_id=pair.active.id,
            started_at=pair.started_at,
            state=Contest.begin(pair.cost_weight).stored(),
        )
        contest = Contest.restored(row.state)
        for version, outcome, parts in mine:
            contest.take(version, _rewards(outcome, parts, contest.cost_weight))
        row.state = contest.stored()
        session.add(row)
        session.flush()
        if contest.harmful and pair.trial.status == "canary":
            _stop(session, organization_id, pair, row, contest, now)


def trial_of(session: Session, reference: str, reward: Reward) -> PolicyTrialRead:
    """How the trial of a version stands, or of the version of that name that has a share or had one last.

    Raises NotFound (policy), Conflict: there is no trial, InvalidInput: a utility without a cost_weight.
    """
    pair, row = _found(session, reference)
    contest = Contest.restored(row.state) if row is not None else Contest.begin(pair.cost_weight)
    duel = contest.duels.get(reward)
    if duel is None:
        accepted = f"quality or success: neither version of {pair.trial.name!r} has a cost_weight"
        raise InvalidInput("reward", reward, accepted)
    found = duel.interval()
    return PolicyTrialRead(
        policy_name=pair.trial.name,
        status=_STATUS.get(pair.trial.status, "ended"),
        traffic_share=pair.trial.traffic_share,
        started_at=pair.started_at if row is None else row.started_at,
        stopped_at=None if row is None else row.stopped_at,
        reward=reward,
        cost_weight=contest.cost_weight if reward == "utility" else None,
        active=_version(pair.active, duel.active),
        trial=_version(pair.trial, duel.trial),
        difference=Difference(value=found.value, ci_low=found.low, ci_high=found.high, n=found.n),
        verdict=duel.verdict,
        failure_p_value=contest.failure_p_value,
    )


def _pairs(session: Session) -> list[_Pair]:
    trial, active = aliased(SelectionPolicy), aliased(SelectionPolicy)
    query = select(trial, active).where(
        trial.status.in_(SHARING),
        active.organization_id == trial.organization_id,
        active.name == trial.name,
        active.status == "active",
    )
    return [_Pair(*row) for row in session.execute(query.order_by(trial.name))]


@dataclass(frozen=True, slots=True)
class _Decision:
    policy_id: uuid.UUID
    at: datetime


def _left_to_chance(session: Session, ids: Sequence[uuid.UUID], pairs: Sequence[_Pair]) -> dict[uuid.UUID, _Decision]:
    """Of these decisions those that served a version of the pairs, and whose request did not determine which."""
    row = ModelSelectionLog
    versions = {version.id for pair in pairs for version in (pair.trial, pair.active)}
    asked = row.request["policy"].astext
    query = select(row.id, row.policy_id, row.decided_at, row.created_at).where(
        row.id.in_(ids),
        row.policy_id.in_(versions),
        row.is_shadow.is_(False),
        row.request["seed"].astext.is_(None),
        or_(asked.is_(None), asked == row.policy_name),
    )
    return {each.id: _Decision(each.policy_id, each.decided_at or each.created_at) for each in session.execute(query)}


def _rewards(outcome: SelectionOutcome, parts: Mapping[str, float], cost_weight: float | None) -> dict[str, float]:
    """The rewards that became known with these parts."""
    rewards = {kind: parts[kind] for kind in ("success", "quality") if kind in parts}
    whole = outcome.quality is not None and outcome.cost is not None and ("quality" in parts or "cost" in parts)
    if whole and cost_weight is not None and outcome.quality is not None and outcome.cost is not None:
        rewards["utility"] = outcome.quality - cost_weight * float(outcome.cost)
    return rewards


def _stored(session: Session, pair: _Pair) -> SelectionTrial | None:
    row = SelectionTrial
    query = select(row).where(
        row.policy_id == pair.trial.id, row.against_id == pair.active.id, row.started_at == pair.started_at
    )
    return session.scalars(query).one_or_none()


def _stop(
    session: Session, organization_id: uuid.UUID, pair: _Pair, row: SelectionTrial, contest: Contest, now: datetime
) -> None:
    lock_policies(session, organization_id)
    since = pair.trial.updated_at
    session.refresh(pair.trial)
    if pair.trial.status != "canary" or pair.trial.updated_at != since:
        return  # somebody else has changed it in the meantime
    retire(session, pair.trial)
    row.stopped_at = now
    failures = contest.harm
    log.warning(
        "canary_stopped",
        extra={
            "organization_id": organization_id,
            "policy": pair.trial.name,
            "version": pair.trial.version,
            "against_version": pair.active.version,
            "failure_rate": failures.second.mean,
            "against_failure_rate": failures.first.mean,
            "outcomes": failures.second.n,
            "p_value": contest.failure_p_value,
        },
    )


def _found(session: Session, reference: str) -> tuple[_Pair, SelectionTrial | None]:
    policy = find_policy(session, reference)
    for pair in _pairs(session):
        if policy.id in (pair.trial.id, pair.active.id):
            return pair, _stored(session, pair)
    trial, against = aliased(SelectionPolicy), aliased(SelectionPolicy)
    query = (
        select(SelectionTrial, trial, against)
        .join(trial, trial.id == SelectionTrial.policy_id)
        .join(against, against.id == SelectionTrial.against_id)
        .where(trial.name == policy.name)
        .order_by(SelectionTrial.started_at.desc(), SelectionTrial.id.desc())
        .limit(1)
    )
    if policy.status != "active":
        query = query.where(trial.id == policy.id)
    last = session.execute(query).one_or_none()
    if last is None:
        raise Conflict(
            f"policy: {policy.name}@{policy.version} has had no share of the requests beside an active version: "
            f"`evalservice policies ab {policy.name}@VERSION --share 0.5` gives one"
        )
    return _Pair(last[1], last[2]), last[0]


def _version(policy: SelectionPolicy, got: Values) -> VersionRewards:
    return VersionRewards(policy_id=policy.id, version=policy.version, n=got.n, mean=got.mean)

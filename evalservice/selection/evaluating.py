"""Reads logged decisions with their outcomes, and estimates what a stored policy would have got on those requests.

Of `model_selection_logs.candidate_models` it reads what was eligible: `{"model_id", "name", "probability", "quality",
"cost", "error_rate", …}`, estimates being null where there is none; an object with `rejected` was not eligible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row, Text, and_, cast, select
from sqlalchemy.orm import Session

from evalservice.errors import InvalidInput
from evalservice.selection.offpolicy import Decision, Estimate, Evaluation, Log, Refusal, evaluate
from evalservice.selection.policy_schemas import EstimateRead, PolicyEvaluationRead, RefusalRead, Reward
from evalservice.selection.replaying import probabilities
from evalservice.tables import ModelSelectionLog, SelectionOutcome, SelectionPolicy

Candidate = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to estimate, of which decisions. cost_weight: quality per US dollar; None: the policy's own.

    use_case: None for all. The time is [since, until). most: the latest decisions, at most.
    """

    reward: Reward = "quality"
    cost_weight: float | None = None
    use_case: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    most: int = 10_000


def evaluation_of(session: Session, policy: SelectionPolicy, asked: Asked) -> PolicyEvaluationRead:
    """What the policy would have got, or the refusal. Decisions that only shadowed are left out, they got nothing.

    Raises InvalidInput: a time that is empty, no cost_weight for a utility, an algorithm that gives no probabilities.
    """
    if asked.since is not None and asked.until is not None and asked.since >= asked.until:
        raise InvalidInput("since", asked.since.isoformat(), f"a moment before until ({asked.until.isoformat()})")
    reward = _Reward(asked.reward, _cost_weight(policy, asked))
    decisions: list[Decision] = []
    unusable = 0
    for row in _rows(session, asked):
        chosen, eligible = _usable(row)
        target = None if chosen is None else _target(policy, eligible)
        if chosen is None or target is None:
            unusable += 1
            continue
        decisions.append(
            Decision(
                chosen=chosen,
                propensity=row.propensity,
                reward=reward.of(row),
                logged=[float(each["probability"]) for each in eligible],
                target=target,
                estimates=reward.estimates(eligible),
            )
        )
    return _shown(policy, asked, reward, unusable, evaluate(Log.of(decisions)))


def _rows(session: Session, asked: Asked) -> Iterator[Row[Any]]:
    """The decisions that served, the latest first, each with its outcome if that has come."""
    log, outcome = ModelSelectionLog, SelectionOutcome
    of_it = and_(outcome.organization_id == log.organization_id, outcome.selection_id == log.id)
    columns: tuple[Any, ...] = (
        log.selected_model_id,
        log.propensity,
        cast(log.candidate_models, Text).label("candidates"),  # orjson reads it in a third of the time
        outcome.success,
        outcome.quality,
        outcome.cost,
    )
    query = (
        select(*columns)
        .outerjoin(outcome, of_it)
        # a draw that the caller has made is not one with these probabilities
        .where(log.selected_model_id.is_not(None), log.is_shadow.is_(False), ~log.request.has_key("seed"))
        .order_by(log.created_at.desc())
        .limit(asked.most)
        .execution_options(yield_per=500)
    )
    if asked.use_case is not None:
        query = query.where(log.use_case == asked.use_case)
    if asked.since is not None:
        query = query.where(log.created_at >= asked.since)
    if asked.until is not None:
        query = query.where(log.created_at < asked.until)
    yield from session.execute(query)


def _usable(row: Row[Any]) -> tuple[int | None, list[Candidate]]:
    """Where the chosen one is among the eligible candidates; None where the row does not say how it was chosen."""
    held = orjson.loads(row.candidates)
    eligible: list[Candidate] = [each for each in held if isinstance(each, dict) and "rejected" not in each]
    known = all(_share(each.get("probability")) for each in eligible)
    ids = [str(each.get("model_id")) for each in eligible]
    if not known or not _share(row.propensity) or not row.propensity or str(row.selected_model_id) not in ids:
        return None, eligible
    return ids.index(str(row.selected_model_id)), eligible


def _share(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _target(policy: SelectionPolicy, eligible: Sequence[Candidate]) -> list[float] | None:
    """What the policy would have given each; None where none of them fits it."""
    given = [float(each) for each in probabilities(policy.algorithm, policy.parameters, eligible)]
    if not any(given):
        return None
    if len(given) != len(eligible) or not all(map(_share, given)) or not math.isclose(sum(given), 1, abs_tol=1e-6):
        accepted = "an algorithm that gives each candidate a probability, 1 in all"
        raise InvalidInput("algorithm", policy.algorithm, accepted)
    return given


def _cost_weight(policy: SelectionPolicy, asked: Asked) -> float | None:
    if asked.reward != "utility":
        return None
    own = policy.parameters.get("cost_weight") if asked.cost_weight is None else asked.cost_weight
    if own is None:
        accepted = f"the quality that a US dollar is worth, e.g. 10: {policy.name!r} has no cost_weight of its own"
        raise InvalidInput("cost_weight", None, accepted)
    return float(own)


@dataclass(frozen=True, slots=True)
class _Reward:
    kind: Reward
    cost_weight: float | None

    def of(self, row: Row[Any]) -> float:
        """What an outcome is worth; NaN while it is not known."""
        if self.kind == "success":
            return math.nan if row.success is None else float(row.success)
        return self._utility(row.quality, row.cost)

    def estimates(self, eligible: Sequence[Candidate]) -> list[float]:
        """What was expected of each when the decision was made; of one without evidence, what the others average."""
        expected = [self._expected(each) for each in eligible]
        known = [each for each in expected if math.isfinite(each)]
        mean = math.fsum(known) / len(known) if known else 0.0
        return [each if math.isfinite(each) else mean for each in expected]

    def _expected(self, candidate: Candidate) -> float:
        if self.kind == "success":
            errors = candidate.get("error_rate")
            return math.nan if errors is None else 1 - float(errors)
        return self._utility(candidate.get("quality"), candidate.get("cost"))

    def _utility(self, quality: Any, cost: Any) -> float:
        if quality is None or (self.cost_weight is not None and cost is None):
            return math.nan
        return float(quality) - (0.0 if self.cost_weight is None else self.cost_weight * float(cost))


def _shown(
    policy: SelectionPolicy, asked: Asked, reward: _Reward, unusable: int, found: Evaluation | Refusal
) -> PolicyEvaluationRead:
    estimators: dict[str, EstimateRead] = {}
    logged, refusal = None, None
    if isinstance(found, Refusal):
        refusal = RefusalRead(reason=found.reason, message=found.message)
    else:
        estimators = {"ips": _read(found.ips), "snips": _read(found.snips), "dr": _read(found.dr)}
        logged = _read(found.logged)
    return PolicyEvaluationRead(
        policy_id=policy.id,
        policy_name=policy.name,
        policy_version=policy.version,
        reward=reward.kind,
        cost_weight=reward.cost_weight,
        use_case=asked.use_case,
        since=asked.since,
        until=asked.until,
        unusable=unusable,
        **asdict(found.evidence),
        estimators=estimators,
        logged=logged,
        refusal=refusal,
    )


def _read(estimate: Estimate) -> EstimateRead:
    return EstimateRead(value=estimate.value, stderr=estimate.stderr, ci_low=estimate.low, ci_high=estimate.high)

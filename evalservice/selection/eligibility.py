"""Hard constraints first: which models may be chosen at all, and for every other one the constraint that it breaks.

Constraints are judged in a fixed order and a model is told the first that it breaks. A number that is not known breaks
every limit on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalservice.selection.policies import normal_quantile
from evalservice.selection.request import Constraints, MinQuality, SelectionRequest
from evalservice.selection.snapshot import Array, Snapshot

NO_EVIDENCE = "no evidence"


class Limit(NamedTuple):
    """One constraint of a request, as it is shown (`limit`).

    values [M] may be at most `highest`; a floor has both with the sign turned. Where it is not about a number, `given`
    is what each model has and `kept` whether that is enough.
    """

    constraint: str
    limit: Any
    values: Any = None
    highest: float = 0.0
    given: tuple[Any, ...] = ()
    kept: tuple[bool, ...] = ()

    def numbers(self) -> list[float]:
        """What each model has, where that is a number; NaN where it is not known."""
        return (-self.values if self.constraint == "min_quality" else self.values).tolist()  # type: ignore[no-any-return]


class Eligibility(NamedTuple):
    """broken [M]: 0 for an eligible model, else 1 + the index in `limits` of the first constraint that it breaks.
    eligible [k]: the indices of the models that may be chosen, in order."""

    limits: tuple[Limit, ...]
    broken: NDArray[np.intp]
    eligible: NDArray[np.intp]

    @classmethod
    def of(cls, limits: tuple[Limit, ...], broken: NDArray[np.intp]) -> Eligibility:
        """By what each model breaks."""
        return cls(limits, broken, (broken == 0).nonzero()[0])


def judge(snapshot: Snapshot, request: SelectionRequest, now: float) -> Eligibility:
    """Which models the request may get. `now`: seconds of the epoch, for the age of evidence."""
    asked = request.constraints
    key = (
        tuple(request.required_capabilities),
        *(None if each is None else tuple(each) for each in (asked.platforms, asked.tags, asked.models, asked.exclude)),
        tuple(asked.statuses),
    )
    static: Eligibility = snapshot.found(key) or snapshot.remembered(key, _declared(snapshot, request))
    checks = _numbers(snapshot, asked, now)
    if not checks:
        return static
    limits = (*static.limits, *checks)
    broken = np.zeros(len(snapshot), np.intp)
    for number in range(len(limits), len(static.limits), -1):  # the first one is written last
        limit = limits[number - 1]
        within = limit.values <= limit.highest  # NaN is not below anything
        np.copyto(broken, number, where=np.logical_not(within, out=within))
    if len(static.eligible) < len(snapshot):
        np.copyto(broken, static.broken, where=static.broken > 0)
    return Eligibility.of(limits, broken)


def kept_by(snapshot: Snapshot, eligibility: Eligibility) -> NDArray[np.bool_]:
    """Which models each constraint lets pass by itself [limits, M]."""
    rows = [
        np.array(limit.kept, bool) if limit.values is None else limit.values <= limit.highest
        for limit in eligibility.limits
    ]
    return np.array(rows, bool).reshape(len(rows), len(snapshot))


def _declared(snapshot: Snapshot, request: SelectionRequest) -> Eligibility:
    """What does not hang on evidence: capabilities, status, platform, tags, names."""
    asked, models = request.constraints, snapshot.models
    wanted, tags = frozenset(request.required_capabilities), frozenset(asked.tags or ())
    statuses, platforms = frozenset(asked.statuses), frozenset(asked.platforms or ())
    only, never = frozenset(asked.models or ()), frozenset(asked.exclude or ())
    names = [{card.id, card.name, f"{card.name}@{card.version}"} for card in models]
    checks: list[Limit] = []

    def check(constraint: str, limit: Any, given: Iterable[Any], kept: Iterable[bool]) -> None:
        checks.append(Limit(constraint, limit, given=tuple(given), kept=tuple(kept)))

    own = [card.name for card in models]
    check("statuses", sorted(statuses), [card.status for card in models], [card.status in statuses for card in models])
    if wanted:
        lacking = [[f"lacks {name}" for name in sorted(wanted - card.capabilities)] for card in models]
        check("required_capabilities", sorted(wanted), lacking, [not each for each in lacking])
    if asked.platforms is not None:
        given = [card.platform for card in models]
        check("platforms", sorted(platforms), given, [each in platforms for each in given])
    if tags:
        lacking = [[f"lacks {tag}" for tag in sorted(tags - card.tags)] for card in models]
        check("tags", sorted(tags), lacking, [not each for each in lacking])
    if asked.models is not None:
        check("models", sorted(only), own, [bool(each & only) for each in names])
    if never:
        check("exclude", sorted(never), own, [not each & never for each in names])
    broken = np.zeros(len(models), np.intp)
    for number, limit in enumerate(checks, 1):
        broken[(broken == 0) & ~np.array(limit.kept, bool)] = number
    return Eligibility.of(tuple(checks), broken)


def _numbers(snapshot: Snapshot, asked: Constraints, now: float) -> list[Limit]:
    checks = []
    if not snapshot.all_available:
        checks.append(Limit("circuit_breaker", "not open", snapshot.unavailable, 0.0, snapshot.breakers))
    if asked.max_cost is not None:
        checks.append(Limit("max_cost", asked.max_cost, snapshot.cost, asked.max_cost))
    if asked.max_cost_per_1k_tokens is not None:
        limit = asked.max_cost_per_1k_tokens
        checks.append(Limit("max_cost_per_1k_tokens", limit, snapshot.cost_per_1k, limit))
    if asked.max_p95_latency_ms is not None:
        limit = asked.max_p95_latency_ms
        checks.append(Limit("max_p95_latency_ms", limit, snapshot.latency[1], limit))
    if asked.max_error_rate is not None:
        checks.append(Limit("max_error_rate", asked.max_error_rate, snapshot.error_rate, asked.max_error_rate))
    if asked.min_quality is not None:
        checks.append(_floor(snapshot, asked.min_quality))
    if asked.max_evidence_age_seconds is not None:
        limit = asked.max_evidence_age_seconds
        checks.append(Limit("max_evidence_age_seconds", limit, now - snapshot.newest, limit))
    return checks


def _floor(snapshot: Snapshot, asked: MinQuality) -> Limit:
    target = target_name(asked)
    key = ("bound", target, asked.confidence)
    shortfall = snapshot.found(key)
    if shortfall is None:
        shortfall = snapshot.remembered(key, -lower_bound(snapshot, target, asked.confidence))
    limit: dict[str, Any] = {"value": asked.value, "confidence": asked.confidence}
    if target:
        kind, _, name = target.partition(":")
        limit[kind] = name
    return Limit("min_quality", limit, shortfall, -asked.value)


def target_name(asked: MinQuality) -> str:
    """The row of the snapshot that a floor is about."""
    if asked.benchmark is not None:
        return f"benchmark:{asked.benchmark}"
    return f"category:{asked.category}" if asked.category is not None else ""


def lower_bound(snapshot: Snapshot, target: str, confidence: float) -> Array:
    """The one-sided lower confidence bound of each model's quality [M]; NaN where it was not measured there itself."""
    row = snapshot.targets.get(target)
    if row is None:
        return np.full(len(snapshot), np.nan)
    bound = snapshot.quality[row] - normal_quantile(confidence) * snapshot.quality_sd[row]
    return np.where(snapshot.quality_n[row] > 0, bound, np.nan)

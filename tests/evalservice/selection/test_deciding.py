"""A decision holds every constraint, whatever the policy, and is a pure function of what it is given."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from evalservice.selection.answers import candidates_json
from evalservice.selection.deciding import Decision, PolicyVersion, QueryEstimates, decide, drawn
from evalservice.selection.explaining import explanation
from evalservice.selection.policy_parameters import BUILTIN, parameters_of
from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import Snapshot
from tests.evalservice.selection.snapshots import NOW, a_request, a_snapshot

DECISIONS = 6000
PARAMETERS: dict[str, dict[str, Any]] = {
    "weighted": {"exploration": 0.05},
    "cheapest_above_quality": {"min_quality": 0.3, "exploration": 0.05},
    "pareto": {},
    "thompson": {"cost_weight": 10.0, "exploration": 0.05},
    "nearest": {"cost_weight": 5.0},
    "pinned": {"model": "m0"},
    "canary": {"model": "m0", "candidate": "m1", "share": 0.3},
}


def a_policy(name: str) -> PolicyVersion:
    parameters = parameters_of(name, PARAMETERS[name])
    return PolicyVersion(name, name, parameters.model_dump(), exploration=parameters.exploration)


def violations(snapshot: Snapshot, request: SelectionRequest, model: int) -> list[str]:
    """The constraints that a model breaks, judged one by one and by hand."""
    card, asked = snapshot.models[model], request.constraints
    known = {card.id, card.name, f"{card.name}@{card.version}"}
    broken = []

    def above(value: float, limit: float | None) -> bool:
        return limit is not None and not value <= limit

    checks = {
        "required_capabilities": not set(request.required_capabilities) <= card.capabilities,
        "platforms": asked.platforms is not None and card.platform not in asked.platforms,
        "tags": not set(asked.tags or ()) <= card.tags,
        "statuses": card.status not in asked.statuses,
        "models": asked.models is not None and not known & set(asked.models),
        "exclude": bool(known & set(asked.exclude or ())),
        "max_cost": above(snapshot.cost[model], asked.max_cost),
        "max_cost_per_1k_tokens": above(snapshot.cost_per_1k[model], asked.max_cost_per_1k_tokens),
        "max_p95_latency_ms": above(snapshot.latency[1, model], asked.max_p95_latency_ms),
        "max_error_rate": above(snapshot.error_rate[model], asked.max_error_rate),
        "max_evidence_age_seconds": above(NOW - snapshot.newest[model], asked.max_evidence_age_seconds),
        "circuit_breaker": snapshot.breakers[model] == "open",
    }
    broken += [name for name, is_broken in checks.items() if is_broken]
    if (floor := asked.min_quality) is not None:
        name = (
            f"benchmark:{floor.benchmark}"
            if floor.benchmark
            else f"category:{floor.category}"
            if floor.category
            else ""
        )
        row = snapshot.targets.get(name)
        measured = row is not None and snapshot.quality_n[row, model] > 0
        bound = np.nan
        if row is not None and measured:
            bound = snapshot.quality[row, model] - norm.ppf(floor.confidence) * snapshot.quality_sd[row, model]
        if not bound >= floor.value - 1e-12:
            broken.append("min_quality")
    return broken


def decided(rng: np.random.Generator, snapshot: Snapshot, name: str) -> Decision:
    request = a_request(rng, len(snapshot))
    return decide(snapshot, request, a_policy(name), seed=int(rng.integers(2**62)), now=NOW)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_no_decision_breaks_a_constraint_and_no_eligible_model_is_left_out(name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for _ in range(DECISIONS // len(PARAMETERS) // 50 + 1):
        snapshot = a_snapshot(rng, int(rng.integers(1, 30)))
        for _ in range(50):
            decision = decided(rng, snapshot, name)
            eligible = [i for i in range(len(snapshot)) if not violations(snapshot, decision.request, i)]
            assert decision.eligible.tolist() == eligible
            if decision.model is not None:
                assert decision.model in eligible
                assert decision.propensity is not None
                assert decision.propensity > 0


def test_every_policy_of_ours_is_tried_here() -> None:
    assert set(PARAMETERS) == set(BUILTIN)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_probabilities_are_explicit_and_add_up(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        decision = decided(rng, a_snapshot(rng, 12), name)
        if decision.scored is not None:
            assert decision.scored.probability.sum() == pytest.approx(1.0, abs=1e-12)
            assert (decision.scored.probability >= 0).all()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_the_same_request_snapshot_and_seed_give_the_same_decision(name: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        first = decided(rng, a_snapshot(rng, 12), name)
        again = decide(first.snapshot, first.request, first.policy, seed=first.seed, now=NOW)
        assert candidates_json(again) == candidates_json(first)
        assert (again.model, explanation(again)) == (first.model, explanation(first))


def written(decision: Decision) -> list[dict[str, Any]]:
    """The candidates of a decision, one by one and by hand."""
    snapshot, candidates, scored, limits = (
        decision.snapshot, decision.candidates, decision.scored, decision.eligibility.limits
    )  # fmt: skip
    found: list[dict[str, Any]] = []
    for place in decision.order or range(len(candidates)):
        numbers = [
            float("nan") if scored is None else scored.score[place],
            0.0 if scored is None else scored.probability[place],
            *candidates.values[:, place],
        ]
        names = ["score", "probability", "quality", "quality_sd", "cost", "latency_ms", "error_rate", "outcomes"]
        known = {name: None if np.isnan(number) else float(number) for name, number in zip(names, numbers, strict=True)}
        found.append({"model_id": candidates.ids[place], "name": candidates.names[place], **known})
    for model, number in enumerate(decision.eligibility.broken):
        if number:
            limit = limits[number - 1]
            value = limit.given[model] if limit.given else float(limit.values[model])
            value = "no evidence" if value != value else -value if limit.constraint == "min_quality" else value
            rejected = {"constraint": limit.constraint, "value": value, "limit": limit.limit}
            found.append({"model_id": snapshot.ids[model], "name": snapshot.names[model], "rejected": rejected})
    return found


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_candidates_are_written_as_they_are(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        snapshot = a_snapshot(rng, int(rng.integers(1, 20)))
        own = rng.uniform(0, 1, (3, len(snapshot)))
        own[:, rng.uniform(size=len(snapshot)) < 0.3] = np.nan
        for query in (QueryEstimates(), QueryEstimates(*own), QueryEstimates()):
            request, seed = a_request(rng, len(snapshot)), int(rng.integers(2**62))
            decision = decide(snapshot, request, a_policy(name), seed=seed, now=NOW, query=query)
            assert json.loads(candidates_json(decision)) == written(decision)


def test_draws_come_as_often_as_their_probability_says() -> None:
    probability = np.array([0.0, 0.2, 0.5, 0.0, 0.3])
    found = np.bincount([drawn(probability, seed) for seed in range(20_000)], minlength=5) / 20_000
    assert found == pytest.approx(probability, abs=0.012)


def test_an_unknown_is_never_an_advantage() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        snapshot = a_snapshot(rng, 10)
        decision = decide(snapshot, SelectionRequest(), a_policy("weighted"), seed=0, now=NOW)
        if decision.scored is None:
            continue
        values, scores = decision.candidates.values, decision.scored.score
        for other in range(len(decision.candidates)):
            worse = np.isnan(values[[0, 2, 3], other]).all()
            if worse:
                assert scores[other] <= scores.max() + 1e-12


def test_a_failing_canary_gets_nothing_and_the_decision_says_why() -> None:
    rng = np.random.default_rng(4)
    snapshot = a_snapshot(rng, 2)
    snapshot.error_rate[:] = (0.01, 0.5)
    snapshot.outcomes[:] = 100.0
    request = SelectionRequest.model_validate({"constraints": {"statuses": ["active", "experimental", "deprecated"]}})
    closed = Snapshot(**{n: getattr(snapshot, n) for n in _FIELDS} | {"breakers": ("closed", "closed")})
    chosen = [decide(closed, request, a_policy("canary"), seed=seed, now=NOW) for seed in range(50)]
    assert {decision.model for decision in chosen} == {0}
    assert "guard rail" in explanation(chosen[0])


_FIELDS = tuple(
    name for name in Snapshot.__dataclass_fields__ if Snapshot.__dataclass_fields__[name].init and name[0] != "_"
)

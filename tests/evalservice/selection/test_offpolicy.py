"""Off-policy estimates: their algebra, their refusals, and on real rewards their coverage and error."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.selection.offpolicy import Decision, Evaluation, Log, Refusal, evaluate

DATA = os.environ.get("EVALSERVICE_TEST_DATA")


def decisions(seed: int, n: int = 400, *, exact: bool = False) -> list[Decision]:
    """Decisions between two to five candidates by an exploring policy. exact: estimates that are the rewards."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        size = int(rng.integers(2, 6))
        logged, target, rewards = (rng.dirichlet(np.full(size, 3.0)) for _ in range(3))
        logged = 0.8 * logged + 0.2 / size
        estimates = rewards if exact else rng.random(size)
        chosen = int(rng.choice(size, p=logged))
        made.append(Decision(chosen, logged[chosen], rewards[chosen], logged, target, estimates))
    return made


def evaluated(held: list[Decision]) -> Evaluation:
    found = evaluate(Log.of(held))
    assert isinstance(found, Evaluation), found
    return found


def numbers(found: Any) -> list[float]:
    return [value for each in dataclasses.asdict(found).values() for value in each.values()]


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_logging_policy_itself_gets_the_mean_reward(seed: int) -> None:
    held = [dataclasses.replace(each, target=each.logged) for each in decisions(seed)]
    found = evaluated(held)
    assert found.evidence.effective_n == pytest.approx(len(held))
    for estimate in (found.ips, found.snips):
        assert dataclasses.astuple(estimate) == pytest.approx(dataclasses.astuple(found.logged))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_reward_model_that_is_right_leaves_nothing_to_chance(seed: int) -> None:
    held = decisions(seed, exact=True)
    truth = [float(np.dot(each.target, each.estimates)) for each in held]
    found = evaluated(held).dr
    assert found.value == pytest.approx(np.mean(truth))
    assert found.stderr == pytest.approx(np.std(truth, ddof=1) / math.sqrt(len(truth)))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_candidates_that_neither_policy_chooses_and_any_order_change_nothing(seed: int) -> None:
    held = decisions(seed)
    rng = np.random.default_rng(seed)
    other = []
    for i in rng.permutation(len(held)):
        each = held[i]
        size = len(each.target) + int(rng.integers(3))
        place = rng.permutation(size)[: len(each.target)]
        wider = np.zeros((3, size))
        wider[:, place] = (each.logged, each.target, each.estimates)
        other.append(Decision(int(place[each.chosen]), each.propensity, each.reward, *wider))
    assert numbers(evaluated(other)) == pytest.approx(numbers(evaluated(held)))


def test_decisions_without_an_outcome_are_left_out_and_counted() -> None:
    held = decisions(1)
    waiting = [dataclasses.replace(each, reward=math.nan) for each in decisions(2, 60)]
    found, expected = evaluated([*waiting, *held]), evaluated(held)
    assert found.evidence == dataclasses.replace(expected.evidence, without_outcome=60)
    assert (found.ips, found.snips, found.dr) == (expected.ips, expected.snips, expected.dr)


def deterministic(n: int, reward: float = 1.0) -> list[Decision]:
    """Requests whose log always chose the first of two, which the target does as well."""
    return [Decision(0, 1.0, reward, (1.0, 0.0), (1.0, 0.0), (0.5, 0.5)) for _ in range(n)]


def switched(n: int) -> list[Decision]:
    """Requests whose log could not have chosen what the target does."""
    return [dataclasses.replace(each, target=(0.0, 1.0)) for each in deterministic(n)]


def test_missing_support_is_borne_up_to_five_percent_and_refused_beyond() -> None:
    found = evaluate(Log.of([*deterministic(950), *switched(50)]))
    assert isinstance(found, Evaluation)
    assert found.evidence.without_support == 0.05
    refused = evaluate(Log.of([*deterministic(949), *switched(51)]))
    assert isinstance(refused, Refusal)
    assert refused.reason == "support"
    assert "5.1% of 1000 requests" in refused.message


def test_a_log_that_is_worth_less_than_a_hundred_requests_is_refused() -> None:
    assert isinstance(evaluate(Log.of(deterministic(100))), Evaluation)
    refused = evaluate(Log.of(deterministic(99)))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.evidence.effective_n) == ("effective_n", 99)
    rare = [Decision(0, 0.01, 1.0, (0.01, 0.99), (1.0, 0.0), (0.5, 0.5))] * 20
    often = [Decision(1, 0.99, 1.0, (0.01, 0.99), (1.0, 0.0), (0.5, 0.5))] * 1980
    refused = evaluate(Log.of([*rare, *often]))
    assert isinstance(refused, Refusal)
    assert refused.evidence.effective_n == pytest.approx(20)


@pytest.mark.parametrize("held", [[], [dataclasses.replace(each, reward=math.nan) for each in deterministic(200)]])
def test_a_log_without_outcomes_is_refused(held: list[Decision]) -> None:
    refused = evaluate(Log.of(held))
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.evidence.n) == ("no_outcomes", 0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"propensity": 0.0}, "propensity"),
        ({"target": (0.5, 0.4)}, "add up to 1"),
        ({"target": (1.5, -0.5)}, "probability"),
        ({"chosen": 2}, "chosen"),
        ({"chosen": -1}, "chosen"),
        ({"logged": (1.0,)}, "candidates"),
        ({"estimates": (math.nan, 0.0)}, "estimate"),
    ],
)
def test_a_decision_that_cannot_be_is_an_error_and_no_estimate(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Log.of([dataclasses.replace(deterministic(1)[0], **changes)])


# on real rewards: every model's for every prompt, so that the truth of any policy is known


@dataclasses.dataclass(frozen=True)
class World:
    """Prompts of which two to four models are eligible, shape (prompts, models); estimates are from other prompts."""

    rewards: Any
    estimates: Any
    eligible: Any

    def shares(self, scores: Any, exploration: float) -> Any:
        """A policy: the best eligible by score, and now and then any."""
        best = np.where(self.eligible, scores, -np.inf).argmax(1)
        greedy = np.eye(scores.shape[1])[best]
        return (1 - exploration) * greedy + exploration * self.eligible / self.eligible.sum(1, keepdims=True)


def world(cost_weight: float) -> World:
    """cost_weight: quality that a dollar is worth; the reward is quality - cost_weight × cost."""
    with Path(f"{DATA}/four_models/prompts.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    models = list(rows[0]["quality"])
    rewards = np.array([[row["quality"][m] - cost_weight * row["cost_usd"][m] for m in models] for row in rows])
    source = np.unique([row["source"] for row in rows], return_inverse=True)[1]
    rng = np.random.default_rng(7)
    seen = rng.random(len(rows)) < 0.5
    sums, counts = np.zeros((source.max() + 1, len(models))), np.bincount(source[seen], minlength=source.max() + 1)
    np.add.at(sums, source[seen], rewards[seen])
    estimates = (sums + 3 * rewards[seen].mean(0)) / (counts[:, None] + 3)
    order = rng.random(rewards.shape).argsort(1).argsort(1)
    eligible = order < rng.integers(2, len(models) + 1, (len(rows), 1))
    return World(rewards[~seen], estimates[source][~seen], eligible[~seen])


def simulated(held: World, logging: Any, target: Any, n: int, rng: np.random.Generator) -> Log:
    """A log of n requests for any of the prompts."""
    prompt = rng.integers(len(logging), size=n)
    shares, eligible = logging[prompt], held.eligible[prompt]
    action = (shares.cumsum(1) < rng.random((n, 1)) * shares.sum(1, keepdims=True)).sum(1)
    at = np.arange(n)
    offsets = np.concatenate([[0], eligible.sum(1).cumsum()])
    return Log(
        offsets=offsets,
        chosen=offsets[:-1] + eligible.cumsum(1)[at, action] - 1,
        propensity=shares[at, action],
        reward=held.rewards[prompt, action],
        logged=shares[eligible],
        target=target[prompt][eligible],
        estimates=held.estimates[prompt][eligible],
    )


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="EVALSERVICE_TEST_DATA is not set: four models' quality and cost for each prompt")
@pytest.mark.parametrize("exploration", [1.0, 0.5], ids=["logged at random", "logged by exploring half"])
@pytest.mark.parametrize("cost_weight", [0.0, 20.0], ids=["quality", "quality less cost"])
def test_intervals_cover_the_truth_and_the_doubly_robust_error_is_the_smallest(
    cost_weight: float, exploration: float
) -> None:
    held, rng = world(cost_weight), np.random.default_rng(11)
    logging = held.shares(np.tile([1.0, 0, 0, 0], (len(held.rewards), 1)), exploration)
    target = held.shares(held.estimates, 0.05)
    truth = float((target * held.rewards).sum(1).mean())
    logs, requests = 1000, 1500
    covered, error = dict.fromkeys(("ips", "snips", "dr"), 0), dict.fromkeys(("ips", "snips", "dr"), 0.0)
    for _ in range(logs):
        found = evaluate(simulated(held, logging, target, requests, rng))
        assert isinstance(found, Evaluation)
        for name in covered:
            estimate = getattr(found, name)
            covered[name] += estimate.low <= truth <= estimate.high
            error[name] += abs(estimate.value - truth) / logs
    assert min(covered.values()) >= 0.93 * logs, covered
    assert error["dr"] < error["ips"]
    assert error["dr"] < error["snips"]

"""A policy's budget holds for what requests really cost, which is told after they were decided."""

from __future__ import annotations

import numpy as np
import pytest

from evalservice.selection.budgets import Budgets
from evalservice.selection.deciding import Decision, PolicyVersion, decide
from evalservice.selection.policy_parameters import parameters_of
from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import Snapshot
from tests.evalservice.selection.snapshots import NOW, two_models

NEAREST = parameters_of("nearest", {}).model_dump()
MEAN = 0.001


def a_policy(mean: float = MEAN) -> PolicyVersion:
    return PolicyVersion(f"at most {mean}", "nearest", NEAREST, budget={"mean_cost_usd": mean})


def decided(budgets: Budgets, snapshot: Snapshot, policy: PolicyVersion, number: int) -> Decision:
    pace = budgets.pace(policy, NOW)
    decision = decide(
        snapshot, SelectionRequest(), policy, seed=number, now=NOW, price=pace.price, allowance=pace.allowance
    )
    budgets.charge(decision, str(number))
    return decision


@pytest.mark.parametrize("dearer", [0.5, 1.0, 2.0])
def test_the_mean_of_what_requests_cost_holds_though_they_cost_other_than_expected(dearer: float) -> None:
    budgets, snapshot, rng = Budgets(), two_models(cost=(0.0002, 0.004)), np.random.default_rng(1)
    spent = []
    for number in range(1000):
        decision = decided(budgets, snapshot, a_policy(), number)
        assert decision.model is not None
        spent.append(float(snapshot.cost[decision.model] * dearer * rng.uniform(0.5, 1.5)))
        budgets.settle(str(number), spent[-1])
        budgets.settle(str(number), spent[-1])  # told twice, counted once
    assert 0.9 * MEAN < np.mean(spent) <= 1.004 * MEAN


def test_a_budget_below_the_cheapest_model_is_known_to_be() -> None:
    budgets, snapshot = Budgets(), two_models(cost=(0.0002, 0.004))
    assert budgets.holdable(decided(budgets, snapshot, a_policy(), 0))
    assert not budgets.holdable(decided(budgets, snapshot, a_policy(0.0001), 0))

"""A budget holds, is used, and buys more quality than mixing models at random."""

import json
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.errors import InvalidInput
from evalservice.selection.pacing import DAY, Pacer, affordable, begin, begin_daily, charge, price, settle
from tests.evalservice.selection.streams import (
    best_mixing,
    figures,
    four_models,
    model_means,
    needs_data,
    serve_paced,
    source_means,
)

BUDGETS = (1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
ESTIMATES = {"models": model_means, "sources": source_means}
# requests a second, by the hour
TRAFFIC = {
    "steady": lambda hour: 1 / 50,
    "office hours": lambda hour: 1 / 20 if 8 <= hour < 18 else 1 / 2_000,
    "four bursts": lambda hour: 1 / 5 if int(hour) % 6 == 0 else 1 / 600,
}
ANY = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("estimates", ESTIMATES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_mean_cost_of_a_thousand_requests_holds_and_is_used(budget: float, estimates: str) -> None:
    gained, used = [], []
    for seed in range(10):
        stream = four_models().shuffled(seed)
        served = serve_paced(stream, *ESTIMATES[estimates](stream), begin(budget), 1_000)
        assert served.used <= 1.004
        # less is right only where more money would buy nothing: its price is as good as nothing
        assert served.used >= 0.95 or price(served.pacer, 0.0) < 0.1
        used.append(served.used)
        gained.append(served.quality - best_mixing(stream, budget))
    figures.info(
        "$%g, means of %s: used %.3f to %.3f, quality %+.4f against mixing",
        budget,
        estimates,
        min(used),
        max(used),
        np.mean(gained),
    )
    assert np.mean(gained) > (-0.006 if estimates == "models" else 0.0)


@pytest.mark.data
@needs_data
def test_estimates_for_each_prompt_buy_two_points_more_than_mixing_on_a_small_budget() -> None:
    for budget in (1e-4, 2e-4, 3e-4):
        stream = four_models().shuffled(0)
        served = serve_paced(stream, *source_means(stream), begin(budget), 1_000)
        assert served.quality > best_mixing(stream, budget) + 0.02


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("budget", [2e-4, 2e-3])
def test_four_replicas_that_pace_their_own_requests_hold_the_budget_together(budget: float) -> None:
    spent = 0.0
    for replica in range(4):
        stream = four_models().shuffled(replica)
        spent += serve_paced(stream, *model_means(stream), begin(budget), 1_000).pacer.spent
    assert 0.95 <= spent / 4_000 / budget <= 1.004


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("budget", [2e-4, 1e-3, 5e-3])
def test_the_budget_holds_while_twenty_requests_are_under_way(budget: float) -> None:
    for seed in range(5):
        stream = four_models().shuffled(seed)
        quality, cost = model_means(stream)
        pacer, under_way = begin(budget), deque[tuple[float, float]]()
        for k in range(1_000):
            within = affordable(pacer, cost[k], 0.0).models
            chosen = int(np.where(within, quality[k] - price(pacer, 0.0) * cost[k], -np.inf).argmax())
            pacer = charge(pacer, float(cost[k, chosen]), 0.0)
            under_way.append((float(cost[k, chosen]), float(stream.cost[k, chosen])))
            if len(under_way) > 20:
                pacer = settle(pacer, *under_way.popleft())
        for pair in under_way:
            pacer = settle(pacer, *pair)
        # what is under way may still differ from what was expected of it
        assert 0.95 <= pacer.spent / 1_000 / budget <= 1.03


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("usd_per_request", [2e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_money_per_day_is_kept_to_and_used_once_it_is_known_when_requests_come(
    traffic: str, usd_per_request: float
) -> None:
    rate = TRAFFIC[traffic]
    budget = usd_per_request * sum(3_600 * rate(hour + 0.5) for hour in range(24))
    stream = four_models().shuffled(3)
    quality, cost = model_means(stream)
    rng = np.random.default_rng(0)
    start = now = DAY * 20_000
    pacer, spent = begin_daily(budget, now), np.zeros(5)
    while (now := now + rng.exponential(1 / rate(now % DAY / 3_600))) < start + 4 * DAY:
        k = int(rng.integers(len(quality)))
        within = affordable(pacer, cost[k], now)
        chosen = int(np.where(within.models, quality[k] - price(pacer, now) * cost[k], -np.inf).argmax())
        pacer = charge(pacer, float(stream.cost[k, chosen]), now)
        spent[int((now - start) // DAY)] += stream.cost[k, chosen]
    used = spent[:4] / budget
    figures.info("%s, $%g: used a day %s", traffic, usd_per_request, np.round(used, 3))
    assert (used <= 1.004).all()
    assert (used >= [0.7, 0.85, 0.9, 0.92]).all()


def test_a_budget_below_the_cheapest_model_says_so_and_leaves_the_cheapest() -> None:
    pacer = begin(1e-6)
    for _ in range(50):
        found = affordable(pacer, np.array([2e-5, 1e-3, np.nan]), 0.0)
        assert (found.models.tolist(), found.holdable) == ([True, False, False], False)
        pacer = charge(pacer, 2e-5, 0.0)
    assert affordable(begin(1.0), np.array([2e-5, 1e-3]), 0.0).holdable


def test_after_a_request_that_cost_a_hundred_budgets_only_the_cheapest_is_left_until_it_is_paid() -> None:
    pacer = charge(begin(1e-3), 0.1, 0.0)
    waited = 0
    while affordable(pacer, np.array([1e-4, 1e-3]), 0.0).models.tolist() == [True, False]:
        pacer, waited = charge(pacer, 1e-4, 0.0), waited + 1
    assert waited == pytest.approx(110, abs=3)


def test_a_clock_that_jumps_spends_at_most_one_more_day() -> None:
    start = DAY * 20_000
    pacer = begin_daily(10.0, start)
    for now in (start + 100, start - 10 * DAY, start + 3_650 * DAY, start + 200, float("nan"), start + 300):
        pacer = charge(pacer, 0.001, now)
    assert pacer.credit <= 10.0
    later = charge(pacer, 0.0, start + DAY / 2)
    assert later.credit > pacer.credit


def test_what_a_day_leaves_is_not_the_next_ones() -> None:
    start = DAY * 20_000
    quiet = charge(begin_daily(24.0, start), 0.0, start + DAY - 3_600)
    assert quiet.credit == pytest.approx(23.0)
    assert 0 < charge(quiet, 0.0, start + DAY + 3_600).credit <= 1.0
    indebted = charge(quiet, 30.0, start + DAY - 3_600)
    assert -6.0 < charge(indebted, 0.0, start + DAY + 3_600).credit <= -5.0


@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_amount_is_refused(amount: float) -> None:
    with pytest.raises(InvalidInput, match="positive number of dollars"):
        begin(amount)


@given(st.sampled_from(["request", "day"]), st.lists(st.tuples(ANY, ANY, ANY), max_size=60))
def test_whatever_is_charged_the_price_is_a_positive_number_and_survives_storage(
    basis: str, charges: list[tuple[float, float, float]]
) -> None:
    pacer = begin(0.001) if basis == "request" else begin_daily(5.0, 0.0)
    for cost, actual, now in charges:
        usable = 0 <= cost < np.inf
        after = charge(pacer, cost, now)
        assert after.ignored == pacer.ignored + (not usable)
        pacer = settle(after, cost, actual)
        assert 0 < price(pacer, now) < np.inf
        assert affordable(pacer, np.array([cost, actual]), now).models.any()
        assert Pacer.restored(json.loads(json.dumps(pacer.stored()))) == pacer


def test_the_mean_budget_scales_dollars_and_nothing_else() -> None:
    cents, dollars = begin(0.01), begin(1.0)
    for cost in np.random.default_rng(0).exponential(size=300):
        cents, dollars = charge(cents, cost / 100, 0.0), charge(dollars, float(cost), 0.0)
    assert price(cents, 0.0) == pytest.approx(100 * price(dollars, 0.0))
    assert replace(cents, spent=0.0).count == dollars.count

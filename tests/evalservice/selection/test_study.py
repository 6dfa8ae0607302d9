"""Curves, prices and the study: monotone, honest, and off where the text does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evalservice.errors import InvalidInput
from evalservice.selection.curves import calibrate, choices, drawn, gap_recovered, mixing
from evalservice.selection.embedders import fit_embedder
from evalservice.selection.study import Examples, Study, study, study_on

HASHED = partial(fit_embedder, "hashed")
TOPICS = ("algebra of matrices and rings", "poems about rivers", "tax law of small firms", "cells and their enzymes")


def examples(n: int, seed: int, matters: float) -> Examples:
    """A cheap model that is right in two of four topics so much more often than in the others; a dear one that is
    equally good in all."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 4, n)
    prompts = [f"Question {rng.integers(10**9)} on {TOPICS[t]}, part {rng.integers(10**6)}" for t in topic]
    cheap = rng.random(n) < 0.5 + matters * np.where(topic < 2, 0.35, -0.35)
    dear = rng.random(n) < 0.8
    return Examples(("cheap", "dear"), prompts, np.stack([cheap, dear], axis=1).astype(float))


def told(found: Study) -> tuple[object, ...]:
    """What two studies must share to be the same."""
    return (
        found.apgr,
        found.apgr_ci_low,
        found.cpt50,
        found.curve.cost.tolist(),
        found.curve.quality.tolist(),
        found.use,
    )


def test_routing_is_used_where_the_text_tells_who_is_right() -> None:
    found = study(examples(600, 0, matters=1.0), HASHED, folds=5, seed=0)
    assert found.use
    assert found.apgr is not None
    assert found.apgr > 0.65
    assert found.apgr_ci_low is not None
    assert found.apgr_ci_low > 0.55
    assert found.cpt50 is not None
    assert found.cpt50 < 0.4


def test_routing_is_not_used_where_the_text_tells_nothing() -> None:
    found = [study(examples(400, seed, matters=0.0), HASHED, folds=5, seed=seed) for seed in range(1, 7)]
    assert [each.use for each in found] == [False] * 6
    assert 0.4 < np.mean([float(each.apgr or 0) for each in found]) < 0.55


def test_a_study_is_the_same_again_and_with_the_models_in_another_order() -> None:
    given_ones = examples(200, 3, matters=1.0)
    swapped = replace(given_ones, models=("dear", "cheap"), quality=given_ones.quality[:, ::-1])
    first, again, other = (study(each, HASHED, folds=4, seed=2) for each in (given_ones, given_ones, swapped))
    assert told(first) == told(again) == told(other)
    assert first.models == other.models == ("cheap", "dear")


def test_evidence_given_twice_makes_nothing_surer() -> None:
    once = examples(150, 5, matters=0.0)
    twice = Examples(once.models, [*once.prompts, *once.prompts], np.tile(once.quality, (2, 1)))
    single, double = study(once, HASHED, folds=5, seed=0), study(twice, HASHED, folds=5, seed=0)
    assert not double.use
    width = single.gain_ci_high - single.gain_ci_low
    assert double.gain_ci_high - double.gain_ci_low > 0.7 * width


def test_trained_on_one_file_and_tried_on_another() -> None:
    found = study_on(examples(200, 7, matters=1.0), examples(600, 8, matters=1.0), HASHED, seed=0)
    assert (found.n, found.use) == (200, True)
    with pytest.raises(InvalidInput, match="the models of the file: cheap, dear"):
        study_on(examples(50, 7, 1.0), replace(examples(50, 8, 1.0), models=("cheap", "else")), HASHED, seed=0)


def test_a_dear_model_that_is_no_better_has_no_gap() -> None:
    given_ones = examples(100, 0, matters=0.0)
    found = study(replace(given_ones, cost=np.tile([2.0, 1.0], (100, 1))), HASHED, folds=5, seed=0)
    assert (found.apgr, found.apgr_ci_low) == (None, None)
    assert len(found.mixing.cost) == 1


@pytest.mark.parametrize("folds", [1, 31])
def test_folds_that_cannot_be_dealt_are_refused(folds: int) -> None:
    with pytest.raises(InvalidInput, match="2 to 30"):
        study(examples(30, 0, matters=1.0), HASHED, folds=folds, seed=0)


values = st.floats(0, 1, width=32)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, 20, elements=values), arrays(np.float64, 20, elements=values))
def test_a_curve_never_falls_and_keeps_its_area(cost: np.ndarray, quality: np.ndarray) -> None:
    curve = drawn(cost, quality, np.zeros(20))
    assert (np.diff(curve.cost) > 0).all()
    assert (np.diff(curve.quality) >= -1e-12).all()
    ascending = np.maximum.accumulate(cost)
    if len(curve.cost) > 1:
        last = np.flatnonzero(np.append(np.diff(ascending) > 0, True))
        raw = np.trapezoid(quality[last], ascending[last])
        assert np.trapezoid(curve.quality, curve.cost) == pytest.approx(raw, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.data())
def test_mixing_is_concave_and_below_no_model(count: int, data: st.DataObject) -> None:
    cost, quality = (data.draw(arrays(np.float64, count, elements=values)) for _ in range(2))
    hull = mixing(cost, quality)
    assert (hull.at(cost) >= quality - 1e-9)[cost >= hull.cost[0]].all()
    slopes = np.diff(hull.quality) / np.diff(hull.cost)
    assert (np.diff(slopes) <= 1e-6 * np.abs(slopes[:-1]) + 1e-9).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.floats(0, 1), st.data())
def test_a_calibrated_price_meets_the_budget_on_average(n: int, m: int, part: float, data: st.DataObject) -> None:
    quality, cost = (data.draw(arrays(np.float64, (n, m), elements=values)) for _ in range(2))
    least, most = (spent(quality, cost, price) for price in (np.inf, 0.0))
    budget = least + part * (max(most, least) - least)
    price = calibrate(quality, cost, budget)
    assert price.low <= price.high
    mean = price.share * spent(quality, cost, price.high) + (1 - price.share) * spent(quality, cost, price.low)
    assert mean == pytest.approx(budget, abs=1e-9)


def spent(quality: np.ndarray, cost: np.ndarray, price: float) -> float:
    """The mean cost of what is chosen."""
    return float(np.take_along_axis(cost, choices(quality, cost, price)[:, None], axis=1).mean())


@pytest.mark.parametrize("budget", [0.5, float("nan"), float("inf"), -1.0])
def test_a_budget_below_the_cheapest_is_refused_with_what_it_takes(budget: float) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        calibrate(np.array([[0.1, 0.9]]), np.array([[1.0, 2.0]]), budget)


def test_more_budget_never_lowers_what_is_expected() -> None:
    rng = np.random.default_rng(0)
    quality, cost = rng.random((300, 4)), rng.random((300, 4)) * [0.1, 1, 3, 10]

    def expected(budget: float) -> float:
        price = calibrate(quality, cost, budget)
        of = [
            np.take_along_axis(quality, choices(quality, cost, each)[:, None], 1).mean()
            for each in (price.low, price.high)
        ]
        return float((1 - price.share) * of[0] + price.share * of[1])

    reached: Sequence[float] = [expected(budget) for budget in np.linspace(cost.min(axis=1).mean(), 5, 40)]
    assert (np.diff(reached) >= -1e-12).all()


def test_the_gap_recovered_is_a_half_for_mixing_and_three_quarters_for_a_square_root_like_curve() -> None:
    line = drawn(np.array([0.0, 1.0]), np.array([0.2, 0.8]), np.array([0.0, 1.0]))
    assert gap_recovered(line, (0.0, 0.2), (1.0, 0.8)) == pytest.approx(0.5)
    bent = drawn(np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.8, 0.8]), np.array([0.0, 0.5, 1.0]))
    assert gap_recovered(bent, (0.0, 0.2), (1.0, 0.8)) == pytest.approx(0.75)

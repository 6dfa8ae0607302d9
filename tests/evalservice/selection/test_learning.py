"""Beliefs follow the outcomes: bit for bit however they are cut, through storage, and through bad values."""

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.errors import InvalidInput
from evalservice.selection.changes import ALARM
from evalservice.selection.learning import (
    HALF_LIFE,
    Beliefs,
    Outcomes,
    fold,
    grown,
    posterior,
    unknown,
    with_prior,
)

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1) | st.sampled_from([0.0, 1.0])
OUTCOMES = st.lists(st.tuples(st.integers(-1, 3), ANY, ANY, ANY, ANY), max_size=60)


def outcomes_of(rows: list[tuple[int, float, float, float, float]]) -> Outcomes:
    model, success, quality, latency, cost = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    return Outcomes.of(list(model), success=success, quality=quality, latency_ms=latency, cost_usd=cost)


def same(a: Beliefs, b: Beliefs) -> bool:
    return all(np.array_equal(getattr(a, each.name), getattr(b, each.name)) for each in fields(Beliefs))


def told(qualities: np.ndarray, beliefs: Beliefs | None = None, model: int = 0) -> Beliefs:
    beliefs = unknown(1) if beliefs is None else beliefs
    return fold(beliefs, Outcomes.of(np.full(len(qualities), model), quality=qualities))


def coins(p: float, n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def test_of_a_few_zeros_and_ones_the_posterior_is_the_betas() -> None:
    found = posterior(told(np.array([1.0, 1.0, 1.0, 0.0, 1.0]), unknown(1, half_life=1e12)))
    a, b = 5.0, 2.0
    assert found.quality_mean[0] == pytest.approx(a / (a + b))
    assert found.quality_sd[0] == pytest.approx((a * b / ((a + b) ** 2 * (a + b + 1))) ** 0.5)
    assert found.quality_n[0] == pytest.approx(5)


def test_graded_qualities_are_known_sooner_than_coins_of_the_same_mean() -> None:
    graded = np.clip(np.random.default_rng(0).normal(0.8, 0.05, 200), 0, 1)
    assert posterior(told(graded)).quality_sd[0] < 0.3 * posterior(told(coins(0.8, 200))).quality_sd[0]


def test_stored_evaluations_count_as_so_many_outcomes() -> None:
    believed = posterior(with_prior(unknown(2), np.array([0.9, np.nan]), np.array([98.0, 10.0])))
    assert believed.quality_mean[0] == pytest.approx((0.9 * 98 + 1) / 100)
    assert np.isnan(believed.quality_mean[1])
    assert believed.quality_n[1] == 0


def test_what_is_unknown_is_nan_and_each_part_may_come_alone() -> None:
    beliefs = fold(unknown(3), Outcomes.of([0, 0, 1], success=[1, 0, np.nan], latency_ms=[100, 300, np.nan]))
    found = posterior(fold(beliefs, Outcomes.of([1], cost_usd=[0.25])))
    assert found.latency_ms[:1] == pytest.approx([200], rel=1e-3)
    assert found.cost_usd[1] == 0.25
    assert found.error_rate[0] == pytest.approx(0.26, abs=1e-3)
    assert np.isnan([*found.quality_mean, *found.error_rate[1:], *found.latency_ms[1:], found.cost_usd[0]]).all()


def test_after_its_half_life_an_outcome_counts_half() -> None:
    before = told(np.ones(1))
    after = told(np.full(int(HALF_LIFE), 0.5), before)
    assert after.prior_weight[0] == pytest.approx(0.5 ** (1 + 1 / HALF_LIFE))
    assert after.quality_n[0] == pytest.approx(0.5 + (1 - 0.5) / (1 - 0.5 ** (1 / HALF_LIFE)))


@given(OUTCOMES, st.data())
def test_batches_may_be_cut_anywhere_and_storage_keeps_every_bit(rows: list, data: st.DataObject) -> None:
    start = with_prior(unknown(3), np.array([0.5, 0.9, np.nan]), np.array([40.0, 500.0, 3.0]))
    at_once = fold(start, outcomes_of(rows))
    singly = start
    for row in rows:
        singly = Beliefs.restored(json.loads(json.dumps(fold(singly, outcomes_of([row])).stored(), allow_nan=False)))
    cut = data.draw(st.integers(0, len(rows)))
    in_two = fold(fold(start, outcomes_of(rows[:cut])), outcomes_of(rows[cut:]))
    assert same(at_once, singly)
    assert same(at_once, in_two)


@given(OUTCOMES)
def test_values_that_cannot_be_do_no_harm_and_are_counted(rows: list) -> None:
    beliefs = fold(unknown(3), outcomes_of(rows))
    found = posterior(beliefs)
    assert beliefs.strays == sum(not 0 <= row[0] < 3 for row in rows)
    own = [value for row in rows if 0 <= row[0] < 3 for value in zip(("s", "q", "l", "c"), row[1:], strict=True)]
    limits = {"s": 1.0, "q": 1.0, "l": np.finfo(float).max, "c": np.finfo(float).max}
    bad = sum(v == v and (not 0 <= v <= limits[kind] or (kind == "s" and v not in (0, 1))) for kind, v in own)
    assert beliefs.ignored.sum() == bad
    known = found.quality_n > 0
    assert ((found.quality_mean[known] >= 0) & (found.quality_mean[known] <= 1)).all()
    assert ((found.quality_sd[known] > 0) & (found.quality_sd[known] < 0.5)).all()
    assert np.isnan(found.quality_mean[~known]).all()


def test_a_model_is_added_without_touching_the_others() -> None:
    before = told(coins(0.8, 50))
    after = grown(before, 3)
    assert posterior(after).quality_mean[0] == posterior(before).quality_mean[0]
    assert posterior(after).quality_n[1:].tolist() == [0, 0]
    assert same(told(np.ones(3), after, model=2), told(np.ones(3), grown(after, 3), model=2))
    with pytest.raises(InvalidInput, match="never taken away"):
        grown(after, 2)


def test_ten_models_of_any_kind_have_no_false_change_in_a_hundred_thousand_outcomes_each() -> None:
    rng = np.random.default_rng(7)
    kinds = [coins(p, 100_000, k) for k, p in enumerate((0.02, 0.3, 0.5, 0.7, 0.9, 0.97))]
    kinds += [rng.beta(8, 2, 100_000), rng.beta(0.5, 0.5, 100_000), rng.choice([0.0, 0.5, 1.0], 100_000)]
    kinds += [np.ones(100_000)]
    found = sum(int(told(kind).changed[0]) for kind in kinds)
    # what is promised is 2 * ALARM * 100,000 for each: together a fifth
    assert 2 * ALARM * 100_000 * len(kinds) == pytest.approx(0.2)
    assert found == 0


@pytest.mark.parametrize(("before", "after", "within"), [(0.9, 0.6, 200), (0.6, 0.9, 250), (0.7, 0.4, 300)])
def test_a_change_by_thirty_points_is_found_and_the_past_forgotten(before: float, after: float, within: int) -> None:
    found = []
    for seed in range(20):
        old = told(coins(before, 1_500, seed), with_prior(unknown(1), np.array([before]), np.array([300.0])))
        new = told(coins(after, within, 100 + seed), old)
        found.append((int(new.changed[0]), float(posterior(new).quality_mean[0])))
    assert [changes for changes, _ in found] == [1] * 20
    assert np.mean([mean for _, mean in found]) == pytest.approx(after, abs=0.05)


def test_a_prior_that_traffic_contradicts_is_given_up() -> None:
    beliefs = told(coins(0.9, 300), with_prior(unknown(1), np.array([0.5]), np.array([1_000.0])))
    assert posterior(beliefs).quality_mean[0] > 0.85


def test_outcomes_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"outcomes\.quality"):
        Outcomes.of([0, 1], quality=[0.5])


def test_a_half_life_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="half_life"):
        unknown(2, half_life=0)

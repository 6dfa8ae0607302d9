"""What the paired and sequential methods promise: how often they err, what they do at the edges, equal answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalservice.statistics.binary import Pairs, difference_interval, mcnemar, tango
from evalservice.statistics.clusters import cluster_sums
from evalservice.statistics.corpus import approximate_randomisation, bootstrap_corpus_difference
from evalservice.statistics.multiple import cochrans_q, friedman, holm
from evalservice.statistics.paired import (
    bootstrap_differences,
    differences,
    mean_difference_interval,
    paired_t,
    random_bits,
    sign_flips,
    sign_flips_of_many,
    signed_ranks,
)
from evalservice.statistics.power import items_for_pairs, noticeable_difference, noticeable_effect, power_of_t
from evalservice.statistics.ratings import bootstrap_ratings, bradley_terry
from evalservice.statistics.samples import pass_at_k, pass_hat_k, variance_split
from evalservice.statistics.sequential import ConfidenceSequence, log_e_value, planned_prior

COUNTS = st.integers(0, 60)
TABLES = st.builds(Pairs, COUNTS, COUNTS, COUNTS, COUNTS)


def correlated(rng: np.random.Generator, n: int, p: float, q: float, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong for two systems with these accuracies, correlated as models on one benchmark are; (runs, n)."""
    latent = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], size=(runs, n))
    return latent[..., 0] < stats.norm.ppf(p), latent[..., 1] < stats.norm.ppf(q)


@pytest.mark.parametrize(("n", "p", "q"), [(100, 0.7, 0.7), (200, 0.5, 0.6), (500, 0.85, 0.9)])
def test_a_95_percent_interval_of_a_difference_covers_it_that_often(n: int, p: float, q: float) -> None:
    a, b = correlated(np.random.default_rng(1), n, p, q, 2000)
    tables = np.stack([(a & ~b).sum(axis=1), (b & ~a).sum(axis=1)], axis=1)
    distinct, counts = np.unique(tables, axis=0, return_counts=True)
    covered = 0
    for (first, second), count in zip(distinct.tolist(), counts.tolist(), strict=True):
        interval = tango(Pairs(n - first - second, first, second, 0))
        covered += count * (interval.low <= p - q <= interval.high)
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize("test", [lambda p: mcnemar(p).p_value, lambda p: mcnemar(p).mid_p])
def test_equal_systems_are_told_apart_at_most_as_often_as_alpha_allows(test) -> None:  # type: ignore[no-untyped-def]
    a, b = correlated(np.random.default_rng(2), 200, 0.7, 0.7, 4000)
    first, second = (a & ~b).sum(axis=1), (b & ~a).sum(axis=1)
    rejected = sum(test(Pairs(0, int(x), int(y), 0)) <= 0.05 for x, y in zip(first, second, strict=True))
    assert rejected / 4000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_a_look_after_every_item_declares_a_winner_among_equals_at_most_as_often_as_alpha() -> None:
    rng = np.random.default_rng(3)
    won = rng.random((2000, 800)) < 0.5
    first, second = won.cumsum(axis=1), (~won).cumsum(axis=1)
    declared = (log_e_value(first, second, planned_prior(0.05, 0.25)) >= math.log(20)).any(axis=1).mean()
    assert declared <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_stopping_early_takes_little_more_than_half_of_the_fixed_designs_items() -> None:
    rng = np.random.default_rng(4)
    fixed = math.ceil(items_for_pairs(0.05, 0.25, power=0.9))
    most = math.ceil(1.4 * fixed)
    outcome = rng.choice([1, -1, 0], p=[0.15, 0.10, 0.75], size=(500, most))
    first, second = (outcome == 1).cumsum(axis=1), (outcome == -1).cumsum(axis=1)
    decided = log_e_value(first, second, planned_prior(0.05, 0.25)) >= math.log(20)
    when = np.where(decided.any(axis=1), decided.argmax(axis=1) + 1, most + 1)
    assert np.median(when) <= 0.65 * fixed
    assert (when <= most).mean() >= 0.85


def test_a_confidence_sequence_holds_at_all_times_at_once() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(200):
        sequence = ConfidenceSequence()
        for value in rng.choice([1, -1, 0], p=[0.15, 0.10, 0.75], size=400):
            sequence.add(float(value))
        interval = sequence.interval()  # the intersection over all times
        missed += not interval.low <= 0.05 <= interval.high
    assert missed / 200 <= 0.05
    assert interval.high - interval.low < 0.4


@given(b=st.integers(0, 40), c=st.integers(0, 40))
def test_the_e_value_is_a_fair_bet(b: int, c: int) -> None:
    prior = planned_prior(0.05, 0.25)
    now, one, other = (np.exp(log_e_value(*at, prior)) for at in ((b, c), (b + 1, c), (b, c + 1)))
    assert (one + other) / 2 == pytest.approx(now)
    assert log_e_value(b, c, prior) == pytest.approx(log_e_value(c, b, prior))


@given(pairs=TABLES)
def test_an_interval_holds_the_difference_and_turns_with_the_systems(pairs: Pairs) -> None:
    interval, swapped = difference_interval(pairs), difference_interval(pairs.swapped())
    if pairs.n == 0:
        assert (interval.value, interval.low) == (None, None)
        return
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert (swapped.low, swapped.high) == pytest.approx((-interval.high, -interval.low), abs=1e-9)


@given(values=st.lists(st.integers(-3, 3), max_size=10))
def test_the_exact_tests_agree_with_looking_at_every_sign(values: list[int]) -> None:
    magnitudes, total = np.abs(values), 2 ** len(values)
    signs = (np.arange(total)[:, None] >> np.arange(len(values))) & 1
    sums = np.abs((2 * signs - 1) @ magnitudes) if values else np.zeros(1)
    assert sign_flips(values).p_value == pytest.approx((sums >= abs(sum(values))).mean())
    ranks = np.where(magnitudes > 0, stats.rankdata(magnitudes), 0) if values else np.zeros(0)
    plus = signs @ ranks
    seen = ranks[np.array(values) > 0].sum() if values else 0
    away = np.abs(plus - ranks.sum() / 2) >= abs(seen - ranks.sum() / 2) - 1e-9
    assert signed_ranks(values).p_value == pytest.approx(away.mean())


def test_many_columns_get_what_each_gets_alone_and_scipy_gives_on_the_same_signs() -> None:
    rng = np.random.default_rng(6)
    columns = rng.normal(0.1, 1, size=(300, 3))
    many = sign_flips_of_many(columns, draws=500, seed=7)
    assert [found.p_value for found in many] == [sign_flips(c, draws=500, seed=7).p_value for c in columns.T]
    signs = 2 * random_bits(np.random.default_rng(7), 500, 300) - 1
    hits = (np.abs(signs @ columns) >= np.abs(columns.sum(axis=0))).sum(axis=0)
    assert [found.p_value for found in many] == pytest.approx(((hits + 1) / 501).tolist())
    assert not many[0].exact


def test_bootstrap_intervals_of_binary_and_continuous_differences_are_those_of_scipy() -> None:
    rng = np.random.default_rng(8)
    columns = np.stack([rng.choice([1, -1, 0], p=[0.15, 0.1, 0.75], size=2000), rng.normal(0.2, 1, 2000)], axis=1)
    for bounds, column in zip(bootstrap_differences(columns), columns.T, strict=True):
        theirs = stats.bootstrap((column,), np.mean, n_resamples=4000, method="percentile", batch=100, rng=rng)
        width = bounds[1] - bounds[0]
        assert bounds == pytest.approx(tuple(theirs.confidence_interval), abs=0.06 * width)


def test_few_items_get_bca_and_constant_ones_no_width() -> None:
    assert mean_difference_interval([1, 3, 4, 8, 9]).method == "bca"
    assert mean_difference_interval([2, 2, 2]).degenerate
    assert mean_difference_interval([2]).low is None
    assert mean_difference_interval(np.linspace(0, 1, 100)).method == "t"


def test_clusters_flip_their_signs_together() -> None:
    values, clusters = np.array([1.0, 1, 1, 1, 1, -1]), ["a", "a", "a", "b", "b", "b"]
    assert cluster_sums(values, clusters).tolist() == [3, 1]
    assert sign_flips(cluster_sums(values, clusters)).p_value == 0.5


BLEU_LIKE = np.array([[3.0, 4], [1, 5], [4, 4], [2, 6]])


def ratio(sums: Sequence[float]) -> float | None:
    return sums[0] / sums[1] if sums[1] else None


def test_corpus_metrics_are_compared_by_exchanging_and_by_resampling_items() -> None:
    worse = BLEU_LIKE - [[1, 0]]
    exact = approximate_randomisation(BLEU_LIKE, worse, ratio)
    assert exact is not None
    assert (exact.p_value, exact.draws, exact.exact) == (2 / 16, 16, True)
    assert approximate_randomisation(BLEU_LIKE, BLEU_LIKE, ratio).p_value == 1  # type: ignore[union-attr]
    many, fewer = np.tile(BLEU_LIKE, (10, 1)), np.tile(worse, (10, 1))
    sampled = approximate_randomisation(many, fewer, ratio, draws=999, seed=1)
    assert sampled is not None
    assert (sampled.p_value, sampled.exact) == (1 / 1000, False)
    wide, narrow = bootstrap_corpus_difference(many, fewer, ratio, levels=(0.95, 0.5), seed=1)
    assert 0 < wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert bootstrap_corpus_difference(many, many, ratio)[0].degenerate


def test_nothing_and_too_little_have_defined_answers() -> None:
    assert (mcnemar(Pairs(0, 0, 0, 0)).p_value, sign_flips([]).p_value, signed_ranks([0, 0]).p_value) == (1, 1, 1)
    assert paired_t([1, 2], [0, 1]).p_value is None  # constant differences
    assert paired_t([1], [0]).interval.stderr is None
    assert (cochrans_q([[1, 1], [0, 0]]), friedman([[1, 1, 1]]), holm([])) == ((None, 1.0), (None, 1.0), [])
    assert (noticeable_difference(0, 0.2), noticeable_difference(5, 0.01), noticeable_effect(1)) == (None, None, None)
    assert ConfidenceSequence().interval().low is None
    assert variance_split([[1], [0]]).within is None
    assert variance_split([[1, 0]]).stderr is None


def test_what_makes_no_sense_is_refused_by_name() -> None:
    for refused, words in [
        (lambda: Pairs.of([1, 0.5], [1, 0]), "neither 0 nor 1"),
        (lambda: Pairs.of([1, 0], [1]), "no pairs"),
        (lambda: Pairs(1, -1, 0, 0), "negative"),
        (lambda: differences([1, math.nan], [1, 1]), "not finite"),
        (lambda: tango(Pairs(1, 1, 1, 1), 95), "level"),
        (lambda: holm([1.2]), "between 0 and 1"),
        (lambda: cochrans_q([[1], [0]]), "two systems"),
        (lambda: pass_at_k(3, 4, 1), "4 of 3"),
        (lambda: pass_hat_k(3, 1, 4), "k is 4"),
        (lambda: items_for_pairs(0.3, 0.2), "discordance"),
        (lambda: items_for_pairs(0.1, 0.2, power=1.0), "power"),
        (lambda: power_of_t(0.2, 1), "no t test"),
        (lambda: bradley_terry([[1, 2], [3, 0]]), "beats itself"),
        (lambda: approximate_randomisation(BLEU_LIKE, BLEU_LIKE[:2], ratio), "no pairs"),
        (lambda: ConfidenceSequence().add(2.0), "not between"),
    ]:
        with pytest.raises(ValueError, match=words):
            refused()


def test_what_a_design_notices_is_what_it_was_planned_for() -> None:
    n = items_for_pairs(0.05, 0.25)
    assert noticeable_difference(math.ceil(n), 0.25) == pytest.approx(0.05, abs=1e-4)
    assert power_of_t(noticeable_effect(50) or 0, 50) == pytest.approx(0.8, abs=1e-6)


def test_bootstrapped_ratings_hold_the_ratings() -> None:
    wins = [[0, 30, 35], [20, 0, 28], [15, 22, 0]]
    abilities = bradley_terry(wins).abilities
    for (low, high), ability in zip(bootstrap_ratings(wins, resamples=200), abilities, strict=True):
        assert low < ability < high

"""Intervals equal their authorities', and what is undefined is None and never 0."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from evalservice.statistics.intervals import (
    Moments,
    bootstrap_corpus_interval,
    clopper_pearson,
    clustered_mean_interval,
    mean_interval,
    proportion_interval,
)

FINITE = st.lists(st.floats(-1e6, 1e6), max_size=30)


def mean_of(total: Sequence[float]) -> float | None:
    return total[0] / total[1] if total[1] else None


def test_the_t_interval_is_rs() -> None:
    got = mean_interval([0.82, 0.75, 0.91, 0.66, 0.7, 0.88, 0.79, 0.95, 0.61, 0.73])
    assert (got.value, got.stderr, got.low, got.high, got.df) == pytest.approx(
        (0.78, 0.0350555115336931, 0.700698923488501, 0.859301076511499, 9), abs=1e-12
    )


def test_wilson_has_width_where_nothing_or_everything_succeeds() -> None:
    assert (proportion_interval(0, 10).low, proportion_interval(0, 10).high) == pytest.approx((0, 0.27753279986288926))
    assert proportion_interval(10, 10).high == 1.0
    assert clopper_pearson(0, 10).high == pytest.approx(0.30849710781876083)


def test_the_standard_error_of_a_share_is_that_of_the_mean_of_its_zeros_and_ones() -> None:
    assert proportion_interval(14, 20).stderr == pytest.approx(mean_interval([1] * 14 + [0] * 6).stderr)


def test_the_clustered_interval_is_statsmodels_less_its_small_sample_factor() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(12, size=100)
    x = rng.normal(size=100) + clusters / 4
    fit = sm.OLS(x, np.ones(100)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    got = clustered_mean_interval(x, clusters)
    # with an intercept alone statsmodels' factor is G/(G-1) * (n-1)/(n-1): the same
    assert (got.value, got.stderr, got.clusters) == pytest.approx((fit.params[0], fit.bse[0], 12))
    assert (got.low, got.high) == pytest.approx(tuple(fit.conf_int()[0]))


@pytest.mark.parametrize(
    "interval",
    [
        mean_interval([0.7]),
        proportion_interval(1, 1),
        clustered_mean_interval([1, 0, 1], [1, 1, 1]),
        bootstrap_corpus_interval([[1, 2]], mean_of, seed=0),
        Moments.of([0.7]).interval(),
    ],
)
def test_one_item_or_cluster_has_a_value_but_no_standard_error(interval: object) -> None:
    assert interval.value is not None
    assert interval.stderr is None


@pytest.mark.parametrize("values", [[], [math.nan, 1.0, 2.0], [math.inf, 1.0], [1.0, -math.inf, math.inf]])
def test_nothing_and_values_that_are_not_finite_have_no_mean(values: list[float]) -> None:
    for got in (
        mean_interval(values),
        clustered_mean_interval(values, list(range(len(values)))),
        bootstrap_corpus_interval([[value, 1] for value in values], mean_of, seed=0),
        Moments.of(values).interval() if math.inf not in values else mean_interval(values),
    ):
        assert (got.value, got.stderr, got.low, got.high) == (None, None, None, None)


def test_constant_values_have_an_interval_without_width_that_says_so() -> None:
    for got in (mean_interval([0.1] * 7), Moments.of([0.1] * 7).interval()):
        assert (got.stderr, got.degenerate) == (0.0, True)
        assert got.low == pytest.approx(0.1)


def test_a_large_offset_costs_the_two_pass_variance_no_digits() -> None:
    assert mean_interval([1e12 + 1, 1e12 + 2, 1e12 + 3]).stderr == pytest.approx(1 / math.sqrt(3))


@given(FINITE, FINITE)
def test_merged_moments_are_those_of_one_pass(first: list[float], second: list[float]) -> None:
    merged, whole = Moments.of(first) + Moments.of(second), Moments.of(first + second)
    assert merged.n == whole.n
    assert merged.sum == pytest.approx(whole.sum, abs=1e-6)
    assert merged.sum_squares == pytest.approx(whole.sum_squares)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_moments_give_the_interval_of_their_values(values: list[float]) -> None:
    got, want = Moments.of(values).interval(), mean_interval(values)
    assert got.value == pytest.approx(want.value)
    assert got.stderr == pytest.approx(want.stderr, abs=1e-5)


def test_the_bootstrap_approaches_the_full_enumeration_and_repeats_itself() -> None:
    rows = [[x, 1] for x in (1, 3, 4, 8, 9)]
    got = bootstrap_corpus_interval(rows, mean_of, seed=1, resamples=20_000)
    assert (got.value, got.low, got.high) == pytest.approx((5.0, 2.4, 7.6), abs=0.11)
    assert got.stderr == pytest.approx(1.3564659966250536, rel=0.02)
    assert got == bootstrap_corpus_interval(rows, mean_of, seed=1, resamples=20_000)
    assert got != bootstrap_corpus_interval(rows, mean_of, seed=2, resamples=20_000)


def test_the_bootstrap_of_clusters_is_wider_where_items_depend_on_each_other() -> None:
    rows = [[x, 1] for x in range(10) for _ in range(20)]
    clusters = np.repeat(np.arange(10), 20)
    alone = bootstrap_corpus_interval(rows, mean_of, seed=0)
    together = bootstrap_corpus_interval(rows, mean_of, seed=0, clusters=clusters)
    assert together.stderr > 3 * alone.stderr
    assert (together.value, together.clusters, together.n) == (alone.value, 10, 200)


def test_the_bootstrap_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[float(x), 1] for x in range(50)]
    whole = bootstrap_corpus_interval(rows, mean_of, seed=3, resamples=100)
    monkeypatch.setattr("evalservice.statistics.intervals._CHUNK_CELLS", 150)
    assert bootstrap_corpus_interval(rows, mean_of, seed=3, resamples=100) == whole


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        mean_interval([1, 2], level)

"""Sketches: within 1 % of the exact percentile, and the whole is the sum of its parts."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.statistics.sketches import LARGEST, RELATIVE_ERROR, SMALLEST, Sketch, Summary, code_of, value_of

MEASURABLE = st.floats(SMALLEST, LARGEST) | st.floats(-LARGEST, -SMALLEST) | st.just(0.0)
ANY = st.floats(allow_nan=True, allow_infinity=True)
QUANTILES = st.floats(0, 1)


def exact(values: list[float], q: float) -> float:
    """The percentile by the inverse of the empirical distribution."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


@given(st.lists(MEASURABLE, min_size=1), QUANTILES)
def test_a_quantile_is_within_one_percent_of_the_datas(values: list[float], q: float) -> None:
    expected = exact(values, q)
    assert Sketch.of(values).quantile(q) == pytest.approx(expected, rel=RELATIVE_ERROR * (1 + 1e-9), abs=0)
    assert Summary.of(values).quantile(q) == pytest.approx(expected, rel=RELATIVE_ERROR * (1 + 1e-9), abs=0)


@given(st.lists(MEASURABLE, min_size=2, max_size=2).map(sorted))
def test_codes_are_in_the_order_of_the_values(pair: list[float]) -> None:
    assert code_of(pair[0]) <= code_of(pair[1])


@given(MEASURABLE)
def test_a_bucket_stands_for_what_is_in_it(value: float) -> None:
    assert math.isclose(value_of(code_of(value)), value, rel_tol=RELATIVE_ERROR * (1 + 1e-9))


@given(st.lists(st.lists(ANY)))
def test_the_parts_add_to_the_whole(parts: list[list[float]]) -> None:
    merged = sum((Summary.of(part) for part in parts), Summary())
    whole = Summary.of([value for part in parts for value in part])
    assert (merged.n, merged.unusable, merged.min, merged.max) == (whole.n, whole.unusable, whole.min, whole.max)
    assert merged.sketch == whole.sketch
    scale = math.fsum(abs(value) for part in parts for value in part if abs(value) <= LARGEST)
    assert merged.sum == pytest.approx(whole.sum, abs=1e-12 * scale)
    assert merged.sum_squares == pytest.approx(whole.sum_squares, rel=1e-12)


@given(st.lists(ANY))
def test_a_summary_survives_json(values: list[float]) -> None:
    summary = Summary.of(values)
    assert Summary.from_json(json.loads(json.dumps(summary.to_json(), allow_nan=False))) == summary


def test_the_extremes_are_exact_and_nothing_has_no_percentile() -> None:
    summary = Summary.of([0.1, 0.25, 3.7])
    assert (summary.quantile(0), summary.quantile(1)) == (0.1, 3.7)
    assert Summary().quantile(0.5) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        Sketch.of([1.0]).quantile(1.5)


def test_what_is_no_measurement_is_counted_apart() -> None:
    summary = Summary.of([1.0, math.nan, math.inf, -math.inf, 1e200, 1e-300])
    assert (summary.n, summary.unusable, summary.sum, summary.min) == (2, 4, 1.0, 0.0)
    assert (summary.mean, summary.stddev) == (0.5, pytest.approx(math.sqrt(0.5)))


def test_a_code_may_come_more_than_once_and_without_its_count() -> None:
    assert Sketch.from_json("20012:2 -20001 20012") == Sketch(((-20001, 1), (20012, 3)))

"""Scattered measurements become estimates of every model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.selection.shrinkage import shrink

GROUPS = np.array([0, 0, 0, 1, 1, 1])


def simulated(seed: int, models: int = 40, n: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """True and measured values [6, models] of the model that `shrink` assumes."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(0, 0.1, models)
    in_group = rng.normal(0, 0.05, (2, models))
    true = 0.6 + rng.normal(0, 0.1, (6, 1)) + ability + in_group[GROUPS] + rng.normal(0, 0.03, (6, models))
    return true, true + rng.normal(0, np.sqrt(0.24 / n), true.shape)


def estimates(measured: np.ndarray, n: np.ndarray | float = 100.0) -> np.ndarray:
    cases = np.broadcast_to(np.asarray(n, float), measured.shape)
    return shrink(measured, 0.24 / cases, cases, GROUPS, 2).benchmark


def test_shrunk_estimates_are_nearer_to_the_truth_than_what_was_measured() -> None:
    true, measured = simulated(1, n=50)
    raw, shrunk = ((each - true) ** 2 for each in (measured, estimates(measured, 50.0)))
    assert shrunk.mean() < 0.6 * raw.mean()


def test_what_was_not_measured_is_foretold_from_the_rest() -> None:
    true, measured = simulated(2, n=400)
    hidden = np.random.default_rng(3).random(true.shape) < 0.4
    found = estimates(np.where(hidden, np.nan, measured), 400.0)
    constant = np.broadcast_to(true.mean(axis=1, keepdims=True), true.shape)
    assert ((found - true)[hidden] ** 2).mean() < 0.5 * ((constant - true)[hidden] ** 2).mean()


def test_stated_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = []
    for seed in range(30):
        true, measured = simulated(seed, n=100)
        cases = np.full(true.shape, 100.0)
        found = shrink(measured, 0.24 / cases, cases, GROUPS, 2)
        inside.append((np.abs(found.benchmark - true) < 1.96 * found.benchmark_sd).mean())
    assert 0.90 < np.mean(inside) < 0.99


def test_a_model_measured_only_on_a_hard_benchmark_is_not_the_worse_for_it() -> None:
    measured = np.array([[0.9, 0.9, np.nan], [0.3, 0.3, 0.3]])
    cases = np.full((2, 3), 1000.0)
    found = shrink(measured, 0.2 / cases, cases, np.array([0, 1]), 2)
    assert found.overall[2] == pytest.approx(found.overall[0], abs=0.01)


def test_a_model_without_evidence_has_no_estimate() -> None:
    measured = np.array([[0.9, np.nan], [0.3, np.nan]])
    found = shrink(measured, np.full((2, 2), 0.001), np.full((2, 2), 100.0), np.array([0, 1]), 2)
    assert np.isnan(found.overall[1])
    assert np.isnan(found.benchmark[:, 1]).all()
    assert found.overall_n[1] == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_was_measured_gives_finite_estimates_or_none(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(0, 5)), data.draw(st.integers(0, 4)))
    numbers = st.one_of(st.floats(0, 1), st.sampled_from([np.nan, np.inf, -np.inf]))
    grid = lambda each: np.array([[data.draw(each) for _ in range(shape[1])] for _ in range(shape[0])]).reshape(shape)  # noqa: E731
    value, variance = grid(numbers), grid(numbers)
    cases = grid(st.one_of(st.floats(0, 1e6), st.just(np.nan)))
    found = shrink(value, variance, cases, np.arange(shape[0]) % 2, 2)
    seen = (np.isfinite(value) & np.isfinite(variance) & np.isfinite(cases) & (cases > 0)).any(axis=0)
    assert np.isfinite(found.overall[seen]).all()
    assert np.isfinite(found.benchmark[:, seen]).all()
    assert np.isnan(found.overall[~seen]).all()

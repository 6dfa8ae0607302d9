"""What regression alerts promise: how often they err however often one looks, and what they find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.comparisons.designs import Items, System
from evalservice.comparisons.regression_rule import (
    ALPHA,
    Judgement,
    alpha_of,
    compare_with_baseline,
    is_blind,
    judge,
    value_of,
)
from evalservice.scoring import Metric
from evalservice.statistics.binary import Pairs, mcnemar
from evalservice.statistics.paired import sign_flips_of_many

BINARY, BOUNDED = Metric("exact_match", "binary"), Metric("token_f1", "continuous")
REPEATS = 30


def right(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """Answers of one run, right or wrong: each item has a chance of its own, as under a temperature."""
    return (rng.random(len(chances)) < chances).astype(float)


def looked_at(run: np.ndarray, baseline: np.ndarray, look: int, metric: Metric = BINARY) -> Judgement:
    """The judgement of one look, by the real comparison."""
    items, everything = Items(np.arange(len(run))), np.ones(len(run), dtype=np.bool_)
    new, old = System("new", run), System("old", baseline)
    pair = compare_with_baseline(new, old, metric, items, look)
    values = [value_of(system, everything, metric) for system in (new, old)]
    assert values[0] is not None
    assert values[1] is not None
    return judge(
        difference=values[0] - values[1],
        p_value=pair.p_value,
        look=look,
        earlier=[values[1]],
        higher_is_better=metric.higher_is_better,
    )


@given(st.integers(1, 5_000))
def test_however_often_one_looks_no_more_than_alpha_is_spent(looks: int) -> None:
    spent = math.fsum(alpha_of(look) for look in range(1, looks + 1))
    assert spent < ALPHA
    assert ALPHA - spent == pytest.approx(ALPHA * 6 / math.pi**2 / looks, rel=1.0 / looks)


def test_without_change_at_most_alpha_of_the_configurations_ever_raise_an_alert() -> None:
    rng, configurations = np.random.default_rng(1), 300
    alerted = {"test alone": 0, "and noise": 0}
    for _ in range(configurations):
        chances = rng.beta(2, 1, size=300)
        runs = [right(rng, chances) for _ in range(REPEATS + 1)]
        tests = [mcnemar(Pairs.of(run, runs[0])).p_value for run in runs[1:]]
        values = [float(run.mean()) for run in runs]
        for rule, known in (("test alone", 1), ("and noise", REPEATS)):
            alerted[rule] += any(
                judge(
                    difference=values[look] - values[0],
                    p_value=p_value,
                    look=look,
                    earlier=values[: min(look, known)],
                    higher_is_better=True,
                ).regressed
                for look, p_value in enumerate(tests, start=1)
            )
    most = ALPHA + 2.6 * math.sqrt(ALPHA * (1 - ALPHA) / configurations)
    assert alerted["and noise"] <= alerted["test alone"] <= most * configurations


def test_without_change_a_continuous_metric_errs_no_more_often() -> None:
    rng, configurations = np.random.default_rng(2), 150
    alerted = 0
    for _ in range(configurations):
        common = rng.random(60)
        runs = 0.7 * common[:, None] + 0.3 * rng.random((60, REPEATS + 1))
        differences = runs[:, 1:] - runs[:, :1]
        tests = sign_flips_of_many(differences, draws=10_000, seed=3)
        alerted += any(
            judge(difference=float(d.mean()), p_value=t.p_value, look=k, earlier=[0.0], higher_is_better=True).regressed
            for k, (d, t) in enumerate(zip(differences.T, tests, strict=True), start=1)
        )
    assert alerted / configurations <= ALPHA + 2.6 * math.sqrt(ALPHA * (1 - ALPHA) / configurations)


@pytest.mark.parametrize("look", [1, 10, 30])
def test_a_drop_of_ten_points_on_500_items_is_found(look: int) -> None:
    rng, trials = np.random.default_rng(4), 30
    chances = np.where(rng.random(500) < 0.8, 0.97, 0.1)
    worse = np.clip(chances - 0.1 * 500 / (chances > 0.5).sum() * (chances > 0.5), 0, 1)
    found = sum(looked_at(right(rng, worse), right(rng, chances), look).regressed for _ in range(trials))
    assert found / trials >= 0.8


def test_a_late_look_at_a_continuous_metric_draws_until_its_level_can_be_seen() -> None:
    rng = np.random.default_rng(5)
    baseline = rng.random(200)
    found = looked_at(np.clip(baseline - 0.2 * rng.random(200), 0, 1), baseline, 60, BOUNDED)
    assert found.alpha < 1e-5
    assert found.regressed
    assert found.p_value < 1e-5


@pytest.mark.parametrize(("n", "seeing"), [(500, 246), (10_000, 246), (100_000, 77)])
def test_looks_that_no_draws_can_resolve_are_known(n: int, seeing: int) -> None:
    assert not is_blind("mcnemar_exact", n, 10_000)
    assert [is_blind("sign_flips", n, look) for look in (1, seeing, seeing + 5)] == [False, False, True]


@given(st.floats(0.001, 0.5), st.floats(1e-9, 1), st.integers(1, 100), st.booleans())
def test_better_is_never_worse_and_the_direction_is_the_metrics(
    size: float, p_value: float, look: int, higher_is_better: bool
) -> None:
    worse = -size if higher_is_better else size
    facts = {"p_value": p_value, "look": look, "earlier": [0.5], "higher_is_better": higher_is_better}
    assert not judge(difference=-worse, **facts).regressed  # type: ignore[arg-type]
    assert judge(difference=worse, **facts).regressed == (p_value / 2 <= alpha_of(look))  # type: ignore[arg-type]


def test_a_drop_within_what_repeating_does_is_no_regression_however_small_its_p() -> None:
    facts = {"difference": -0.03, "p_value": 1e-9, "look": 4, "higher_is_better": True}
    steady = judge(earlier=[0.801, 0.800, 0.799, 0.800], **facts)  # type: ignore[arg-type]
    restless = judge(earlier=[0.82, 0.79, 0.81, 0.77], **facts)  # type: ignore[arg-type]
    assert (steady.regressed, restless.regressed) == (True, False)
    assert restless.retest_stderr == pytest.approx(np.std([0.82, 0.79, 0.81, 0.77], ddof=1) * math.sqrt(2))

"""Win shares are probabilities, those of Beta draws within their noise, whatever they are asked of."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evalservice.errors import InvalidInput
from evalservice.selection.thompson import win_shares

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)


def shares_of(
    mean: list[float], sd: list[float], cost: list[float] | None = None, *, price: float = 0.0, draws: int = 200_000
) -> np.ndarray:
    rng = np.random.default_rng(5)
    costs = np.array(cost or [0.0] * len(mean))
    return win_shares(np.array(mean), np.array(sd), costs, price=price, draws=draws, rng=rng)


def beta_shares(mean: np.ndarray, sd: np.ndarray, loss: np.ndarray, draws: int = 200_000) -> np.ndarray:
    n = mean * (1 - mean) / sd**2 - 1
    drawn = np.random.default_rng(6).beta(mean * n, (1 - mean) * n, size=(draws, len(mean))) - loss
    return np.bincount(drawn.argmax(axis=1), minlength=len(mean)) / draws


@pytest.mark.parametrize("seed", range(12))
def test_shares_are_those_of_beta_draws_with_the_same_moments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 12))
    # counts of at least one success and one failure, as every posterior has
    a, b = 1 + rng.gamma(1, 20, k), 1 + rng.gamma(1, 5, k)
    mean = a / (a + b)
    sd = np.sqrt(mean * (1 - mean) / (a + b + 1))
    cost = rng.uniform(0, 0.01, k)
    found = shares_of(mean.tolist(), sd.tolist(), cost.tolist(), price=10.0)
    assert np.abs(found - beta_shares(mean, sd, 10.0 * cost)).max() < 0.04


@pytest.mark.parametrize(
    ("a", "b", "apart"), [(1, 1, 0.03), (5, 1, 0.05), (50, 1, 0.06), (20, 2, 0.04), (100, 10, 0.02), (800, 200, 0.015)]
)
def test_a_drawn_quality_has_the_distribution_of_the_beta_with_the_same_moments(a: int, b: int, apart: float) -> None:
    beta = scipy.stats.beta(a, b)
    levels = beta.ppf(np.linspace(0.02, 0.98, 25))
    # the wins against a model that is known exactly are the distribution function
    above = [shares_of([beta.mean(), level], [beta.std(), 0.0], draws=50_000)[0] for level in levels]
    assert np.abs(above - beta.sf(levels)).max() < apart


def test_a_model_of_which_nothing_is_known_is_tried_and_a_sure_loser_is_not() -> None:
    shares = shares_of([0.8, float("nan"), 0.3], [0.01, float("nan"), 0.01])
    assert shares[1] == pytest.approx(0.2, abs=0.02)
    assert shares[2] == 0.0


def test_a_price_moves_the_shares_to_the_cheap() -> None:
    mean, sd, cost = [0.93, 0.90], [0.01, 0.01], [0.01, 0.0001]
    assert shares_of(mean, sd, cost, price=0.0)[0] > 0.95
    assert shares_of(mean, sd, cost, price=10.0)[0] < 0.05


def test_the_floor_gives_every_model_its_part_and_no_more_than_the_floor_in_all() -> None:
    rng = np.random.default_rng(0)
    shares = win_shares(np.array([0.9, 0.1, 0.1, 0.1]), np.full(4, 0.01), np.zeros(4), price=0.0, floor=0.05, rng=rng)
    assert shares.tolist() == pytest.approx([0.9625, 0.0125, 0.0125, 0.0125])


def test_models_in_another_order_get_the_same_shares_up_to_noise() -> None:
    mean, sd = [0.9, 0.88, 0.85, float("nan")], [0.02, 0.03, 0.05, 0.1]
    there = shares_of(mean, sd)
    assert shares_of(mean[::-1], sd[::-1])[::-1] == pytest.approx(there, abs=0.01)


def test_the_same_seed_gives_the_same_shares_and_another_one_others() -> None:
    asked = np.linspace(0.8, 0.9, 20), np.full(20, 0.05), np.zeros(20)
    one, same, other = (win_shares(*asked, price=0.0, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_nothing_eligible_gives_no_shares() -> None:
    nothing = np.empty(0)
    assert len(win_shares(nothing, nothing, nothing, price=0.0, rng=np.random.default_rng())) == 0


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_share_is_refused(floor: float) -> None:
    with pytest.raises(InvalidInput, match="share from 0 to 1"):
        win_shares(np.ones(1), np.ones(1), np.ones(1), price=0.0, floor=floor, rng=np.random.default_rng())


@pytest.mark.filterwarnings("error")
@example(given=np.full((3, 1), 1e308), price=1.0, floor=0.0, draws=1)  # their sum is no number
@given(arrays(float, st.tuples(st.just(3), st.integers(1, 8)), elements=ANY), ANY, st.floats(0, 1), st.integers(1, 300))
def test_whatever_is_asked_shares_are_a_distribution(given: np.ndarray, price: float, floor: float, draws: int) -> None:
    shares = win_shares(*given, price=price, draws=draws, floor=floor, rng=np.random.default_rng(0))
    assert (shares >= 0).all()
    assert abs(shares.sum() - 1) < 1e-12

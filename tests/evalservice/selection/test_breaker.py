"""The breaker opens on bursts only, and closes by itself."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evalservice.selection.breaker import (
    LONGEST_COOL_DOWN,
    Breaker,
    cool_down,
    fold,
    state_at,
)

TIMES = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e4)
STEPS = st.lists(st.tuples(TIMES, st.sampled_from([0.0, 1.0, float("nan"), 2.0])), max_size=80)


def folded(outcomes: list[float], start: float = 0.0, every: float = 1.0, breaker: Breaker | None = None) -> Breaker:
    breaker = breaker or Breaker()
    for k, success in enumerate(outcomes):
        breaker = fold(breaker, start + k * every, success)
    return breaker


def opened() -> Breaker:
    return folded([1.0] * 30 + [0.0] * 5)  # at 34


def test_five_failures_in_a_row_open_a_sound_model_and_four_do_not() -> None:
    sound = folded([1.0] * 100)
    assert state_at(folded([0.0] * 4, 100, breaker=sound), 104) == "closed"
    assert state_at(folded([0.0] * 5, 100, breaker=sound), 104.5) == "open"
    assert state_at(folded([0.0] * 5), 4.5) == "open"


def test_a_model_that_always_fails_a_third_of_its_requests_is_soon_known_for_it() -> None:
    failed = np.random.default_rng(1).random(20_000) < 1 / 3
    breaker, opens = Breaker(), []
    for k, fails in enumerate(failed.tolist()):
        before = breaker.opened
        breaker = fold(breaker, float(k), 0.0 if fails else 1.0)
        opens += [k] if before != breaker.opened is not None else []
    assert max(opens, default=0) < 500
    assert state_at(folded([0.0] * 20, 20_000, breaker=breaker), 20_019.5) == "open"


def test_a_stationary_two_percent_of_failures_opens_it_less_than_once_in_a_hundred_thousand_outcomes() -> None:
    opens = 0
    for seed in range(2):
        failed = np.random.default_rng(seed).random(100_000) < 0.02
        breaker = Breaker()
        for k, fails in enumerate(failed.tolist()):
            breaker = fold(breaker, k * 0.1, 0.0 if fails else 1.0)
            if breaker.opened is not None:
                opens, breaker = opens + 1, Breaker()
    assert opens < 2


def test_half_of_the_requests_failing_opens_a_sound_model_within_thirty() -> None:
    breaker = folded([1.0] * 500, every=0.1)
    assert folded([0.0, 1.0] * 15, 50, 0.1, breaker).opened is not None


def test_after_the_cool_down_three_successes_close_it() -> None:
    breaker = opened()
    assert state_at(breaker, 38.9) == "open"
    for k in range(3):
        assert state_at(breaker, 40 + k) == "half-open"
        breaker = fold(breaker, 40.5 + k, 1.0)
    assert state_at(breaker, 43) == "closed"


def test_each_failed_probe_doubles_the_cool_down_up_to_its_limit() -> None:
    breaker, now, lasted = opened(), 34.0, []
    for _ in range(10):
        lasted.append(cool_down(breaker.opens))
        now += lasted[-1]
        assert state_at(breaker, now - 0.01) == "open"
        assert state_at(breaker, now) == "half-open"
        breaker = fold(breaker, now, 0.0)
    assert lasted[:4] == [5, 10, 20, 40]
    assert lasted[-1] == LONGEST_COOL_DOWN


def test_outcomes_of_before_that_come_while_it_is_open_count_for_nothing() -> None:
    assert folded([0.0, 1.0] * 5, 35, 0.1, opened()) == opened()


def test_a_clock_that_jumps_never_holds_it_open() -> None:
    breaker = opened()
    for now in (-1e9, 0.0 - 3600, 1e12):
        assert state_at(breaker, now) == "half-open"
        assert state_at(folded([1.0] * 3, now, 0.1, breaker), now) == "closed"


@given(STEPS)
def test_whatever_comes_it_recovers_and_survives_storage(steps: list[tuple[float, float]]) -> None:
    breaker = Breaker()
    for time, success in steps:
        breaker = fold(breaker, time, success)
        assert Breaker.restored(json.loads(json.dumps(breaker.stored()))) == breaker
    now = 1e5 if breaker.opened is None else breaker.opened + LONGEST_COOL_DOWN
    for _ in range(4):
        now += 1.0
        breaker = fold(breaker, now, 1.0)
    assert state_at(breaker, now) == "closed"

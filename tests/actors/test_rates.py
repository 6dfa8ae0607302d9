"""How much may be sent, and by whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rates import AdaptiveConcurrency, Demand, TokenBucket, fair_shares

DEMANDS = st.dictionaries(
    st.integers(0, 30), st.builds(Demand, st.sampled_from("abcd"), st.integers(0, 200).map(float)), max_size=12
)


@given(st.floats(1, 100_000), st.lists(st.floats(0.001, 20.0), min_size=1, max_size=200))
def test_no_minute_that_begins_anywhere_holds_more_than_the_limit(per_minute: float, waits: list[float]) -> None:
    bucket, now, taken = TokenBucket(per_minute, 0.0), 0.0, []
    for wait in waits:
        now += wait
        whole = int(bucket.available(now))
        bucket.take(whole)
        taken.append((now, whole))
    for begin, _ in taken:
        assert sum(tokens for at, tokens in taken if begin <= at < begin + 60.0) <= per_minute + 1.0


def test_a_bucket_that_is_emptied_whenever_it_can_be_gives_nearly_all_of_its_rate() -> None:
    bucket, taken = TokenBucket(600, 0.0), 0
    for tick in range(1, 6001):
        whole = int(bucket.available(tick / 10))
        bucket.take(whole)
        taken += whole
    assert taken >= 0.97 * 6000


def test_what_was_more_than_was_taken_is_waited_for() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.take(11)
    assert bucket.available(5.0) < 0
    assert bucket.available(12.0) > 0


def test_concurrency_shrinks_once_for_an_overload_and_grows_back_to_what_was_asked_for() -> None:
    adaptive = AdaptiveConcurrency(1024, 0.0)
    assert adaptive.window == 1024
    assert adaptive.refused(1000, 10.0)
    assert not adaptive.refused(1000, 10.5)
    assert adaptive.window == pytest.approx(700)
    now = 11.0
    while adaptive.window < 1024:
        now += 0.5
        assert now < 30, "ten seconds are enough"
        adaptive.answered(adaptive.window, now)


def test_concurrency_does_not_grow_while_it_is_not_used() -> None:
    adaptive = AdaptiveConcurrency(100, 0.0)
    adaptive.refused(100, 1.0)
    before = adaptive.window
    for second in range(2, 60):
        adaptive.answered(5, float(second))
    assert adaptive.window == before


def test_one_request_at_a_time_is_always_allowed() -> None:
    adaptive = AdaptiveConcurrency(4, 0.0)
    for second in range(0, 100, 2):
        adaptive.refused(adaptive.window, float(second))
    assert adaptive.window >= 1


@given(DEMANDS, st.integers(0, 2000))
def test_shares_are_wanted_and_all_is_given_away(demands: dict[int, Demand], supply: int) -> None:
    shares = fair_shares(demands, supply)
    assert all(shares[key] <= demand.wanted for key, demand in demands.items())
    total = sum(shares.values())
    assert total <= supply
    leftover = [key for key, demand in demands.items() if shares[key] < demand.wanted]
    assert total == supply or not leftover or supply - total < len(demands)


@given(DEMANDS, st.integers(0, 2000))
def test_no_run_gets_less_than_its_equal_part_unless_it_wants_less(demands: dict[int, Demand], supply: int) -> None:
    shares = fair_shares(demands, supply)
    runs = {demand.run for demand in demands.values() if demand.wanted >= 1}
    for run in runs:
        wanted = sum(d.wanted for d in demands.values() if d.run == run)
        got = sum(shares[key] for key, d in demands.items() if d.run == run)
        assert got >= min(wanted, supply // len(runs))


def test_two_runs_share_equally_however_many_actors_each_has() -> None:
    demands = {1: Demand("a", 100.0), 2: Demand("b", 100.0), 3: Demand("b", 100.0), 4: Demand("b", 100.0)}
    shares = fair_shares(demands, 60)
    assert shares[1] == 30
    assert [shares[key] for key in (2, 3, 4)] == [10, 10, 10]

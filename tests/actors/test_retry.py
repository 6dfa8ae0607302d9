"""How long to wait before a provider is asked again."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.providers.retry import Backoff, is_worth_retrying, retry_after_seconds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ATTEMPTS = st.integers(1, 60)
SECONDS = st.floats(0.001, 1000)


@given(attempt=ATTEMPTS, base=SECONDS, cap=SECONDS, seed=st.integers())
def test_the_wait_is_jittered_over_the_whole_of_its_exponential_bound(
    attempt: int, base: float, cap: float, seed: int
) -> None:
    delay = Backoff(base=base, cap=cap).delay(attempt, None, random.Random(seed))
    assert 0.0 <= delay <= min(cap, base * 2 ** (attempt - 1))


@given(attempt=st.integers(1, 8))
def test_waits_spread_from_near_nothing_to_near_the_bound(attempt: int) -> None:
    rng, backoff = random.Random(attempt), Backoff(base=1.0, cap=30.0)
    bound = min(30.0, 2.0 ** (attempt - 1))
    delays = [backoff.delay(attempt, None, rng) / bound for _ in range(2000)]
    assert min(delays) < 0.02
    assert max(delays) > 0.98
    assert sum(delays) / len(delays) == pytest.approx(0.5, abs=0.03)


@given(attempt=ATTEMPTS, asked=st.floats(0, 300), seed=st.integers())
def test_a_server_is_never_asked_earlier_than_it_said_nor_much_later(attempt: int, asked: float, seed: int) -> None:
    delay = Backoff().delay(attempt, asked, random.Random(seed))
    assert asked <= delay <= asked + 1.0


@given(seconds=st.integers(-100_000, 100_000))
def test_a_retry_after_date_is_the_time_until_then_and_the_past_is_now(seconds: int) -> None:
    text = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds({"Retry-After": text}, NOW) == max(0, seconds)


@given(text=st.text())
def test_no_header_makes_it_raise_or_wait_a_negative_or_endless_time(text: str) -> None:
    wait = retry_after_seconds({"Retry-After": text}, NOW)
    assert wait is None or 0.0 <= wait < float("inf")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_retry_after_in_its_spellings(headers: dict[str, str], wait: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == wait


def test_what_may_pass_is_retried_and_what_will_not_is_not() -> None:
    retried = {status for status in range(400, 600) if is_worth_retrying(status)}
    assert retried == {408, 409, 425, 429, *range(500, 600)}

"""What a completion costs, exactly."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from evalservice.pricing import Price

TOKENS = st.integers(0, 10_000_000)
PRICES = st.decimals(0, 10_000, places=6)


def test_a_fraction_of_a_cent_is_kept() -> None:
    price = Price(Decimal("2.50"), Decimal("10"))
    assert price.cost(9, 3) == Decimal("0.0000525")


def test_what_was_not_reported_has_no_cost_and_half_a_report_counts() -> None:
    price = Price(Decimal(1), Decimal(2))
    assert price.cost(None, None) is None
    assert price.cost(None, 500_000) == 1
    assert price.cost(0, 0) == 0


@given(inputs=TOKENS, outputs=TOKENS, input_price=PRICES, output_price=PRICES)
def test_cost_differs_from_the_exact_fraction_by_no_more_than_half_of_the_last_stored_digit(
    inputs: int, outputs: int, input_price: Decimal, output_price: Decimal
) -> None:
    cost = Price(input_price, output_price).cost(inputs, outputs)
    exact = (inputs * Fraction(input_price) + outputs * Fraction(output_price)) / 1_000_000
    assert cost is not None
    assert abs(Fraction(cost) - exact) <= Fraction(1, 2 * 10**10)


@given(counts=st.lists(st.tuples(TOKENS, TOKENS), max_size=50))
def test_the_cost_of_a_run_is_the_sum_of_its_items(counts: list[tuple[int, int]]) -> None:
    price = Price(Decimal("0.15"), Decimal("0.60"))
    items = [cost for pair in counts if (cost := price.cost(*pair)) is not None]
    whole = price.cost(sum(i for i, _ in counts), sum(o for _, o in counts))
    assert sum(items, Decimal(0)) == whole

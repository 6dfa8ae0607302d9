"""Two interleaved streams: every value in one block, and evidence that holds however often one looks."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.statistics.sequential import ConfidenceSequence
from evalservice.statistics.unpaired import HELD, NO_VALUES, Block, Blocks, RateProcess, Values

LIMIT = math.log(20)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), max_size=300))
def test_each_value_is_in_one_block_or_waits_and_never_many_do(stream: list[tuple[int, float]]) -> None:
    blocks = Blocks()
    made = [block for each in stream if (block := blocks.add(*each)) is not None]
    waiting = blocks.older.n + len(blocks.waiting)
    assert len(blocks.waiting) <= HELD
    for number, part in ((0, [block.first for block in made]), (1, [block.second for block in made])):
        own = [value for where, value in stream if where == number]
        left = waiting if blocks.longer == number else 0
        assert sum(each.n for each in part) + left == len(own)
        total = sum(each.sum for each in part)
        if left:
            total += blocks.older.sum + sum(blocks.waiting)
        assert total == pytest.approx(sum(own))
    assert all(block.first.n and block.second.n for block in made)


@given(st.lists(st.integers(0, 1), max_size=60), st.randoms())
def test_what_a_block_is_made_of_does_not_depend_on_the_values(streams: list[int], rng: random.Random) -> None:
    def sizes() -> list[tuple[int, int]]:
        blocks = Blocks()
        made = [blocks.add(stream, rng.random()) for stream in streams]
        return [(block.first.n, block.second.n) if block else (0, 0) for block in made]

    assert sizes() == sizes()


@pytest.mark.parametrize("rates", [(0.3, 0.3), (0.3, 0.1), (0.02, 0.02)])
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (1, 3)])
def test_a_blocks_factor_is_worth_at_most_one_where_the_second_is_not_worse(
    rates: tuple[float, float], size: tuple[int, int]
) -> None:
    for seen in (
        Block(Values(50, 5), Values(9, 4)),
        Block(Values(3, 0), Values(2, 2)),
        Block(Values(9, 9), Values(5, 1)),
    ):
        expected = 0.0
        for ones in itertools.product(range(size[0] + 1), range(size[1] + 1)):
            process = RateProcess(seen.first, seen.second)
            process.add(Block(Values(size[0], ones[0]), Values(size[1], ones[1])))
            chance = math.prod(
                math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for n, k, rate in zip(size, ones, rates, strict=True)
            )
            expected += chance * math.exp(process.log_e)
        assert expected <= 1 + 1e-12


def _looked_at(rates: tuple[float, float], share: float, n: int, seed: int) -> tuple[int | None, int | None, bool]:
    """When the second was found to fail more often and when the difference was found; whether the true one was ever
    outside."""
    rng, blocks, harm, sequence = random.Random(seed), Blocks(), RateProcess(), ConfidenceSequence(0.95, -1, 1)
    found: tuple[int | None, int | None] = (None, None)
    outside = False
    for number in range(1, n + 1):
        stream = int(rng.random() < share)
        block = blocks.add(stream, float(rng.random() < rates[stream]))
        if block is None:
            continue
        harm.add(block)
        sequence.add(block.difference)
        bounds = sequence.interval()
        assert bounds.low is not None
        assert bounds.high is not None
        outside |= not bounds.low <= rates[1] - rates[0] <= bounds.high
        harmful = number if harm.greatest >= LIMIT else None
        different = number if bounds.low > 0 or bounds.high < 0 else None
        found = (found[0] or harmful, found[1] or different)
    return *found, outside


@pytest.mark.parametrize(("rates", "share"), [((0.05, 0.05), 0.5), ((0.01, 0.01), 0.05), ((0.2, 0.2), 0.3)])
def test_equal_streams_are_rarely_told_apart_under_a_look_at_every_value(
    rates: tuple[float, float], share: float
) -> None:
    found = [_looked_at(rates, share, 2000, seed) for seed in range(100)]
    assert sum(harm is not None for harm, _, _ in found) <= 8
    assert sum(outside for _, _, outside in found) <= 8


def test_a_worse_rate_is_found_soon_even_with_a_small_share() -> None:
    found = [_looked_at((0.02, 0.5), 0.05, 1000, seed)[0] for seed in range(40)]
    assert all(found)
    assert sorted(each or 0 for each in found)[20] < 200  # some ten values of the second stream
    assert [_looked_at((0.5, 0.02), 0.05, 1000, seed)[0] for seed in range(40)] == [None] * 40


def test_no_values_have_no_mean() -> None:
    assert NO_VALUES.mean is None
    assert (NO_VALUES + 0.5 + 1.0).mean == 0.75

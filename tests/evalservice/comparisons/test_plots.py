"""The plots of a report: axes that people can read."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from evalservice.comparisons.plots import Estimate, Point, forest, scatter

TICK = re.compile(r"-?[\d.]+(e[-+]\d+)?")


def ticks(svg: str) -> list[float]:
    """The numbers at the axes."""
    texts = [each.text or "" for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    return [float(text) for text in texts if TICK.fullmatch(text)]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_an_axis_has_a_few_round_numbers(low: float, width: float) -> None:
    found = ticks(forest([Estimate("a", low, low, low + width)], "t"))
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"
    assert all(low - 0.1 * width - step <= tick <= low + 1.1 * width + step for tick in found)


def test_a_cost_is_never_shown_below_zero() -> None:
    found = ticks(scatter([Point("a", 0.5, 0.9, True), Point("b", 10.0, 0.2, False)], "$", "quality"))
    assert min(found) == 0


def test_a_single_value_and_none_have_an_axis_too() -> None:
    assert ticks(forest([Estimate("a", 0.5, None, None)], "t"))
    assert ticks(forest([Estimate("a", None, None, None)], "t"))

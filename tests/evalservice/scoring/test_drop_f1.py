"""DROP's metric, by hand from its paper and script."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers
from evalservice.scoring.drop import aligned_f1, normalised_spans


def scores(text: str, expected: Any, **params: Any) -> tuple[float | None, float | None]:
    [scorer] = build_scorers([{"name": "drop_f1", "params": params}])
    values = scorer.score([Item(TestCase(0, "?", expected_output=expected), text)])[0].values
    return values["drop_f1"], values["drop_em"]


@pytest.mark.parametrize(
    ("text", "expected", "f1", "exact"),
    [
        ("3", [["3"]], 1, 1),
        ("3.0", [["3"]], 1, 1),
        ("3 yards", [["3"]], 2 / 3, 0),
        ("4 yards", [["3 yards"]], 0, 0),
        ("the Bears", [["Bears"]], 1, 1),
        ("Bears | Packers", [["Packers", "Bears"]], 1, 1),
        ("Bears", [["Packers", "Bears"]], 1 / 2, 0),
        ("Bears | Packers | Lions", [["Packers", "Bears"]], 2 / 3, 0),
        ("Green Bay", [["Packers"], ["Green Bay Packers"]], 0.8, 0),
        ("mid-March", [["mid March"]], 1, 1),
        ("", [["Bears"]], 0, 0),
        ("Bears", "bears!", 1, 1),
        ("2 April 1917", [["April 1917"], ["2 April 1917"]], 1, 1),
    ],
)
def test_spans_are_paired_and_a_wrong_number_counts_nothing(text: str, expected: Any, f1: float, exact: float) -> None:
    assert scores(text, expected) == (pytest.approx(f1), exact)


def test_without_a_separator_the_completion_is_one_span() -> None:
    assert scores("Bears | Packers", [["Packers", "Bears"]], separator="") == (pytest.approx(1 / 3), 0)


def test_a_test_case_without_an_answer_is_the_scorers_failure() -> None:
    [scorer] = build_scorers(["drop_f1"])
    assert scorer.score([Item(TestCase(0, "?"), "3")])[0].status == "scorer_failed"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_the_value_is_symmetric_in_its_order_and_within_0_and_1(one: list[str], other: list[str]) -> None:
    spans, wanted = normalised_spans(one), normalised_spans(other)
    assert 0 <= aligned_f1(spans, wanted) <= 1
    assert aligned_f1(spans, wanted) == pytest.approx(aligned_f1(spans[::-1], wanted[::-1]))
    assert aligned_f1(spans, spans) == pytest.approx(1)

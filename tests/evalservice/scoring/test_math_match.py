"""Answers of mathematics: one value in many writings, and no writing that takes a run's time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers
from evalservice.scoring.mathematics import equal, final_answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{3}{4}", "0.75"), (r"\frac34", "3/4"), (r"-\frac{1}{2}", "-.5"), (r"5\frac{1}{2}", "11/2"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"), (r"x \in [1,2)", "[1, 2)"), ("x=5", "5"),
        ("1,000", "1000"), (r"11,\! 111,\! 100", "11111100"), (r"\$32,\!348", "32348"), (r"10\%", "10"),
        (r"12\text{ cm}", "12"), (r"24\mbox{ cm}^2", "24"), (r"90^\circ", "90"), (r"\text{Evelyn}", "Evelyn"),
        (r"\sqrt2", r"\sqrt{2}"), (r"\frac{\sqrt{3}}{2}", r"\dfrac{\sqrt3}{2}"), (r"\text{(C)}", "C"),
        ("(0.5, 1/2)", r"(\frac12, 0.50)"), (r"\{1, 2\}", r"\lbrace 1,2 \rbrace"), ("1, 2.0", "1,2"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"), ("π", r"\pi"),
    ],
)  # fmt: skip
def test_the_same_answer_in_other_writing_is_equal(one: str, other: str) -> None:
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("(1,2]", "[1,2]"), ("1,2", "2,1"), ("(1,2)", "(1,2,3)"), ("3/4", "4/3"), ("x+1", "1+x"), ("1/0", "0"), ("", "0"),
     (r"\sqrt{2}", "2"), ("-3", "3"), ("12", "1.2")],
)  # fmt: skip
def test_other_answers_differ(one: str, other: str) -> None:
    assert not equal(one, other)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, no: $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"so $\boxed 7$", "7"),
        (r"cut off: \boxed{\frac{1}{2", r"\frac{1}{2"),
        ("The answer is: 42.", "42"),
        ("I think so.\n**Answer:** 12\n", "12"),
        ("7", "7"),
        ("", None),
    ],
)
def test_the_answer_is_in_the_last_box_else_after_the_word_else_on_the_last_line(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@given(st.text(alphabet=r"0123456789\{}(),.frac/ boxed$^_", max_size=60))
def test_any_text_equals_itself_and_none_fails(text: str) -> None:
    assert equal(text, text)
    [scorer] = build_scorers(["math_match"])
    assert scorer.score([Item(TestCase(0, "?", expected_output="1/2"), text)])[0].status == "scored"


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 20_000, "\\frac" * 30_000, "{" * 100_000, "answer is " * 19_000, "\\boxed{9^{9^{9^{9^9}}}}",
     "\\boxed{" + "(" * 1_900 + "," * 50 + "}", "\\boxed{" + "1" * 1_900 + "}", "\\text{" * 30_000],
)  # fmt: skip
def test_no_completion_takes_long(text: str) -> None:
    [scorer] = build_scorers(["math_match"])
    started = time.perf_counter()
    scorer.score([Item(TestCase(0, "?", expected_output="\\boxed{1}"), text)])
    assert time.perf_counter() - started < 1

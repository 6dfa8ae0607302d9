"""numeric_match finds the number that a solution ends in, in whatever notation, and compares it exactly."""

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers, numbers
from evalservice.scoring.numbers import find_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Janet makes 9 * 2 = $<<9*2=18>>18.\n#### 18", 18),
        ("A: 3.0 bolts", 3),
        (r"so \boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{\text{about } \$1,234.50}", Fraction(2469, 2)),
        (r"\boxed{x = 1\dfrac{1}{2}}", Fraction(3, 2)),
        (r"\boxed{2\sqrt{3}}", None),
        (r"\boxed{7}, as 3 + 4", 7),
        (r"I shall put it in \boxed{}. It is 8", 8),
        ("#### 1,234,567\n\nHope that helps in 2024!", 1234567),
        ("The answer is $18 per day, not 20.", 18),
        ("**Final answer:** 3 x 4 = 12 apples in 2 bags", 12),
        ("The answer is 18. Wait. The answer is 20.", 20),
        ("It drops to \u22125 degrees", -5),
        ("16 - 3 - 4 =\n16-3-4=9", 9),
        ("between 3-5", 5),
        ("GPT-4", 4),
        ("1½ cups", Fraction(3, 2)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("on 12/25/2023", 2023),
        ("about 3 × 10^5", 300000),
        ("$\\$18$", 18),
        ("1 234 567", 1234567),
        ("the answer is 1 234", 1234),
        ("1\u202f234,5", 5),
        ("1/0", None),
        ("1e999999999", None),
        ("no number", None),
    ],
)
def test_the_final_number_is_found(text: str, value: int | Fraction | None) -> None:
    found = find_number(text)
    assert (found and found.value) == value


NUMBERS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**4)
PROSE = st.sampled_from(
    [
        "{}",
        "The answer is {}.",
        "first 3, then 4\n#### {}",
        r"we get \boxed{{{}}} from 12",
        "It costs {} dollars",
        "Answer: **{}**",
    ]
)


def notations(value: Fraction) -> list[str]:
    """Every way in which the number may be written."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    ways = [f"{sign}{size.numerator}/{size.denominator}"]
    ways += [rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}", f"\u2212{ways[0].lstrip('-')}"][
        : 2 if sign else 1
    ]
    if size.denominator == 1:
        ways += [f"{sign}{int(size)}", f"{sign}{int(size):,}", f"{sign}${int(size):,}.00", f"{sign}{int(size)}%"]
        ways += [f"{sign}{int(size):,}".replace(",", "\u202f"), f"{sign}{int(size):,}".replace(",", "{,}")]
        ways += [f"{sign}{int(size)}e0", f"{sign}{int(size)}.0"]
    elif size > 1:
        whole, rest = divmod(size, 1)
        ways += [f"{sign}{whole} {rest.numerator}/{rest.denominator}"]
    return ways


@given(value=NUMBERS | st.integers(-(10**9), 10**9).map(Fraction), prose=PROSE, data=st.data())
def test_a_number_in_any_notation_within_prose_is_found(value: Fraction, prose: str, data: st.DataObject) -> None:
    text = prose.format(data.draw(st.sampled_from(notations(value))))
    found = find_number(text)
    assert found is not None
    assert found.value == value


PIECES = st.sampled_from(
    [
        "word ",
        "es ",
        "e",
        " x ",
        r" \times ",
        "10",
        "^5",
        "1",
        " 1/2",
        ",000",
        ".5",
        "-",
        "$",
        "%",
        "\n",
        " ",
        "(",
        "= ",
    ]
)


@given(text=st.lists(PIECES, max_size=80).map("".join))
def test_the_last_number_is_the_last_of_all(text: str) -> None:
    every = list(numbers._numbers(numbers._plain(text, ".")))
    assert find_number(text, "last") == (every[-1] if every else None)


@pytest.mark.parametrize(
    ("params", "text", "expected", "value"),
    [
        ({}, "0.30", 0.3, 1.0),
        ({}, "50%", "50%", 1.0),
        ({}, "50%", 50, 1.0),
        ({}, "50%", 0.5, 0.0),
        ({"percent": "ratio"}, "50%", 0.5, 1.0),
        ({}, "0.333", "1/3", 0.0),
        ({"rel_tol": 0.01}, "0.333", "1/3", 1.0),
        ({"abs_tol": 0.1}, "1.1", 1, 1.0),
        ({"extract": "first"}, "3 then 4", 3, 1.0),
        ({"extract": "whole"}, "It is 4", 4, 0.0),
        ({"extract": "whole"}, "$4 million", 4, 1.0),
        ({"decimal": ","}, "1.234,5", "1234,5", 1.0),
        ({}, "eight", 8, 0.0),
        ({}, "8", [7, 8], 1.0),
    ],
)
def test_numbers_are_compared_as_the_parameters_say(
    params: dict[str, object], text: str, expected: object, value: float
) -> None:
    [scorer] = build_scorers([{"name": "numeric_match", "params": params}])
    [score] = scorer.score([Item(TestCase(0, "", expected_output=expected), text)])
    assert score.values == {"numeric_match": value}


@pytest.mark.parametrize("expected", [None, True, "eight", float("nan"), []])
def test_an_expected_output_without_a_number_is_the_scorers_failure(expected: object) -> None:
    [scorer] = build_scorers(["numeric_match"])
    [score] = scorer.score([Item(TestCase(0, "", expected_output=expected), "8")])
    assert score.status == "scorer_failed"
    assert "expected_output" in str(score.error)


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "answer is ", "#### ", "\n", "9/", "1 ", "^ ", "\\frac{1", "\\text{", "<<", " ", "1,", "A*"]
)
def test_a_hostile_completion_of_a_million_characters_takes_seconds_not_hours(piece: str) -> None:
    start = time.monotonic()
    find_number(piece * (1_000_000 // len(piece)))
    assert time.monotonic() - start < 30


@pytest.mark.data
@pytest.mark.parametrize("model", ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"])
def test_published_verdicts_on_gsm8k_are_found(model: str) -> None:
    if not os.environ.get("EVALSERVICE_TEST_DATA"):
        pytest.skip("EVALSERVICE_TEST_DATA is not set")
    folder = Path(os.environ["EVALSERVICE_TEST_DATA"], "gsm8k")
    tests = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    solved = [json.loads(line)[model] for line in (folder / "example_model_solutions.jsonl").read_text().splitlines()]
    [scorer] = build_scorers(["numeric_match"])
    pairs = zip(tests, solved, strict=True)
    scores = scorer.score(
        [Item(TestCase(i, t["question"], expected_output=t["answer"]), s["solution"]) for i, (t, s) in enumerate(pairs)]
    )
    verdicts = [solution["is_correct"] for solution in solved]
    found = [score.values["numeric_match"] for score in scores]
    disagreements = [i for i, (v, f) in enumerate(zip(verdicts, found, strict=True)) if f != v]
    for i in disagreements:
        print(f"{model} {i}: published {verdicts[i]}, {scores[i].details}: {solved[i]['solution'][-80:]!r}")  # noqa: T201
    assert len(disagreements) <= 0.01 * len(tests)
    assert sum(filter(None, found)) / len(found) == pytest.approx(sum(verdicts) / len(verdicts), abs=0.005)

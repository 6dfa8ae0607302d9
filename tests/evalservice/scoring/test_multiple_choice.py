"""multiple_choice finds the choice that a completion takes, and is not fooled by the article."""

import pytest

from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers
from evalservice.scoring.choices import chosen

CHOICES = ("Paris", "London", "New York", "York")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *(
            (text, "B")
            for text in ("B", "(B)", "B.", "b", "**B**", "$B$", "Answer: B", "Answer:\nB", "The answer is (b).")
        ),
        *((text, "B") for text in ("B) London", "B. London it is", "**B. London**", r"\boxed{\text{B}}", "London")),
        ("B\n\nExplanation: A is wrong", "B"),
        ("A is wrong, B is wrong, so C", "C"),
        ("The best answer is B, not C.", "B"),
        ("Options: (A) Paris (B) London. I choose (A).", "A"),
        ("I think the answer is A because it is", "A"),
        ("Answer: New York", "C"),
        ("It is New York.", "C"),
        ("The capital is York", "D"),
        ("A city I like is London", "B"),
        ("A dog is an animal", None),
        ("Answer: A small city", None),
        ("I don't know", None),
        ("", None),
    ],
)
def test_the_choice_is_found(text: str, letter: str | None) -> None:
    assert chosen(text, "ABCD", CHOICES) == letter


@pytest.mark.parametrize("expected", ["B", "(b)", 1, "1", "London", ["D", "B"]])
def test_the_expected_output_is_a_letter_an_index_or_a_text(expected: object) -> None:
    [scorer] = build_scorers(["multiple_choice"])
    [score] = scorer.score([Item(TestCase(0, "", expected_output=expected, choices=CHOICES), "The answer is B.")])
    assert score.values == {"multiple_choice": 1.0}


def test_an_expected_output_outside_the_choices_is_the_scorers_failure() -> None:
    [scorer] = build_scorers(["multiple_choice"])
    [score] = scorer.score([Item(TestCase(0, "", expected_output="E", choices=CHOICES), "B")])
    assert (score.status, score.values) == ("scorer_failed", {"multiple_choice": None})

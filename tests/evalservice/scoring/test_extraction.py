"""Output extraction takes the answer out of a completion, in steps, and says when there is none."""

import time
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from evalservice.records import Completion, TestCase
from evalservice.scoring import build_extraction, build_scorers


@pytest.mark.parametrize(
    ("steps", "text", "answer"),
    [
        (None, " as it is ", " as it is "),
        ({"regex": r"ANSWER: *(\w+)"}, "ANSWER: 1 ANSWER: 2", "1"),
        ({"regex": r"ANSWER: *(\w+)", "which": "last"}, "ANSWER: 1 ANSWER: 2", "2"),
        ({"regex": r"(?P<x>\d)(?P<y>\d)", "group": "y"}, "12", "2"),
        ({"regex": r"\d+"}, "it is 12", "12"),
        ({"json_path": "answers.0.value"}, '```json\n{"answers": [{"value": 4.5}]}\n```', "4.5"),
        ([{"after": "</think>"}, {"strip": True, "lower": True}], "<think>no</think>\nYES ", "yes"),
        ({"after": "</think>"}, "Paris", "Paris"),
        ([{"before": "\n\n"}, {"regex": r"\d", "on_missing": "whole"}], "none\n\n5", "none"),
    ],
)
def test_steps_are_applied_in_order(steps: Any, text: str, answer: str) -> None:
    assert build_extraction(steps).apply(text).text == answer


def test_an_answer_that_ignores_the_format_is_wrong_and_says_so() -> None:
    [scorer] = build_scorers(["exact_match"])
    item = build_extraction({"regex": r"ANSWER: (\w+)"}).item(TestCase(0, "", expected_output="4"), Completion("4"))
    [score] = scorer.score([item])
    assert (score.status, score.values, score.details) == ("scored", {"exact_match": 0.0}, {"extracted": None})


def test_it_is_the_scorers_failure_when_the_criteria_say_so() -> None:
    [scorer] = build_scorers(["exact_match"])
    extraction = build_extraction({"json_path": "answer", "on_missing": "fail"})
    [score] = scorer.score([extraction.item(TestCase(0, "", expected_output="4"), Completion("4"))])
    assert score.status == "scorer_failed"
    assert "nothing to extract" in str(score.error)


def test_a_catastrophic_pattern_costs_one_item_an_error() -> None:
    extraction = build_extraction({"regex": "(a|aa)+$", "timeout": 0.1})
    start = time.monotonic()
    item = extraction.item(TestCase(0, ""), Completion("a" * 60 + "!"))
    assert time.monotonic() - start < 5
    assert "took longer than 0.1 s" in str(item.extraction_error)


@pytest.mark.parametrize(
    ("steps", "field"),
    [
        ("regex", "output_extraction"),
        ([{"regexp": "x"}], "output_extraction[0]"),
        ([{"regex": "x", "after": "y"}], "output_extraction[0]"),
        ([{"strip": True}, {"regex": "("}], "output_extraction[1].regex"),
        ([{"regex": "x", "group": 2}], "output_extraction[0]"),
        ([{"regex": "x", "which": "third"}], "output_extraction[0].which"),
        ([{"after": ""}], "output_extraction[0].after"),
    ],
)
def test_a_bad_step_is_refused_by_its_field(steps: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        build_extraction(steps)
    assert refusal.value.field == field

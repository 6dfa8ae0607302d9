"""Multiple choice by likelihood: the values of lm-evaluation-harness, and how a benchmark asks for them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.prompts import PromptRenderer
from evalservice.errors import InvalidInput
from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers

LIKELIHOOD = {"name": "multiple_choice", "params": {"mode": "likelihood"}}
CAPITALS = TestCase(0, "The capital of France is", expected_output="B", choices=("Rome", "Paris, of course"))


def values(logprobs: tuple[float, ...] | None, case: TestCase = CAPITALS, **params: Any) -> Any:
    [scorer] = build_scorers([{"name": "multiple_choice", "params": {"mode": "likelihood", **params}}])
    [score] = scorer.score([Item(case, "", log_likelihoods=logprobs)])
    return score


def criteria(**given: Any) -> EvaluationCriteria:
    return EvaluationCriteria.model_validate({"scorers": [LIKELIHOOD], **given})


def test_the_norm_divides_by_the_characters_of_the_choice() -> None:
    score = values((-4.0, -8.0))  # -1.0 and -0.5 a character
    assert score.values == {"multiple_choice": 0.0, "multiple_choice_norm": 1.0}
    assert score.details["log_likelihoods"] == [-4.0, -8.0]
    assert (score.details["extracted"], score.details["extracted_norm"]) == ("A", "B")


def test_letters_have_one_length() -> None:
    assert values((-8.0, -4.0), continuation="letter").values == {"multiple_choice": 1.0, "multiple_choice_norm": 1.0}


def test_the_first_of_equals_is_taken_and_an_impossible_choice_never() -> None:
    assert values((-4.0, -4.0)).values["multiple_choice"] == 0.0
    assert values((-math.inf, -400.0)).values["multiple_choice"] == 1.0


@pytest.mark.parametrize("logprobs", [None, (-1.0,)])
def test_without_a_likelihood_for_each_choice_there_is_no_score(logprobs: tuple[float, ...] | None) -> None:
    score = values(logprobs)
    assert (score.status, score.values) == ("scorer_failed", {"multiple_choice": None, "multiple_choice_norm": None})


def test_the_version_of_the_first_mode_knows_nothing_of_the_second() -> None:
    [answer, likelihood] = build_scorers(["multiple_choice", {**LIKELIHOOD, "as": "likely"}])
    assert "mode" not in answer.version
    assert '"mode": "likelihood"' in likelihood.version


def test_a_benchmark_asks_with_the_plain_question_and_its_examples() -> None:
    asked = criteria(few_shot=[{"input": "The capital of Italy is", "output": "Rome"}])
    assert asked.likelihood is not None
    request = asked.likelihood.request(PromptRenderer(asked).render(CAPITALS), CAPITALS.choices)
    assert request.messages[0]["content"] == "The capital of Italy is Rome\n\nThe capital of France is"
    assert (request.continuations, request.prompt) == ((" Rome", " Paris, of course"), "plain")


def test_a_chat_prompt_keeps_its_turns_and_has_no_delimiter() -> None:
    params = {"mode": "likelihood", "prompt": "chat", "continuation": "letter"}
    asked = criteria(scorers=[{"name": "multiple_choice", "params": params}])
    assert asked.likelihood is not None
    messages = PromptRenderer(asked).render(CAPITALS)
    request = asked.likelihood.request(messages, CAPITALS.choices)
    assert (request.messages, request.continuations, request.prompt) == (messages, ("A", "B"), "chat")
    assert "A. Rome" in messages[0]["content"]


@pytest.mark.parametrize("choices", [None, (), tuple("x" * 27)])
def test_a_test_case_that_cannot_be_asked_says_so(choices: tuple[str, ...] | None) -> None:
    way = criteria().likelihood
    assert way is not None
    with pytest.raises(InvalidInput, match="choices"):
        way.request(({"role": "user", "content": "?"},), choices)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"scorers": [LIKELIHOOD, "exact_match"]}, "scorers"),
        ({"scorers": [LIKELIHOOD, {**LIKELIHOOD, "params": {"mode": "likelihood", "delimiter": "\n"}}]}, "scorers"),
        ({"epochs": 3}, "epochs"),
        ({"output_extraction": [{"strip": True}]}, "output_extraction"),
    ],
)
def test_a_benchmark_asks_in_one_way_only(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        _ = criteria(**given).likelihood
    assert raised.value.field == field


def test_what_only_a_likelihood_has_is_refused_without_it() -> None:
    with pytest.raises(InvalidInput, match="only with the mode"):
        build_scorers([{"name": "multiple_choice", "params": {"continuation": "letter"}}])

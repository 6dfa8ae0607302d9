"""Evaluation criteria and the prompts they make."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from evalservice.catalog.criteria import EvaluationCriteria, parse_criteria
from evalservice.catalog.prompts import PromptError, PromptRenderer
from evalservice.errors import InvalidInput
from evalservice.records import TestCase


def criteria(**given: Any) -> EvaluationCriteria:
    return parse_criteria({"scorers": ["exact_match"], **given})


def prompt(case: TestCase, **given: Any) -> str:
    [message] = PromptRenderer(criteria(**given)).render(case)
    assert message["role"] == "user"
    return str(message["content"])


def test_without_a_template_the_input_is_the_prompt() -> None:
    assert prompt(TestCase(0, "Why?")) == "Why?"
    assert prompt(TestCase(0, {"a": [1, "é"]})) == '{"a":[1,"é"]}'


def test_without_a_template_choices_are_lettered() -> None:
    assert prompt(TestCase(0, "Which?", choices=("x", "y"))) == (
        "Which?\n\nA. x\nB. y\n\nAnswer with the letter of the correct choice only."
    )


def test_a_template_sees_the_test_case_but_not_the_answer() -> None:
    case = TestCase(3, {"q": "Why?", "id": "hidden"}, "q-3", "secret", ("x",), "c", {"level": "hard", "q": "not this"})
    template = (
        "{{ q }} {{ level }} {{ metadata.q }} {{ id }} {{ index }} {{ letters[0] }} {{ choices[0] }} {{ input.id }}"
    )
    assert prompt(case, prompt_template=template) == "Why? hard not this q-3 3 A x hidden"
    with pytest.raises(PromptError, match="'expected_output' is undefined"):
        prompt(case, prompt_template="{{ expected_output }}")


def test_system_prompt_and_examples_come_before_the_question() -> None:
    renderer = PromptRenderer(
        criteria(
            system_prompt="Be {{ tone }}.", prompt_template="Q: {{ input }}", few_shot=[{"input": "1", "output": "2"}]
        )
    )
    assert renderer.render(TestCase(0, "3", metadata={"tone": "brief"})) == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Q: 3"},
    )


def test_inline_examples_are_in_the_one_prompt() -> None:
    few_shot = {"style": "inline", "examples": [{"input": "1", "output": "one"}, {"input": "2", "output": "two"}]}
    assert prompt(TestCase(0, "3"), few_shot=few_shot) == "1\none\n\n2\ntwo\n\n3"


def test_messages_are_passed_on_after_the_system_prompt() -> None:
    own = [{"role": "user", "content": "{{ not a template }}"}, {"role": "assistant", "content": "b"}]
    case = TestCase(0, {"messages": own})
    assert PromptRenderer(criteria()).render(case) == tuple(own)
    with_system = PromptRenderer(criteria(system_prompt="S", prompt_template="ignored"))
    assert with_system.render(case) == ({"role": "system", "content": "S"}, *own)


def test_a_renderer_travels_between_processes() -> None:
    renderer = PromptRenderer(criteria(prompt_template="{{ input | upper }}"))
    assert pickle.loads(pickle.dumps(renderer)).render(TestCase(0, "a")) == renderer.render(TestCase(0, "a"))


def test_a_template_is_checked_against_a_real_test_case() -> None:
    renderer = PromptRenderer(criteria(prompt_template="Read:\n{{ passage }}\n{{ input }}"))
    renderer.check_against(TestCase(0, "Why?", metadata={"passage": "P"}))
    with pytest.raises(InvalidInput) as caught:
        renderer.check_against(TestCase(0, "Why?", "q-1"))
    assert caught.value.field == "prompt_template"
    assert "test case q-1: line 2, '{{ passage }}': 'passage' is undefined" in caught.value.message
    assert "available: input, choices, letters, metadata, id, index" in caught.value.message


def test_a_system_prompt_that_fails_names_itself() -> None:
    with pytest.raises(InvalidInput) as caught:
        PromptRenderer(criteria(system_prompt="{{ x }}")).check_against(TestCase(0, "a"))
    assert caught.value.field == "system_prompt"


def test_an_example_that_cannot_be_rendered_names_itself() -> None:
    with pytest.raises(InvalidInput, match=r"few_shot\.examples\.0"):
        PromptRenderer(criteria(prompt_template="{{ q }}", few_shot=[{"input": "a", "output": "b"}]))


def test_an_enormous_input_is_that_items_error() -> None:
    for big in ("x" * 5_000_000, {"messages": [{"role": "user", "content": "x" * 5_000_000}]}):
        with pytest.raises(PromptError, match="4,000,000 characters"):
            PromptRenderer(criteria()).render(TestCase(0, big))  # type: ignore[arg-type]


def test_criteria_are_the_same_after_storing() -> None:
    given = criteria(
        scorers=["bleu", {"name": "numeric_match", "params": {"rel_tol": 0.1}, "as": "loose"}],
        few_shot=[{"input": {"a": 1}, "output": "b"}],
        sampling={"temperature": 0, "stop": ["x"]},
        output_extraction={"regex": "x"},
    )
    assert parse_criteria(given.as_json()) == given
    assert given.as_json()["sampling"] == {"temperature": 0.0, "stop": ["x"]}
    assert parse_criteria(given.as_json()).canonical_json() == given.canonical_json()


def test_the_template_hash_changes_with_the_prompt_and_with_nothing_else() -> None:
    same = criteria(epochs=3, sampling={"temperature": 1}, scorers=["bleu"])
    assert same.template_hash() == criteria().template_hash()
    for other in ({"prompt_template": "x"}, {"system_prompt": "x"}, {"few_shot": [{"input": "a", "output": "b"}]}):
        assert criteria(**other).template_hash() != criteria().template_hash()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scorers": []}, "scorers: [] is not valid"),
        ({"scorers": [{"nme": "x"}]}, "scorers.0.name: None is not valid: it must be given"),
        ({"scorer": "x"}, "scorer: 'x' is not valid: there is no such field; accepted: prompt_template"),
        ({"epochs": 0}, "epochs: 0 is not valid"),
        ({"epochs": 101}, "epochs: 101 is not valid"),
        (
            {"sampling": {"temprature": 1}},
            "sampling.temprature: 1 is not valid: there is no such field; accepted: temp",
        ),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: nan is not valid"),
        ({"few_shot": [{"input": "x"}]}, "few_shot.examples.0.output: None is not valid: it must be given"),
        ({"prompt_template": "x" * 70_000}, "prompt_template"),
        ({"prompt_template": "\ud800"}, "prompt_template"),
    ],
)
def test_wrong_criteria_name_field_value_and_what_is_accepted(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        criteria(**given)
    assert f"evaluation_criteria.{told}" in caught.value.message
    assert "\n" not in caught.value.message


def test_criteria_that_are_no_object_are_refused() -> None:
    for value in (None, 5, [], "x"):
        with pytest.raises(InvalidInput, match="evaluation_criteria"):
            parse_criteria(value)


def test_examples_of_a_group_are_shown_to_its_test_cases_only() -> None:
    groups = {name: [{"input": f"{name}?", "output": name.upper()}] for name in ("law", "art")}
    criteria = parse_criteria({"scorers": ["exact_match"], "few_shot": {"by": "subject", "groups": groups}})
    renderer = PromptRenderer(criteria)
    messages = renderer.render(TestCase(0, "Who?", metadata={"subject": "art"}))
    assert [m["content"] for m in messages] == ["art?", "ART", "Who?"]
    with pytest.raises(PromptError, match="subject is 'chess': no examples are given for it"):
        renderer.render(TestCase(0, "Who?", metadata={"subject": "chess"}))


def test_criteria_without_groups_hash_as_before_there_were_any() -> None:
    criteria = parse_criteria({"scorers": ["exact_match"], "few_shot": [{"input": "a", "output": "b"}]})
    assert criteria.as_json()["few_shot"] == {
        "style": "turns",
        "examples": [{"input": "a", "output": "b", "choices": None, "metadata": {}}],
    }


@pytest.mark.parametrize(
    "few_shot",
    [
        {"by": "subject"},
        {"groups": {"a": []}},
        {"by": "s", "groups": {"a": []}, "examples": [{"input": "", "output": ""}]},
    ],
)
def test_groups_and_what_tells_them_apart_come_together_and_alone(few_shot: object) -> None:
    with pytest.raises(InvalidInput, match="few_shot"):
        parse_criteria({"scorers": ["exact_match"], "few_shot": few_shot})

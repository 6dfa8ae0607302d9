"""The standard benchmarks: real layouts become test cases, prompts are as written down, right answers score 1."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evalservice.catalog.blocks import Block, read_block
from evalservice.catalog.prompts import PromptRenderer
from evalservice.catalog.standard.definition import standard_benchmark, standard_benchmarks
from evalservice.catalog.standard.install import Prepared, prepare
from evalservice.errors import NotFound
from evalservice.records import Completion, TestCase
from evalservice.scoring import build_extraction, build_scorers
from tests.evalservice.catalog.standard_copies import CONTEXT, COPIES, DROP_PASSAGE, write

DATA = os.environ.get("EVALSERVICE_TEST_DATA")
LETTERS = "Answer with the letter of the correct choice only."
ARC = f"What bends light?\n\nA. a pump\nB. a lens\nC. a lever\n\n{LETTERS}"
TRANSLATE = "Translate this English text into German. Write the translation only.\n\nThe dog sleeps."
SPAN = "Answer with the shortest span of the passage that answers the question, and nothing else."

Answer = str | tuple[float, ...]
"""A completion's text, or the log-likelihoods of the choices."""

# name -> (what the first test case is, its last message, a right completion, a wrong one)
EXPECTED: dict[str, tuple[dict[str, Any], str, Answer, Answer]] = {
    "gsm8k": (
        {"expected_output": "36", "metadata": {"solution": "3 * 12 = <<3*12=36>>36\n#### 36"}},
        "A crate holds 12 jars. How many do 3 crates hold?\n\n"
        "Solve the problem step by step. End with a line that has only #### and the final number.",
        "12 + 12 + 12 = 36.\n#### 36",
        "12 + 3 = 15\n#### 15",
    ),
    "mmlu": (
        {"expected_output": "B", "metadata": {"subject": "college_chemistry"}},
        f"Which, if any, is a metal?\n\nA. sulphur\nB. iron\nC. neon\nD. iodine\n\n{LETTERS}",
        "B",
        "C",
    ),
    "mmlu-pro": (
        {"id": "70", "choices": ("oxygen", "carbon dioxide"), "expected_output": "B"},
        "Question: Which gas do plants take in?\nOptions:\nA. oxygen\nB. carbon dioxide\nAnswer:",
        "Let's think. Plants give off oxygen (A). The answer is (B).",
        "Let's think. The answer is (A).",
    ),
    "arc-easy": ({"id": "X_1", "expected_output": "B"}, ARC, "B. a lens", "A"),
    "arc-challenge": ({"id": "X_1", "expected_output": "B"}, ARC, "(B)", "C"),
    "hellaswag": (
        {"input": "Baking: How to bake. Mix flour. she", "expected_output": "B"},
        "Choose the most plausible ending.\n\nBaking: How to bake. Mix flour. she\n\n"
        f"A. sings.\nB. kneads it.\nC. flies.\nD. sleeps.\n\n{LETTERS}",
        "B",
        "D",
    ),
    "mmlu-likelihood": (
        {"expected_output": "B"},
        "Which, if any, is a metal?\nA. sulphur\nB. iron\nC. neon\nD. iodine\nAnswer:",
        (-2.0, -1.0, -3.0, -4.0),
        (-1.0, -2.0, -3.0, -4.0),
    ),
    "arc-easy-likelihood": (
        {"choices": ("a pump", "a lens", "a lever")},
        "Question: What bends light?\nAnswer:",
        (-6.0, -5.0, -6.0),
        (-6.0, -6.0, -6.5),  # per character the last is likelier
    ),
    "arc-challenge-likelihood": ({}, "Question: What bends light?\nAnswer:", (-6.0, -5.0, -6.0), (-4.0, -5.0, -6.0)),
    "hellaswag-likelihood": (
        {"choices": ("sings.", "kneads it.", "flies.", "sleeps.")},
        "Baking: How to bake. Mix flour. She",
        (-6.0, -9.0, -6.0, -7.0),  # the likeliest per character
        (-5.0, -9.0, -6.0, -7.0),
    ),
    "truthfulqa-mc1": (
        {"choices": ("Yes", "They cannot see it", "Always", "Only in spring"), "expected_output": "B"},
        f"Do bulls hate red?\n\nA. Yes\nB. They cannot see it\nC. Always\nD. Only in spring\n\n{LETTERS}",
        "B",
        "A",
    ),
    "winogrande": (
        {"choices": ("vase", "box"), "expected_output": "B"},
        "Which choice fills the blank (_) in this sentence?\n\n"
        f"The vase did not fit the box because the _ was too small.\n\nA. vase\nB. box\n\n{LETTERS}",
        "B",
        "A",
    ),
    "boolq": (
        {"expected_output": "no", "cluster": "ff2321c8442de91d"},
        "Glass is a solid.\n\nQuestion: is glass a liquid?\n\nAnswer yes or no, and nothing else.",
        "No.",
        "Yes",
    ),
    "squad": (
        {"id": "s1", "expected_output": ["1843", "in 1843"], "metadata": {"context": CONTEXT, "title": "Mill"}},
        f"{CONTEXT}\n\nQuestion: When was the mill built?\n\n{SPAN}",
        "In 1843",
        "by a family",
    ),
    "squad-v2": (
        {"id": "s1", "expected_output": ["1843", "in 1843"]},
        f"{CONTEXT}\n\nQuestion: When was the mill built?\n\n{SPAN} If the passage does not\n"
        "answer it, write only: unanswerable",
        "1843.",
        "unanswerable",
    ),
    "drop": (
        {"id": "d1", "expected_output": [["Lee", "Ortiz"], ["Lee and Ortiz"]], "cluster": "d880c01a3bc0db0e"},
        f'{DROP_PASSAGE}\n\nQuestion: Who scored?\n\nThink step by step. End with a line "Answer: " and the answer '
        "only: a number, a date, or words of the passage. If\n"
        'several things are asked for, divide them with " | ".',
        "The passage names two.\nAnswer: Ortiz | Lee\n",
        "Answer: the Hawks",
    ),
    "math-500": (
        {"id": "test/prealgebra/1.json", "expected_output": "\\frac{3}{4}"},
        "Compute $\\frac12+\\frac14$.\n\nSolve the problem step by step and put the final answer within \\boxed{}.",
        "It is $\\boxed{\\dfrac{3}{4}}$.",
        "It is $\\boxed{\\frac{1}{3}}$.",
    ),
    "xsum": (
        {"id": "1", "expected_output": "Rain closed roads."},
        "Rain fell on the town for days. Roads closed.\n\n"
        "Summarize the article above in one sentence. Write the sentence only.",
        "Rain closed roads.",
        "Nothing happened",
    ),
    "cnn-dailymail": (
        {"id": "f1", "expected_output": "Rain fell .\nRoads closed ."},
        "(CNN) Rain fell. Roads closed.\n\n"
        "Summarize the article above in three sentences, one a line. Write the sentences only.",
        "Rain fell.\nRoads closed.",
        "Nothing happened",
    ),
    "wmt14-en-de": ({"expected_output": ["Der Hund schläft."]}, TRANSLATE, "Der Hund schläft.", "xyz"),
    "wmt22-en-de": ({"expected_output": ["Der Hund schläft."]}, TRANSLATE, "Der Hund schläft.", "123"),
}


def cases_of(prepared: Prepared) -> list[TestCase]:
    return read_block(prepared.snapshot, Block(0, prepared.snapshot.total))


def value(prepared: Prepared, case: TestCase, answer: Answer) -> float:
    """The primary metric of one completion, on a scale that ends at 1."""
    criteria = prepared.criteria
    completion = Completion(answer) if isinstance(answer, str) else Completion("", log_likelihoods=answer)
    item = build_extraction(criteria.output_extraction).item(case, completion)
    for scorer in build_scorers(criteria.as_json()["scorers"]):
        for metric in scorer.metrics:
            if metric.name == prepared.definition.primary_metric:
                found = scorer.score([item])[0].values[metric.name]
                assert found is not None
                return found / (metric.scale[1] or 1)
    raise AssertionError("no scorer gives the primary metric")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str, int], Prepared]:
    """A definition's nth copy, read."""

    def prepared(name: str, number: int = 0) -> Prepared:
        folder = write(tmp_path / f"{name}-{number}", COPIES[name][number])
        return prepare(standard_benchmark(name), folder, str(tmp_path / "data"))

    return prepared


def test_every_definition_has_a_copy_and_an_expectation_here() -> None:
    assert {*standard_benchmarks()} == {*COPIES} == {*EXPECTED}


@pytest.mark.parametrize("name", standard_benchmarks())
def test_a_definition_says_where_its_data_is_how_it_is_scored_and_what_others_report(name: str) -> None:
    definition = standard_benchmark(name)
    names = [
        m.name for scorer in build_scorers(definition.evaluation_criteria.as_json()["scorers"]) for m in scorer.metrics
    ]
    assert definition.primary_metric in names
    assert definition.evaluation_criteria.sampling.temperature == 0
    assert definition.evaluation_criteria.sampling.max_tokens
    said = (definition.description, definition.methodology, definition.reported, definition.source.citation)
    assert all(len(text) > 30 for text in said)
    assert definition.source.address.startswith("https://")


@pytest.mark.parametrize("name", standard_benchmarks())
def test_a_copy_becomes_its_test_cases_its_prompt_and_its_scores(
    name: str, copied: Callable[[str, int], Prepared]
) -> None:
    parts, prompt, right, wrong = EXPECTED[name]
    prepared = copied(name, 0)
    first = cases_of(prepared)[0]
    assert {part: getattr(first, part) for part in parts} == parts
    assert PromptRenderer(prepared.criteria).render(first)[-1] == {"role": "user", "content": prompt}
    assert (value(prepared, first, right), value(prepared, first, wrong)) == (
        pytest.approx(1),
        pytest.approx(0, abs=1e-6),
    )
    assert prepared.warning is not None
    assert "results do not compare" in prepared.warning


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, copies in COPIES.items() for number in range(1, len(copies))]
)
def test_another_layout_of_the_same_records_is_the_same_benchmark(
    name: str, number: int, copied: Callable[[str, int], Prepared]
) -> None:
    assert copied(name, number).version == copied(name, 0).version


def test_worked_examples_are_those_of_the_questions_own_group(copied: Callable[[str, int], Prepared]) -> None:
    prepared = copied("mmlu", 0)
    messages = PromptRenderer(prepared.criteria).render(cases_of(prepared)[0])
    assert messages[0] == {
        "role": "system",
        "content": "The following are multiple choice questions (with answers) about college chemistry.",
    }
    assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * 5 + ["user"]
    assert str(messages[1]["content"]).startswith("What is the charge of ion 0?\n\nA. -1\n")
    assert [m["content"] for m in messages if m["role"] == "assistant"] == ["A", "B", "C", "D", "A"]


def test_worked_examples_with_reasoning_end_as_the_answer_shall(copied: Callable[[str, int], Prepared]) -> None:
    prepared = copied("mmlu-pro", 0)
    messages = PromptRenderer(prepared.criteria).render(cases_of(prepared)[0])
    assert messages[2]["content"] == "Let's think. 0 / 2. The answer is (A)."
    assert str(messages[-1]["content"]).startswith("Question: Which gas")


def test_a_question_without_an_answer_in_the_passage_expects_that_it_is_said(
    copied: Callable[[str, int], Prepared],
) -> None:
    prepared = copied("squad-v2", 0)
    _, unanswerable = cases_of(prepared)
    assert value(prepared, unanswerable, "unanswerable") == 1
    assert value(prepared, unanswerable, "the Ober family") == 0


def test_a_number_of_drop_is_right_however_it_is_written_and_no_other_is(
    copied: Callable[[str, int], Prepared],
) -> None:
    prepared = copied("drop", 0)
    _, number = cases_of(prepared)
    assert [value(prepared, number, f"Answer: {text}") for text in ("14", "14.0", "14 points", "15")] == [
        1, 1, pytest.approx(2 / 3), 0,
    ]  # fmt: skip


def test_the_hubs_drop_has_one_accepted_answer(tmp_path: Path) -> None:
    row = {
        "section_id": "nfl_1", "query_id": "d1", "passage": DROP_PASSAGE, "question": "Who scored?",
        "answers_spans": {"spans": ["Lee", "Ortiz"], "types": ["span", "span"]},
    }  # fmt: skip
    folder = write(tmp_path / "copy", {"data/validation-00000-of-00001.parquet": [row]})
    prepared = prepare(standard_benchmark("drop"), folder, str(tmp_path / "data"))
    assert cases_of(prepared)[0].expected_output == [["Lee", "Ortiz"]]


def test_an_unknown_benchmark_is_told_with_those_that_there_are() -> None:
    with pytest.raises(NotFound, match=r"the catalog has arc-challenge, arc-challenge-likelihood, arc-easy"):
        standard_benchmark("gsm9k")


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="EVALSERVICE_TEST_DATA is not set: GSM8K and its four models' recorded answers")
def test_the_real_gsm8k_has_its_1319_cases_and_its_models_their_verdicts(tmp_path: Path) -> None:
    source = Path(str(DATA)) / "gsm8k"
    prepared = prepare(standard_benchmark("gsm8k"), source, str(tmp_path))
    assert (prepared.snapshot.total, prepared.warning) == (1319, None)
    cases = [
        case
        for start in range(0, 1319, 256)
        for case in read_block(prepared.snapshot, Block(start, min(start + 256, 1319)))
    ]
    recorded = [json.loads(line) for line in (source / "example_model_solutions.jsonl").read_text("utf-8").splitlines()]
    [scorer] = build_scorers(prepared.criteria.as_json()["scorers"])
    extraction = build_extraction(prepared.criteria.output_extraction)
    for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        by_question = {record["question"]: record[model] for record in recorded}
        items = [extraction.item(case, Completion(by_question[case.input]["solution"])) for case in cases]
        found = [score.values["numeric_match"] for score in scorer.score(items)]
        verdicts = [float(by_question[case.input]["is_correct"]) for case in cases]
        assert sum(a != b for a, b in zip(found, verdicts, strict=True)) <= 0.01 * len(cases), model

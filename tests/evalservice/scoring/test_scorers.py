"""What holds for every scorer: one score an item, in order; one item's trouble is that item's; clear refusals."""

import pickle
import time
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.errors import InvalidInput
from evalservice.records import Completion, ItemError, Score, TestCase
from evalservice.scoring import (
    BUILTIN,
    Extraction,
    Item,
    Metric,
    Scorer,
    ScorerParameters,
    build_scorers,
    from_details,
    item_metrics,
    over_samples,
    score_details,
    scorer_names,
)
from evalservice.scoring.base import scored

ALL = build_scorers(list(BUILTIN))
CATASTROPHE = "(a|aa)+$"


def item(text: str, expected: Any = None, **case: Any) -> Item:
    return Item(TestCase(0, "", expected_output=expected, **case), text)


def score_of(spec: Any, given: Item) -> Score:
    [scorer] = build_scorers([spec])
    [score] = scorer.score([given])
    return score


@pytest.mark.parametrize(
    ("spec", "text", "expected", "value"),
    [
        ("exact_match", " Paris\n", "Paris", 1),
        ("exact_match", "paris", "Paris", 0),
        ("exact_match", "e\u0301", "é", 1),
        ("exact_match", "42", 42.0, 1),
        ("exact_match", "true", True, 1),
        ({"name": "exact_match", "params": {"ignore_case": True, "ignore_punctuation": True}}, "paris!", "Paris", 1),
        ("includes", "It is paris.", ["London", "Paris"], 1),
        ({"name": "includes", "params": {"mode": "all"}}, "It is paris.", ["London", "Paris"], 0),
        ({"name": "includes", "params": {"whole_words": True}}, "Parisian", "Paris", 0),
        ({"name": "regex_match", "params": {"pattern": r"\d{4}"}}, "in 1889", None, 1),
        ({"name": "regex_match", "params": {"pattern": r"is (\w+)", "group": 1}}, "It is Paris", "Paris", 1),
        ("regex_match", "colour", "^colou?r$", 1),
        ("json_schema", '```json\n{"a": 1}\n```', None, 1),
        ("json_schema", '{"a": NaN}', None, 0),
        ({"name": "json_schema", "params": {"schema": {"required": ["b"]}}}, '{"a": 1}', None, 0),
        ({"name": "json_schema", "params": {"allow_code_fence": False}}, "```\n1\n```", None, 0),
        ({"name": "json_schema", "params": {"schema": {"uniqueItems": True}}}, "[1, true, 1.0]", None, 0),
        ({"name": "json_schema", "params": {"schema": {"uniqueItems": True}}}, "[1, true, [1], [true]]", None, 1),
        ("json_schema", "[" * 100_000, None, 0),
    ],
)
def test_a_scorer_says_what_its_name_says(spec: Any, text: str, expected: Any, value: float) -> None:
    score = score_of(spec, item(text, expected))
    assert (score.status, list(score.values.values())) == ("scored", [value])


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), expected=st.text(max_size=30) | st.integers() | st.lists(st.text(max_size=9)))
def test_no_text_makes_a_scorer_raise(text: str, expected: Any) -> None:
    for scorer in ALL:
        [score] = scorer.score([item(text, expected, choices=("x", text))])
        assert set(score.values) == {metric.name for metric in scorer.metrics}
        assert (score.status == "scored") == (score.error is None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.none() | st.text(max_size=20)), max_size=6))
def test_a_batch_scores_as_its_items_do_one_by_one(pairs: list[tuple[str, str | None]]) -> None:
    batch = [item(text, expected) for text, expected in pairs]
    for scorer in ALL:
        assert scorer.score(batch) == [score for each in batch for score in scorer.score([each])]


@pytest.mark.parametrize("name", BUILTIN)
def test_a_runaway_completion_costs_one_item_an_error(name: str) -> None:
    [scorer] = build_scorers([name])
    good = item("1", "1", choices=("1", "2"))
    start = time.monotonic()
    scores = scorer.score([good, item("word " * 2_000_000, "1", choices=("1", "2")), good])
    assert time.monotonic() - start < 5
    assert [score.status for score in scores] == ["scored", "scorer_failed", "scored"]
    assert "max_chars" in str(scores[1].error)


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        ({"name": "regex_match", "params": {"pattern": CATASTROPHE, "timeout": 0.1}}, "a" * 60 + "!", None),
        ({"name": "regex_match", "params": {"timeout": 0.1}}, "a" * 60 + "!", CATASTROPHE),
        (
            {"name": "json_schema", "params": {"schema": {"pattern": CATASTROPHE}, "timeout": 0.1}},
            '"' + "a" * 60 + '!"',
            None,
        ),
        (
            {
                "name": "json_schema",
                "params": {
                    "timeout": 0.1,
                    "schema": {"$ref": "#/$defs/40"}
                    | {
                        "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i - 1}"}] * 2} for i in range(1, 41)}
                        | {"0": {}}
                    },
                },
            },
            "1",
            None,
        ),
        (
            {"name": "ter", "params": {"timeout": 0.1}},
            " ".join(str(i * 7 % 30) for i in range(900)),
            " ".join(str(i * 11 % 30) for i in range(900)),
        ),
        ({"name": "rouge", "params": {"types": ["rougeLsum"]}}, "ab " * 5_000, "ab " * 5_000),
    ],
)
def test_work_without_end_costs_one_item_an_error(spec: Any, text: str, expected: Any) -> None:
    start = time.monotonic()
    score = score_of(spec, item(text, expected))
    assert time.monotonic() - start < 5
    assert score.status == "scorer_failed"


def test_without_a_completion_the_model_failed() -> None:
    error = ItemError("timeout", "no answer within 60 s", retryable=True)
    score = score_of("exact_match", Extraction().item(TestCase(0, "", expected_output="x"), Completion(error=error)))
    assert (score.status, score.values, score.error) == (
        "model_failed",
        {"exact_match": None},
        "timeout: no answer within 60 s",
    )


@pytest.mark.parametrize("name", sorted(set(BUILTIN) - {"json_schema"}))
def test_without_an_expected_output_the_scorer_failed(name: str) -> None:
    score = score_of(name, item("x"))
    assert (score.status, score.error) == ("scorer_failed", "the test case has no expected_output")


def test_one_scorer_can_be_used_with_several_parameters() -> None:
    scorers = build_scorers(["numeric_match", {"name": "numeric_match", "params": {"rel_tol": 0.1}, "as": "loose"}])
    assert [(s.key, s.metrics[0].name) for s in scorers] == [
        ("numeric_match", "numeric_match"),
        ("loose", "loose_numeric_match"),
    ]
    assert scorers[1].score([item("10.5", 10)])[0].values == {"loose_numeric_match": 1.0}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["bleurt"], "scorers[0].name: 'bleurt' is not valid: one of: exact_match, includes"),
        ([{"name": "rouge", "params": {"stem": 1}}], "scorers[0].params.stem: 1 is not valid: the parameters are"),
        ([{"name": "numeric_match", "params": {"rel_tol": -1}}], "scorers[0].params.rel_tol: -1 is not valid: greater"),
        ([{"name": "regex_match", "params": {"pattern": "("}}], "scorers[0].params.pattern: '(' is not valid"),
        ([{"name": "json_schema", "params": {"schema": {"type": 1}}}], "scorers[0].params.schema"),
        ([{"name": "bleu", "paramz": {}}], "scorers[0].paramz: {} is not valid: the keys are name, params and as"),
        ([{"name": "bleu", "as": "1 2"}], "scorers[0].as: '1 2' is not valid"),
        (["bleu", "bleu"], "scorers[1]: 'bleu' is not valid"),
        ([], "scorers: [] is not valid: a list of at least one scorer"),
        ("bleu", "scorers: 'bleu' is not valid: a list"),
    ],
)
def test_a_bad_specification_is_refused_by_field_value_and_what_is_accepted(specs: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        build_scorers(specs)
    assert refusal.value.message.startswith(message)
    assert "\n" not in refusal.value.message


class Shouting(Scorer[ScorerParameters]):
    """A third party's scorer, that fails on "?" and gives nonsense on "!"."""

    name = "shouting"
    Parameters = ScorerParameters
    declared = (Metric("shouting", "continuous"),)

    def score_item(self, item: Item) -> Score:
        if item.text == "?":
            raise KeyError("?")
        return scored({"shouting": float("nan") if item.text == "!" else float(item.text.isupper())})


def plug_in(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, "evalservice.scorers") for name, value in points]
    monkeypatch.setattr("evalservice.scoring.registry.entry_points", lambda group: found)


def test_another_packages_scorer_is_used_by_name_and_its_errors_stay_with_the_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plug_in(monkeypatch, ("shouting", f"{__name__}:Shouting"), ("bleu", "nowhere:Bleu"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: Shouting)
    assert "shouting" in scorer_names()
    shouting, bleu = build_scorers(["shouting", "bleu"])
    scores = shouting.score([item("HEY"), item("?"), item("!"), item("hey")])
    assert [score.values["shouting"] for score in scores] == [1.0, None, None, 0.0]
    assert "KeyError" in str(scores[1].error)
    assert "shouting is nan" in str(scores[2].error)
    assert type(bleu).__module__ == "evalservice.scoring.corpus"


def test_a_broken_plug_in_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, ("broken", "no_such_module:Thing"), ("thing", "json:JSONDecoder"))
    with pytest.raises(InvalidInput, match=r"'broken'.*no_such_module:Thing.*does not load: ModuleNotFoundError"):
        build_scorers(["broken"])
    with pytest.raises(InvalidInput, match=r"'thing'.*no subclass of Scorer"):
        build_scorers(["thing"])


def test_scorers_and_their_metrics_travel_to_workers() -> None:
    for scorer in ALL:
        copy = pickle.loads(pickle.dumps(scorer))
        given = item("1 cat", "1 cat", choices=("1 cat", "b"))
        assert copy.score([given]) == scorer.score([given])
        assert copy.version == scorer.version


def test_stored_scores_come_back_as_they_were() -> None:
    scores = {scorer.key: over_samples(scorer.score([item("a 1", "a 1"), item("b", "a 1")])) for scorer in ALL}
    scores["bad"] = over_samples([Score("scorer_failed", {"bad": None}, error="why")])
    assert from_details(score_details(scores)) == scores
    assert item_metrics(scores)["exact_match"] == 0.5
    assert item_metrics(scores)["bad"] is None


def test_failed_samples_are_missing_from_the_mean_and_not_zeros() -> None:
    good, failed = Score("scored", {"m": 1.0}, {"m": (1, 2)}), Score("model_failed", {"m": None}, error="timeout")
    assert over_samples([good, failed, good]).values == {"m": 1.0}
    assert over_samples([good, failed, good]).statistics == {"m": (2, 4)}
    assert over_samples([failed, failed]).status == "model_failed"

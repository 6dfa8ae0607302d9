"""BLEU, chrF, TER, ROUGE and token F1 give what sacrebleu, rouge-score and SQuAD's script give."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from evalservice.records import TestCase
from evalservice.scoring import Item, build_scorers

GIVEN = ["A cat sat on the mat.", "Two dogs ran in the park.", "", "It rained & snowed.", "a b"]
WANTED = [
    ["The cat sat on the mat.", "There was a cat on the mat."],
    ["Two dogs were running in the park.", "A pair of dogs ran through the park."],
    ["Nothing was said.", "No word."],
    ["It rained &amp; snowed.", "Rain and snow."],
    ["b a", "a b c d"],
]
VOCABULARY = ["the", "cat", "sat", "on", "a", "mat", ".", ",", "dog's", "Running"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def items(given: list[str], wanted: list[Any]) -> list[Item]:
    pairs = enumerate(zip(given, wanted, strict=True))
    return [Item(TestCase(i, "", expected_output=w), g) for i, (g, w) in pairs]


def corpus_value(name: str, given: list[str], wanted: list[Any], **params: Any) -> float:
    [scorer] = build_scorers([{"name": name, "params": params}])
    [metric] = scorer.metrics
    scores = scorer.score(items(given, wanted))
    assert {score.error for score in scores} == {None}
    assert metric.aggregate is not None
    value = metric.aggregate([sum(parts) for parts in zip(*(s.statistics[metric.name] for s in scores), strict=True)])
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("name", "kind", "params"),
    [
        ("bleu", BLEU, {}),
        ("bleu", BLEU, {"tokenize": "char", "lowercase": True}),
        ("bleu", BLEU, {"smooth_method": "add-k", "max_ngram_order": 2}),
        ("chrf", CHRF, {}),
        ("chrf", CHRF, {"word_order": 2}),
        ("ter", TER, {}),
        ("ter", TER, {"normalized": True, "case_sensitive": True}),
    ],
)
def test_the_corpus_value_from_summed_statistics_is_sacrebleus(name: str, kind: Any, params: dict[str, Any]) -> None:
    theirs = kind(**params).corpus_score(GIVEN, list(zip(*WANTED, strict=True))).score
    assert corpus_value(name, GIVEN, WANTED, **params) == pytest.approx(theirs, abs=1e-9)


def test_the_value_of_an_item_is_sacrebleus_sentence_score() -> None:
    theirs = {
        "bleu": [sacrebleu.sentence_bleu(g, w).score for g, w in zip(GIVEN, WANTED, strict=True)],
        "chrf": [sacrebleu.sentence_chrf(g, w).score for g, w in zip(GIVEN, WANTED, strict=True)],
        "ter": [sacrebleu.sentence_ter(g, w).score for g, w in zip(GIVEN, WANTED, strict=True)],
    }
    for scorer in build_scorers(list(theirs)):
        ours = [score.values[scorer.name] for score in scorer.score(items(GIVEN, list(WANTED)))]
        assert ours == pytest.approx(theirs[scorer.name], abs=1e-9)


@given(given=WORDS, wanted=WORDS)
def test_ter_is_sacrebleus_for_any_words(given: str, wanted: str) -> None:
    assert corpus_value("ter", [given], [wanted]) == pytest.approx(TER().corpus_score([given], [[wanted]]).score)


@given(given=WORDS, wanted=st.lists(WORDS, min_size=1, max_size=3), stemmer=st.booleans(), newline=st.booleans())
def test_rouge_is_rouge_scores_for_any_words(given: str, wanted: list[str], stemmer: bool, newline: bool) -> None:
    if newline:
        given, wanted = given.replace(".", "\n"), [w.replace(".", "\n") for w in wanted]
    [scorer] = build_scorers([{"name": "rouge", "params": {"stemmer": stemmer}}])
    [score] = scorer.score(items([given], [wanted]))
    theirs = RougeScorer(TYPES, use_stemmer=stemmer).score_multi(wanted, given)
    assert dict(score.values) == pytest.approx({name: theirs[name].fmeasure for name in TYPES}, abs=1e-9)


def test_rouge_lsum_finds_sentences_at_full_stops_when_asked_to() -> None:
    given, wanted = "The gunman was seen. Police came.", "Police came. The gunman was seen."
    by_line, split = build_scorers(["rouge", {"name": "rouge", "params": {"sentences": "split"}, "as": "s"}])
    assert by_line.score(items([given], [wanted]))[0].values["rougeLsum"] < 1.0
    assert split.score(items([given], [wanted]))[0].values["s_rougeLsum"] == 1.0


def test_different_settings_have_different_versions() -> None:
    specs = [{"name": "rouge", "as": "a"}, {"name": "rouge", "as": "b", "params": {"stemmer": True}}]
    first, second = build_scorers(specs)
    assert first.version != second.version
    assert "case:mixed|eff:no|tok:13a|smooth:exp|version:2" in build_scorers(["bleu"])[0].version


@pytest.mark.parametrize(
    ("given", "wanted", "f1", "exact"),
    [
        ("The Eiffel Tower", ["Eiffel Tower", "the Eiffel tower, Paris"], 1, 1),
        ("in 1889", {"text": ["1889"], "answer_start": [3]}, 2 / 3, 0),
        ("U.S.A.", "USA", 1, 1),
        ("blue blue red", "blue red red", 2 / 3, 0),
        ("the", "a", 0, 1),
    ],
)
def test_token_f1_follows_squads_script(given: str, wanted: Any, f1: float, exact: float) -> None:
    [scorer] = build_scorers(["token_f1"])
    [score] = scorer.score(items([given], [wanted]))
    assert dict(score.values) == pytest.approx({"token_f1": f1, "token_em": exact})


@pytest.mark.data
def test_the_reference_cases_of_text_metrics_hold() -> None:
    if not os.environ.get("EVALSERVICE_TEST_DATA"):
        pytest.skip("EVALSERVICE_TEST_DATA is not set")
    path = Path(os.environ["EVALSERVICE_TEST_DATA"], "statistics", "reference_cases.json")
    cases = {case["id"]: case for case in json.loads(path.read_text())}
    corpus = cases["T7-corpus-bleu"]["input"]
    for name, case, params in [
        ("bleu", "T7-corpus-bleu", {}),
        ("chrf", "T7-corpus-chrf", {}),
        ("chrf", "T7-corpus-chrfpp", {"word_order": 2}),
        ("ter", "T7-corpus-ter", {}),
    ]:
        for system in "AB":
            value = corpus_value(name, corpus[system], corpus["references"], **params)
            assert value == pytest.approx(cases[case]["expected"][system]["score"], abs=1e-6)
    multi = cases["T7-corpus-multiref"]
    wanted = [list(refs) for refs in zip(*multi["input"]["references_by_set"], strict=True)]
    for name in ("bleu", "chrf", "ter"):
        value = corpus_value(name, multi["input"]["hypotheses"], wanted)
        assert value == pytest.approx(multi["expected"][name], abs=1e-6)
    [bleu, token_f1] = build_scorers(["bleu", "token_f1"])
    for system in "AB":
        ours = [score.values["bleu"] for score in bleu.score(items(corpus[system], corpus["references"]))]
        assert ours == pytest.approx(cases["T7-sentence-bleu"]["expected"][system], abs=1e-6)
    squad = cases["T7-squad"]
    asked = squad["input"]["items"]
    scores = token_f1.score(items([i["prediction"] for i in asked], [i["references"] for i in asked]))
    assert [s.values["token_f1"] for s in scores] == pytest.approx(squad["expected"]["f1"])
    assert [s.values["token_em"] for s in scores] == squad["expected"]["exact_match"]
    rouge = cases["T7-rouge"]
    for name, stemmer in [("no_stemmer", False), ("stemmer", True)]:
        [scorer] = build_scorers([{"name": "rouge", "params": {"stemmer": stemmer}}])
        pairs = rouge["input"]["pairs"]
        scores = scorer.score(items([p["prediction"] for p in pairs], [p["reference"] for p in pairs]))
        for score, expected in zip(scores, rouge["expected"]["scores"], strict=True):
            assert dict(score.values) == pytest.approx({t: expected[name][t]["f"] for t in TYPES}, abs=1e-9)

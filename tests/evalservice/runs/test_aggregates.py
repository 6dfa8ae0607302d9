"""A run's metrics: the right interval for the data, failures that are missing and not zeros, numbers fit for JSON."""

import json
import tracemalloc
from collections.abc import Sequence

import pytest
import sacrebleu

from evalservice.records import Score, TestCase
from evalservice.runs.aggregates import Aggregator
from evalservice.scoring import Item, Metric, build_scorers, from_details, over_samples, score_details
from evalservice.statistics.intervals import clustered_mean_interval, mean_interval, proportion_interval


def ratio(total: Sequence[float]) -> float | None:
    return total[0] / total[1] if total[1] else None


HIT, LENGTH, CORPUS = Metric("hit", "binary"), Metric("length", "continuous"), Metric("c", "corpus", aggregate=ratio)
MISSING = Score("scorer_failed", {"hit": None}, error="too long")


def hit(value: float) -> Score:
    return Score("scored", {"hit": value})


def result_of(metric: Metric, rows: list[tuple[str | None, bool, Score | None]]) -> dict[str, object]:
    totals = Aggregator({"s": [metric]}, seed=1)
    totals.add_all((cluster, success, {"s": score} if score else {}) for cluster, success, score in rows)
    return totals.results()[metric.name]


def test_a_binary_metric_has_wilsons_interval() -> None:
    got, want = result_of(HIT, [(None, True, hit(x)) for x in (1, 1, 0, 1)]), proportion_interval(3, 4)
    assert got == {
        "value": want.value, "stderr": want.stderr, "ci_low": want.low, "ci_high": want.high,
        "n": 4, "coverage": 1.0, "interval": "wilson", "level": 0.95, "total": 4,
    }  # fmt: skip


def test_failures_lower_the_coverage_and_not_the_value() -> None:
    rows = [
        (None, True, hit(1)),
        (None, True, MISSING),
        (None, False, None),
        (None, False, hit(0)),
        (None, True, hit(1)),
    ]
    got = result_of(HIT, rows)
    assert (got["value"], got["n"], got["coverage"], got["total"]) == (1.0, 2, 0.4, 5)


def test_a_continuous_metric_has_the_t_interval() -> None:
    got = result_of(LENGTH, [(None, True, Score("scored", {"length": x})) for x in (1.0, 2.0, 4.0)])
    assert (got["interval"], got["ci_low"]) == ("t", mean_interval([1, 2, 4]).low)


def test_clusters_of_two_items_or_more_override_the_kind() -> None:
    rows = [("a", True, hit(1)), ("a", True, hit(1)), ("b", True, hit(0)), (None, True, hit(1)), (None, True, hit(0))]
    got, want = result_of(HIT, rows), clustered_mean_interval([1, 1, 0, 1, 0], [0, 0, 1, 2, 3])
    assert (got["interval"], got["clusters"], got["stderr"]) == ("clustered_t", 4, pytest.approx(want.stderr))


def test_clusters_of_one_item_each_are_none() -> None:
    assert result_of(HIT, [(str(i), True, hit(i % 2)) for i in range(6)])["interval"] == "wilson"


def test_several_samples_an_item_make_a_binary_metric_continuous() -> None:
    halves = [over_samples([hit(1), hit(x), MISSING]) for x in (0, 1, 0)]
    totals = Aggregator({"s": [HIT]})
    totals.add_all((None, True, {"s": score}) for score in halves)
    got = totals.results()["hit"]
    assert (got["interval"], got["value"], got["n"]) == ("t", pytest.approx(2 / 3), 3)
    assert got["coverage"] == pytest.approx(2 / 3)


def test_a_corpus_metric_is_computed_from_summed_statistics() -> None:
    given = ["The cat sat on the mat today.", "Two dogs ran in the park.", "It rained for three days."]
    wanted = ["A cat sat on the mat.", "Two dogs ran in the park.", "It had rained for three days."]
    scorers = build_scorers(["bleu"])
    scores = scorers[0].score([Item(TestCase(0, "", expected_output=w), g) for g, w in zip(given, wanted, strict=True)])
    totals = Aggregator.of(scorers, seed=5)
    totals.add_all((None, True, {"bleu": score}) for score in scores)
    got = totals.results()["bleu"]
    assert got["value"] == pytest.approx(sacrebleu.corpus_bleu(given, [wanted]).score, abs=1e-9)
    assert got["interval"] == "bootstrap"
    assert got["ci_low"] < got["value"] < got["ci_high"]
    assert totals.results()["bleu"] == got


def test_epochs_add_their_statistics() -> None:
    sample = Score("scored", {"c": 0.5}, {"c": (1, 2)})
    totals = Aggregator({"s": [CORPUS]})
    totals.add(None, True, {"s": over_samples([sample, Score("scored", {"c": 1.0}, {"c": (2, 2)})])})
    totals.add(None, True, {"s": over_samples([sample, sample])})
    assert totals.results()["c"]["value"] == 5 / 8


@pytest.mark.parametrize("metric", [HIT, LENGTH, CORPUS])
@pytest.mark.parametrize("rows", [0, 1])
def test_what_is_undefined_is_null_and_the_rest_is_json(metric: Metric, rows: int) -> None:
    score = Score("scored", {metric.name: 1.0}, {metric.name: (1, 1)})
    got = result_of(metric, [(None, True, score)] * rows)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["stderr"] is None
    assert (got["value"] is None) == (rows == 0)


def test_stored_rows_give_what_fresh_ones_gave() -> None:
    scorers = build_scorers(["exact_match", "bleu", "rouge"])
    items = [Item(TestCase(0, "", expected_output="the cat sat on a mat"), f"the cat sat {i}") for i in range(9)]
    rows = [
        dict(zip((s.key for s in scorers), each, strict=True))
        for each in zip(*(s.score(items) for s in scorers), strict=True)
    ]
    fresh, stored = Aggregator.of(scorers), Aggregator.of(scorers)
    fresh.add_all((None, True, row) for row in rows)
    stored.add_all((None, True, from_details(json.loads(json.dumps(score_details(row))))) for row in rows)
    assert fresh.results() == stored.results()


def test_memory_is_a_few_numbers_an_item() -> None:
    totals, score = Aggregator({"s": [HIT]}), hit(1)
    tracemalloc.start()
    for i in range(50_000):
        totals.add(f"cluster {i}", True, {"s": score})
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50_000 * 24

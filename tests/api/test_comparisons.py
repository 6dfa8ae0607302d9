"""`/v1/comparisons`: runs of the same test cases, paired, tested, and told in plain words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.conftest import Served, a_model, created, unique
from tests.conftest import Cli

N = 400


class Bench:
    """Finished runs without a model being asked: their rows are written as a driver writes them."""

    def __init__(self, served: Served, client: httpx.Client) -> None:
        self.served, self.client = served, client

    def dataset(self, count: int = N) -> str:
        cases = [{"input": f"What is {i}?", "expected_output": str(i)} for i in range(count)]
        name: str = created(self.client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})["name"]
        return name

    def benchmark(self, dataset: str, scorers: Sequence[Any] = ("exact_match",), **criteria: Any) -> str:
        body = {
            "name": unique("b"),
            "dataset": dataset,
            "category": "qa",
            "evaluation_criteria": {"scorers": list(scorers), **criteria},
        }
        name: str = created(self.client, "/v1/benchmarks", body)["name"]
        return name

    def run(
        self,
        benchmark: str,
        values: Sequence[float | None],
        metric: str = "exact_match",
        clusters: Sequence[str | None] | None = None,
        statistics: Sequence[Sequence[float]] | None = None,
        status: str = "completed",
        model: str | None = None,
    ) -> str:
        """A run with these values, None where the model gave no answer."""
        model = model or a_model(self.client)["name"]
        run = created(self.client, "/v1/evaluation-runs", {"model": model, "benchmark": benchmark})
        organization = str(self.served.mine.organization)
        with psycopg.connect(self.served.database) as connection:
            for index, value in enumerate(values):
                parts = {} if statistics is None else {"statistics": {metric: list(statistics[index])}}
                details = {"scores": {metric: {"status": "scored", "values": {metric: value}, **parts}}}
                connection.execute(
                    "INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, success, "
                    "cluster, metrics, score_details, input_data, actual_output) "
                    "VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, '{}', 'null')",
                    (
                        organization,
                        run["id"],
                        index,
                        value is not None,
                        clusters[index] if clusters else None,
                        json.dumps({metric: value}),
                        json.dumps(details),
                    ),
                )
            connection.execute("UPDATE evaluation_runs SET status = %s WHERE id = %s", (status, run["id"]))
        run_id: str = run["id"]
        return run_id

    def compared(self, *runs: str, **query: Any) -> dict[str, Any]:
        answer = self.client.get("/v1/comparisons", params={"run": list(runs), **query})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def refused(self, *runs: str, **query: Any) -> tuple[int, str]:
        answer = self.client.get("/v1/comparisons", params={"run": list(runs), **query})
        return answer.status_code, answer.json()["detail"]


@pytest.fixture
def bench(served: Served, owner: httpx.Client) -> Bench:
    return Bench(served, owner)


def right(share: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(N)]


def test_the_better_of_two_wins_and_the_gate_is_the_first_ones(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset())
    good, bad = bench.run(benchmark, right(0.9, 1)), bench.run(benchmark, right(0.6, 2))
    document = bench.compared(good, bad)
    metric = document["metrics"]["exact_match"]
    [pair] = metric["pairs"]
    assert (metric["verdict"], metric["winner"], document["gate"]) == ("winner", good, "go")
    assert (pair["test"], pair["interval"], pair["effect"]) == ("mcnemar_exact", "tango", "cohens_g")
    assert pair["p_value"] < 1e-6
    assert 0 < pair["ci_low"] < pair["difference"] < pair["ci_high"]
    assert pair["wins_a"] + pair["ties"] + pair["wins_b"] == N
    assert metric["runs"][good]["value"] - metric["runs"][bad]["value"] == pytest.approx(pair["difference"])
    models = [metric["runs"][run]["model"] for run in (good, bad)]
    assert metric["said"].startswith(f"{models[0]} is better than {models[1]}: ")
    assert bench.compared(bad, good)["gate"] == "no_go"


def test_too_few_test_cases_say_how_many_more_are_needed_and_a_margin_makes_equivalence(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset())
    values = right(0.8, 3)
    other = [1 - v if i % 100 == 0 else v for i, v in enumerate(values)]
    one, two = bench.run(benchmark, values), bench.run(benchmark, other)
    document = bench.compared(one, two)
    assert document["gate"] == "inconclusive"
    assert "more items to tell" in document["metrics"]["exact_match"]["said"]
    within = bench.compared(one, two, margin=0.05)
    assert (within["metrics"]["exact_match"]["verdict"], within["gate"]) == ("equivalent", "go")


def test_three_runs_are_corrected_for_one_another(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset())
    runs = [bench.run(benchmark, right(share, seed)) for share, seed in ((0.5, 4), (0.95, 5), (0.55, 6))]
    metric = bench.compared(*runs)["metrics"]["exact_match"]
    assert metric["winner"] == runs[1]
    assert [metric["runs"][run]["rank"] for run in runs][1] == 1
    own = [pair["p_value"] for pair in metric["pairs"]]
    smallest, second, largest = sorted(range(3), key=own.__getitem__)
    corrected = [pair["p_corrected"] for pair in metric["pairs"]]
    assert corrected[smallest] == pytest.approx(3 * own[smallest])  # Holm (1979)
    assert corrected[second] == pytest.approx(max(2 * own[second], corrected[smallest]))
    assert corrected[largest] == pytest.approx(max(own[largest], corrected[second]))
    assert metric["overall"]["test"] == "cochrans_q"


def test_items_that_depend_on_each_other_are_compared_by_clusters(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset())
    clusters = [f"passage {i // 10}" for i in range(N)]
    values = right(0.7, 7)
    by_passage = [float((i // 10) % 3 != 0) for i in range(N)]
    document = bench.compared(bench.run(benchmark, values, clusters=clusters), bench.run(benchmark, by_passage))
    [pair] = document["metrics"]["exact_match"]["pairs"]
    assert document["clustered"]
    assert (pair["test"], pair["interval"]) == ("clustered_t", "clustered_t")
    assert pair["also"]["clusters"] == N / 10
    assert pair["also"]["design_effect"] > 2


def test_corpus_metrics_are_compared_on_their_statistics(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset(60), ["bleu"])
    rng = random.Random(8)

    def statistics(good: float) -> list[list[float]]:
        rows = []
        for _ in range(60):
            correct = [sum(rng.random() < good for _ in range(9 - n)) for n in range(4)]
            rows.append([*map(float, correct), 9.0, 8.0, 7.0, 6.0, 9.0, 9.0])
        return rows

    better, worse = (bench.run(benchmark, [50.0] * 60, "bleu", statistics=statistics(good)) for good in (0.9, 0.5))
    metric = bench.compared(better, worse)["metrics"]["bleu"]
    [pair] = metric["pairs"]
    assert (pair["test"], metric["winner"]) == ("approximate_randomisation", better)
    assert pair["ci_low"] > 0


def test_what_cannot_be_compared_is_refused_with_the_reason(bench: Bench) -> None:
    dataset = bench.dataset()
    benchmark, other = bench.benchmark(dataset), bench.benchmark(bench.dataset(N + 1))
    scored_otherwise = bench.benchmark(dataset, [{"name": "exact_match", "params": {"ignore_case": True}}])
    values = right(0.8, 9)
    run = bench.run(benchmark, values)
    assert bench.refused(run) == (422, "run: List should have at least 2 items after validation, not 1")
    assert "each run once" in bench.refused(run, run)[1]
    assert "measured different data" in bench.refused(run, bench.run(other, values))[1]
    assert "is running" in bench.refused(run, bench.run(benchmark, values, status="running"))[1]
    assert "different versions" in bench.refused(run, bench.run(scored_otherwise, values))[1]
    assert "has none of that name" in bench.refused(run, bench.run(benchmark, values), metric="bleu")[1]
    gaps = [None if i % 20 == 0 else v for i, v in enumerate(values)]
    assert "scores for 95.0%" in bench.refused(run, bench.run(benchmark, gaps))[1]
    assert "apart" in bench.refused(run, bench.run(benchmark, gaps), min_coverage=0.9)[1]
    assert bench.refused(run, bench.run(benchmark, values), alpha=2)[0] == 422
    assert "does not exist" in bench.refused(run, "0" * 36)[1]


def test_a_metric_of_different_scorer_versions_is_left_out_and_said_so(bench: Bench) -> None:
    dataset, values = bench.dataset(), right(0.8, 3)
    scorers = [["exact_match", {"name": "numeric_match", "params": {"abs_tol": tolerance}}] for tolerance in (0, 1)]
    runs = [bench.run(bench.benchmark(dataset, each), values) for each in scorers]
    document = bench.compared(*runs)
    assert set(document["metrics"]) == {"exact_match"}
    assert "numeric_match is not compared: the runs were scored by different versions" in document["warnings"]


def test_the_command_line_shows_it_and_its_exit_code_is_the_gate(
    bench: Bench, served: Served, evalservice_home: Path
) -> None:
    benchmark = bench.benchmark(bench.dataset())
    good, bad = bench.run(benchmark, right(0.9, 1)), bench.run(benchmark, right(0.6, 2))
    environment = {"EVALSERVICE_URL": served.url, "EVALSERVICE_API_KEY": served.mine.keys["viewer"]}
    cli = Cli(evalservice_home, environment)
    model = bench.client.get(f"/v1/evaluation-runs/{good}").json()["model"]
    bench.run(benchmark, right(0.9, 4), model=model)
    shown = cli("compare", good, bad, "--gate")
    assert "was measured again once: the value moved by" in shown.out
    assert (shown.code, "is better than" in shown.out, "gate (exact_match): go" in shown.out) == (0, True, True)
    found = cli("compare", bad, good, "--gate", "--json", "--metric", "exact_match")
    assert (found.code, found.json()["metrics"]["exact_match"]["winner"]) == (1, good)
    refused = cli("compare", good, "--gate")
    assert (refused.code, "at least 2" in refused.err) == (2, True)


def test_anothers_run_does_not_exist(bench: Bench, served: Served) -> None:
    benchmark = bench.benchmark(bench.dataset())
    runs = [bench.run(benchmark, right(0.8, seed)) for seed in (1, 2)]
    with served.client(served.theirs) as them:
        assert them.get("/v1/comparisons", params={"run": runs}).status_code == 404


def test_a_configuration_measured_again_shows_its_noise_beside_the_difference(bench: Bench) -> None:
    benchmark = bench.benchmark(bench.dataset())
    model, rival = (a_model(bench.client)["name"] for _ in range(2))
    first, second = right(0.8, 1), right(0.8, 1)
    second[:40] = [1.0 - value for value in second[:40]]  # a tenth of the test cases scored differently
    run = bench.run(benchmark, first, model=model)
    bench.run(benchmark, second, model=model)
    other = bench.run(benchmark, right(0.7, 3), model=rival)
    metric = bench.compared(run, other)["metrics"]["exact_match"]
    retest = metric["runs"][run]["retest"]
    assert (retest["repeats"], retest["changed"]) == (1, pytest.approx(0.1))
    assert retest["stderr"] == pytest.approx(abs(sum(first) - sum(second)) / N / 2**0.5)
    assert metric["runs"][other]["retest"] is None
    assert metric["pairs"][0]["retest_stderr"] is None  # of the other's nothing is known
    bench.run(benchmark, right(0.7, 3), model=rival)
    [pair] = bench.compared(run, other)["metrics"]["exact_match"]["pairs"]
    assert pair["retest_stderr"] == pytest.approx(retest["stderr"])

"""The statistics of a comparison against scipy's and sacrebleu's own, on the same data and equal results.

    python -m tests.perf.comparing [--items 10000] [--resamples 10000] [--stored 100000]

Goals: paired permutation 10 times scipy.stats.permutation_test, paired bootstrap 3 times scipy.stats.bootstrap for
continuous metrics and 20 times for binary ones, BLEU's paired bootstrap at least as fast as sacrebleu's own. A
sequential A/B test planned for a power of 90 % uses at most 0.65 of the fixed design's test cases in the median, and is
decided by 1.4 times of it in at least 85 %. Two stored runs are compared, by the side of a bare query that reads the
same columns of the same rows once.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from evalservice.comparisons.comparing import Asked, compare_runs
from evalservice.comparisons.race import Race, Terms
from evalservice.database import driver_connection, make_engine, tenant_transaction
from evalservice.scoring import build_scorers
from evalservice.statistics.corpus import bootstrap_corpus_difference
from evalservice.statistics.paired import bootstrap_differences, sign_flips_of_many
from evalservice.statistics.power import items_for_pairs
from evalservice.statistics.sequential import planned_prior
from evalservice.tables import DEFAULT_ORGANIZATION_ID, EvaluationRun
from tests.perf.bench import Bench, bench, server, table

METRICS = 5

STORED_ROWS = """
    INSERT INTO evaluation_results (id, organization_id, evaluation_run_id, test_case_index, success, input_data,
                                    actual_output, metrics, score_details, latency_ms, tokens_used)
    SELECT gen_random_uuid(), %s, %s, n, true, to_jsonb(repeat('What is asked ', 20) || n),
           to_jsonb(repeat('What is answered ', 20) || n),
           jsonb_build_object('numeric_match', (random() < %s)::int::float), '{}', 200, 76
    FROM generate_series(0, %s - 1) AS n
"""
BARE = """
    SELECT test_case_index, cluster, (metrics ->> 'numeric_match')::float FROM evaluation_results
    WHERE evaluation_run_id = %s AND success
"""


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def permutation(columns: np.ndarray, draws: int) -> list[str]:
    """Sign flips of all metrics at once against scipy's, metric by metric."""
    ours, found = timed(lambda: sign_flips_of_many(columns, draws=draws, seed=1))

    def theirs() -> list[float]:
        return [
            stats.permutation_test(
                (column,), np.sum, permutation_type="samples", n_resamples=draws, vectorized=True, batch=500, rng=1
            ).pvalue
            for column in columns.T
        ]

    seconds, p_values = timed(theirs)
    furthest = max(abs(ours.p_value - p) for ours, p in zip(found, p_values, strict=True))
    assert furthest < 5 / draws**0.5, furthest  # other draws of the same distribution, and theirs doubles a tail
    return ["sign-flip permutation", f"{ours:.2f}", f"{seconds:.2f}", f"{seconds / ours:.1f}", "10"]


def bootstrap(name: str, columns: np.ndarray, resamples: int, goal: str) -> list[str]:
    """Percentile intervals of all metrics against scipy's, metric by metric."""
    ours, found = timed(lambda: bootstrap_differences(columns, resamples=resamples, seed=1))

    def theirs() -> list[tuple[float, float]]:
        return [
            tuple(
                stats.bootstrap(
                    (column,), np.mean, n_resamples=resamples, method="percentile", batch=500, rng=1
                ).confidence_interval
            )
            for column in columns.T
        ]

    seconds, intervals = timed(theirs)
    for (low, high), other in zip(found, intervals, strict=True):
        assert max(abs(low - other[0]), abs(high - other[1])) < 0.1 * (high - low)
    return [f"paired bootstrap, {name}", f"{ours:.2f}", f"{seconds:.2f}", f"{seconds / ours:.1f}", goal]


def bleu(segments: int, resamples: int) -> list[str]:
    """BLEU's paired bootstrap over stored statistics against sacrebleu's over its own."""
    rng = np.random.default_rng(2)
    words = [f"w{i}" for i in range(500)]
    references = [" ".join(rng.choice(words, 20)) for _ in range(segments)]

    def system(wrong: float) -> list[str]:
        return [" ".join(w if rng.random() > wrong else rng.choice(words) for w in line.split()) for line in references]

    first, second = system(0.2), system(0.25)
    [scorer] = build_scorers(["bleu"])
    [metric] = scorer.metrics
    assert metric.aggregate is not None
    kept = [
        np.array([score.statistics["bleu"] for score in scorer.score(_items(lines, references))])
        for lines in (first, second)
    ]
    aggregate = metric.aggregate
    ours, [interval] = timed(
        lambda: bootstrap_corpus_difference(kept[0], kept[1], aggregate, resamples=resamples, seed=1)
    )
    test = PairedTest(
        [("a", first), ("b", second)], {"BLEU": BLEU(references=[references])}, None, "bs", n_samples=resamples
    )
    seconds, (_, results) = timed(test)
    own = [result.score for result in results["BLEU"]]
    assert abs(interval.value - (own[0] - own[1])) < 1e-6
    return ["BLEU's paired bootstrap", f"{ours:.2f}", f"{seconds:.2f}", f"{seconds / ours:.1f}", "1"]


def races(count: int) -> list[str]:
    """A/B tests at a true difference of 5 points and a discordance of 0.25, looked at every 25 test cases."""
    rng, fixed = np.random.default_rng(3), items_for_pairs(0.05, 0.25, power=0.9)
    terms = Terms(alpha=0.05, binary=True, prior=planned_prior(0.05, 0.25))
    used = []
    seconds = 0.0
    for _ in range(count):
        differences = rng.choice([-1.0, 0.0, 1.0], size=math.ceil(1.4 * fixed), p=[0.10, 0.75, 0.15])
        race, values = Race.begin(["a", "b"], terms), {"a": differences.clip(0), "b": -differences.clip(None, 0)}
        started = time.perf_counter()
        while race.position < len(differences) and not race.standing().verdict:
            part = slice(race.position, race.position + 25)
            race.take({model: own[part] for model, own in values.items()})
        seconds += time.perf_counter() - started
        used.append(race.position if race.standing().verdict else math.inf)
    shares = np.sort(used) / fixed
    taken = sum(min(each, 1.4 * fixed) for each in used)
    ninth = f"{shares[math.ceil(0.9 * count) - 1]:.2f}"
    decided = f"{np.isfinite(shares).mean():.0%}"
    return [f"{count}", f"{np.median(shares):.2f}", ninth, decided, f"{seconds / taken * 1e6:.0f}"]


def _items(lines: list[str], references: list[str]) -> list[Any]:
    from evalservice.records import TestCase
    from evalservice.scoring import Item

    return [
        Item(TestCase(i, "", expected_output=r), text)
        for i, (text, r) in enumerate(zip(lines, references, strict=True))
    ]


def stored(count: int) -> None:
    """Two runs of `count` rows each, read and compared, against a bare read of the same columns."""
    with bench() as opened, server(0.0) as port:
        opened.sums("sums", 2)
        model = opened.model(port)
        runs = [opened.cli("run", "--model", model, "--benchmark", "sums")["id"] for _ in range(2)]
        for run, share in zip(runs, (0.80, 0.79), strict=True):
            _replace_rows(opened, run, share, count)
        engine = make_engine(opened.url)
        with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
            connection = driver_connection(session)
            bare, rows = timed(lambda: sum(len(connection.execute(BARE.encode(), (run,)).fetchall()) for run in runs))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with tenant_transaction(engine, DEFAULT_ORGANIZATION_ID) as session:
            found = [session.get_one(EvaluationRun, uuid.UUID(run)) for run in runs]
            ours, _ = timed(lambda: compare_runs(session, found, Asked()))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        engine.dispose()
    table(
        f"two stored runs of {count:,} test cases",
        ["what", "seconds", "rows per second", "ratio"],
        [
            ["the columns by a bare query", f"{bare:.2f}", f"{rows / bare:,.0f}", "1"],
            ["compared", f"{ours:.2f}", f"{rows / ours:,.0f}", f"{bare / ours:.2f}"],
            ["memory over the bare query's peak", f"{grown / 1024:.0f} MiB", "", ""],
        ],
    )


def _replace_rows(opened: Bench, run: str, share: float, count: int) -> None:
    with psycopg.connect(opened.url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM evaluation_results WHERE evaluation_run_id = %s", (run,))
        connection.execute(STORED_ROWS.encode(), (DEFAULT_ORGANIZATION_ID, run, share, count))
        connection.execute("UPDATE evaluation_runs SET total_test_cases = %s WHERE id = %s", (count, run))
        connection.execute("VACUUM ANALYZE evaluation_results")


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--races", type=int, default=500)
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    continuous = rng.normal(0.02, 1, size=(given.items, METRICS))
    binary = rng.choice([1.0, -1.0, 0.0], p=[0.13, 0.12, 0.75], size=(given.items, METRICS))
    table(
        f"comparing 2 runs, {given.items:,} items, {METRICS} metrics, {given.resamples:,} resamples",
        ["what", "ours s", "peer s", "times as fast", "goal"],
        [
            permutation(continuous, given.resamples),
            bootstrap("continuous", continuous, given.resamples, "3"),
            bootstrap("binary", binary, given.resamples, "20"),
            bleu(2_000, 1_000),
        ],
    )
    table(
        "sequential A/B tests, difference 0.05, discordance 0.25, power 0.9, in fixed designs' test cases",
        ["tests", "median (goal 0.65)", "90th percentile", "decided by 1.4 (goal 85 %)", "µs a test case"],
        [races(given.races)],
    )
    stored(given.stored)


if __name__ == "__main__":
    main()

"""A run from the first request to the closed row, with a real Ray, a real Postgres and a real provider."""

from __future__ import annotations

import csv
import json
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sacrebleu
from statsmodels.stats.proportion import proportion_confint

from cluster.driver import Stop
from cluster.launch import rescore, run_claimed
from evalservice.errors import EvalserviceError, InvalidTransition, LeaseHeld, LeaseLost
from evalservice.interchange import export_chunks
from evalservice.interchange.exporting import exported_run
from evalservice.runs.lifecycle import (
    claim,
    claim_completed,
    close,
    lease_state,
    renew,
    reopen,
    request_cancel,
)
from evalservice.runs.results import store_results, store_scores, stream_results
from evalservice.runs.service import get_run, items_query
from evalservice.tables import RUN_STATUSES
from tests.provider import RunningProvider

INPUT_PRICE, OUTPUT_PRICE = Decimal("0.15"), Decimal("0.60")
SPECIAL = {
    17: "<<context_length>>",
    60: "<<peculiar_text>>",
    61: "<<html_500*1>>",
    62: "<<refusal>>",
    63: "<<length>>",
    64: "<<without_usage>>",
    65: "<<absurd_usage>>",
    118: "<<content_filter>>",
}
BROKEN = 200
TOTAL = 240


def sums(count: int, extra: str = "") -> list[dict[str, Any]]:
    """Test cases whose answers the provider calculates."""
    return [{"input": f"What is {n} + {7 * n}?{extra}", "expected_output": str(8 * n)} for n in range(count)]


@dataclass(frozen=True)
class Measured:
    """A run that has ended, and all that belongs to it."""

    bench: Any
    model: str
    benchmark: str
    run: Any
    rows: list[dict[str, Any]]
    sent: dict[str, int]


@pytest.fixture(scope="module")
def measured(bench: Any, _provider: RunningProvider) -> Measured:
    """240 sums, some wrong, some peculiar, two that the provider refuses and one whose prompt cannot be made."""
    _provider.reset()
    _provider.control(wrong=0.25, latency=0.01, jitter=1.0)
    records = sums(TOTAL)
    for index, directive in SPECIAL.items():
        records[index]["input"] += f" {directive}"
    for index, record in enumerate(records):
        record |= {"id": f"case-{index}", "metadata": {} if index == BROKEN else {"unit": {"name": "apples"}}}
    benchmark = bench.benchmark(
        records,
        ["numeric_match", "bleu"],
        prompt_template="{{ input }} Count in {{ metadata.unit.name }}.",
    )
    model = bench.model(_provider.url, input_price=INPUT_PRICE, output_price=OUTPUT_PRICE)
    run = bench.run(model, benchmark, max_concurrency=32)
    return Measured(bench, model, benchmark, run, bench.rows(run.id), _provider.sent(model))


def test_every_test_case_ends_as_exactly_one_row(measured: Measured) -> None:
    assert [row["test_case_index"] for row in measured.rows] == list(range(TOTAL))
    assert [row["test_case_id"] for row in measured.rows] == [f"case-{index}" for index in range(TOTAL)]
    assert (measured.run.status, measured.run.completed_test_cases, measured.run.failed_test_cases) == (
        "completed",
        TOTAL - 3,
        3,
    )
    assert measured.run.progress == 1.0


def test_every_prompt_is_asked_once_and_the_one_that_failed_for_a_moment_twice(measured: Measured) -> None:
    twice = [prompt for prompt, count in measured.sent.items() if count != 1]
    assert len(measured.sent) == TOTAL - 1
    assert len(twice) == 1
    assert "html_500" in twice[0]
    assert measured.rows[61]["completion_info"]["attempts"] == 2


def test_a_row_shows_the_prompt_the_expectation_the_answer_and_its_score(measured: Measured) -> None:
    row = measured.rows[3]
    prompt = "What is 3 + 21? Count in apples."
    assert row["input_data"] == {"messages": [{"role": "user", "content": prompt}]}
    assert row["expected_output"] == "24"
    assert row["actual_output"] in ("3 + 21 = 24", "3 + 21 = 25")
    assert row["metrics"]["numeric_match"] == float(row["actual_output"].endswith("24"))
    assert row["score_details"]["scores"]["numeric_match"]["status"] == "scored"
    assert row["completion_info"]["model"] == f"{measured.model}-2026-01-01"
    assert row["tokens_used"] == row["input_tokens"] + row["output_tokens"] == 13
    assert row["latency_ms"] > 0


@pytest.mark.parametrize(("index", "kind"), [(17, "context_length"), (118, "content_filter"), (BROKEN, "prompt_error")])
def test_what_failed_is_a_row_with_its_reason_and_no_score(measured: Measured, index: int, kind: str) -> None:
    row = measured.rows[index]
    assert (row["success"], row["error_kind"], row["is_retryable"]) == (False, kind, False)
    assert row["error_message"]
    assert row["metrics"] == {"numeric_match": None, "bleu": None}
    assert row["score_details"]["scores"]["numeric_match"]["status"] == "model_failed"


def test_peculiar_answers_are_kept_as_far_as_postgres_can_keep_them(measured: Measured) -> None:
    text = 'NUL \ufffd, emoji 🦆, 漢字, עברית, "quoted", \\N, a,b\r\nnew line\t'
    assert measured.rows[60]["actual_output"] == text
    assert measured.rows[62]["actual_output"] == "I can't help with that."
    assert measured.rows[62]["completion_info"]["refused"] is True
    assert measured.rows[63]["completion_info"]["finish_reason"] == "length"


def test_usage_that_is_missing_or_absurd_costs_the_count_not_the_run(measured: Measured) -> None:
    for index in (64, 65):
        row = measured.rows[index]
        assert (row["success"], row["input_tokens"], row["output_tokens"], row["cost"]) == (True, None, None, None)


def test_costs_are_exact_and_add_up(measured: Measured) -> None:
    costs = [row["cost"] for row in measured.rows if row["cost"] is not None]
    for row in measured.rows:
        if row["cost"] is not None:
            exact = (row["input_tokens"] * INPUT_PRICE + row["output_tokens"] * OUTPUT_PRICE) / 1_000_000
            assert row["cost"] == exact
    assert measured.run.total_cost == sum(costs)
    assert measured.run.total_tokens == sum(row["tokens_used"] or 0 for row in measured.rows)
    assert measured.run.input_tokens == sum(row["input_tokens"] or 0 for row in measured.rows)


def test_aggregates_equal_a_recomputation_and_show_their_coverage(measured: Measured) -> None:
    result = measured.run.aggregated_results["numeric_match"]
    values = [row["metrics"]["numeric_match"] for row in measured.rows if row["metrics"]["numeric_match"] is not None]
    low, high = proportion_confint(sum(values), len(values), method="wilson")
    assert result["value"] == pytest.approx(np.mean(values), abs=1e-12)
    assert (result["ci_low"], result["ci_high"]) == pytest.approx((low, high), abs=1e-9)
    assert (result["n"], result["total"]) == (len(values), TOTAL)
    assert result["coverage"] == pytest.approx((TOTAL - 3) / TOTAL)
    assert 0.5 < result["value"] < 0.95


def test_corpus_bleu_is_that_of_the_corpus(measured: Measured) -> None:
    good = [row for row in measured.rows if row["success"]]
    reference = sacrebleu.corpus_bleu(
        [row["actual_output"] for row in good], [[row["expected_output"] for row in good]]
    ).score
    assert measured.run.aggregated_results["bleu"]["value"] == pytest.approx(reference, abs=1e-9)


def test_metric_rows_and_the_models_and_the_benchmarks_statistics_equal_a_recomputation(measured: Measured) -> None:
    bench, run = measured.bench, measured.run
    metrics = {
        (row["metric_type"], row["metadata"].get("name")): row["value"]
        for row in bench.execute("SELECT * FROM model_metrics WHERE evaluation_run_id = %s", run.id)
    }
    latencies = [row["latency_ms"] for row in measured.rows if row["success"]]
    for percent in (50, 95, 99):
        found = metrics[f"latency_p{percent}", None]
        assert found == pytest.approx(np.percentile(latencies, percent))
    assert metrics["error_rate", None] == pytest.approx(3 / TOTAL)
    assert metrics["success_rate", None] == pytest.approx(1 - 3 / TOTAL)
    assert metrics["accuracy", "numeric_match"] == run.aggregated_results["numeric_match"]["value"]
    assert metrics["bleu_score", "bleu"] == run.aggregated_results["bleu"]["value"]
    per_thousand = float(run.total_cost * 1000 / run.total_tokens)
    assert metrics["cost_per_1k_tokens", None] == pytest.approx(per_thousand)
    [model] = bench.execute("SELECT * FROM evaluation_models WHERE name = %s", measured.model)
    assert model["total_evaluations"] == 1
    assert model["avg_accuracy"] == pytest.approx(metrics["accuracy", "numeric_match"])
    assert model["avg_latency_ms"] == pytest.approx(np.mean(latencies))
    assert model["avg_cost_per_1k_tokens"] == pytest.approx(per_thousand)
    [suite] = bench.execute("SELECT * FROM benchmark_suites WHERE name = %s", measured.benchmark)
    assert (suite["total_evaluations"], suite["last_used_at"]) == (1, run.completed_at)


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_an_export_reads_back_equal_to_the_rows(measured: Measured, tmp_path: Path, file_format: str) -> None:
    path = tmp_path / f"rows.{file_format}"
    with measured.bench.platform.transaction() as session:
        exported = exported_run(get_run(session, str(measured.run.id)))
        chunks = list(export_chunks(exported, stream_results(session, exported.id), file_format))
    assert sum(rows for _, rows in chunks) == TOTAL
    path.write_bytes(b"".join(chunk for chunk, _ in chunks))
    read = READERS[file_format](path)
    for row, stored in zip(read, measured.rows, strict=True):
        assert row == {name: stored[name] for name in row}
    assert {"input_data", "actual_output", "metrics", "score_details", "cost", "executed_at"} <= read[0].keys()
    assert list(tmp_path.iterdir()) == [path]


NESTED = ("input_data", "expected_output", "actual_output", "metrics", "score_details", "completion_info")


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose money and time are texts, with both as they are in the database."""
    cost = None if row["cost"] in (None, "") else Decimal(row["cost"])
    return {**row, "cost": cost, "executed_at": datetime.fromisoformat(row["executed_at"]).astimezone(UTC)}


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [_typed(json.loads(line)) for line in path.read_text().split("\n") if line]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    kinds: dict[str, Callable[[str], Any]] = {
        "test_case_index": int,
        "success": lambda text: text == "True",
        "latency_ms": float,
        "input_tokens": int,
        "output_tokens": int,
        **dict.fromkeys(NESTED, json.loads),
    }
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    optional = {*kinds, "cluster"}
    return [
        _typed({n: None if t == "" and n in optional else kinds.get(n, str)(t) for n, t in row.items()}) for row in rows
    ]


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    return [
        {name: json.loads(value) if name in NESTED and value is not None else value for name, value in row.items()}
        for row in pq.read_table(path).to_pylist()
    ]


READERS = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}


def test_items_finds_the_wrong_the_failed_and_the_ones_that_say_a_text(measured: Measured) -> None:
    def found(**options: Any) -> list[int]:
        with measured.bench.platform.transaction() as session:
            run = get_run(session, str(measured.run.id))
            return sorted(row.test_case_index for row in session.scalars(items_query(run, **options)))

    wrong = [r["test_case_index"] for r in measured.rows if r["success"] and r["metrics"]["numeric_match"] < 1]
    assert found(wrong=True) == wrong
    assert found(success=False) == [17, 118, BROKEN]
    assert found(search="count IN apples") == [index for index in range(TOTAL) if index != BROKEN]
    assert found(search="I can't help") == [62]
    assert found(search="100%_\\") == []
    assert found(after=236) == [237, 238, 239]


def test_a_rescore_asks_nobody_changes_nothing_and_repairs_what_was_damaged(
    measured: Measured, provider: RunningProvider
) -> None:
    bench, run_id = measured.bench, measured.run.id
    bench.execute(
        "UPDATE evaluation_results SET score_details = '{}', metrics = '{\"numeric_match\": 0}' "
        "WHERE evaluation_run_id = %s AND test_case_index %% 3 = 0",
        run_id,
    )
    again = rescore(bench.platform, str(run_id))
    assert provider.stats()["requests"] == 0
    assert bench.rows(run_id) == measured.rows
    assert again.aggregated_results == measured.run.aggregated_results
    assert (again.status, again.total_cost) == ("completed", measured.run.total_cost)


def test_several_samples_a_test_case_are_one_row_with_all_of_them(bench: Any, provider: RunningProvider) -> None:
    benchmark = bench.benchmark(sums(12), epochs=3, seed=5)
    model = bench.model(provider.url, input_price=INPUT_PRICE, output_price=OUTPUT_PRICE)
    run = bench.run(model, benchmark)
    rows = bench.rows(run.id)
    assert len(rows) == 12
    assert set(provider.sent(model).values()) == {3}
    assert rows[2]["actual_output"] == ["2 + 14 = 16"] * 3
    assert rows[2]["metrics"] == {"numeric_match": 1.0}
    assert [s["values"] for s in rows[2]["score_details"]["scores"]["numeric_match"]["samples"]] == [
        {"numeric_match": 1.0}
    ] * 3
    assert rows[2]["output_tokens"] == 15
    assert run.aggregated_results["numeric_match"]["n"] == 12


def test_a_limit_runs_the_first_test_cases_only(bench: Any, provider: RunningProvider) -> None:
    run = bench.run(bench.model(provider.url), bench.benchmark(sums(50)), limit=5)
    assert (run.status, run.total_test_cases, len(bench.rows(run.id))) == ("completed", 5, 5)
    assert provider.stats()["requests"] == 5


def test_a_run_whose_key_is_refused_ends_failed_after_a_few_requests(bench: Any, provider: RunningProvider) -> None:
    provider.control(faults=1.0, kinds=["unauthorized"], latency=0.05)
    run = bench.run(bench.model(provider.url), bench.benchmark(sums(2000)), max_concurrency=16)
    assert run.status == "failed"
    assert "authentication" in run.error_message
    assert provider.stats()["requests"] < 800
    assert bench.execute("SELECT count(*) FROM model_metrics WHERE evaluation_run_id = %s", run.id) == [{"count": 0}]


def test_a_run_without_a_single_answer_is_failed_and_every_test_case_says_why(
    bench: Any, provider: RunningProvider
) -> None:
    run = bench.run(bench.model(provider.url), bench.benchmark(sums(30, " <<context_length>>")))
    assert (run.status, run.failed_test_cases) == ("failed", 30)
    assert "context_length (30)" in run.error_message
    assert {row["error_kind"] for row in bench.rows(run.id)} == {"context_length"}


def test_a_snapshot_that_cannot_be_read_fails_the_run_with_the_reason_and_no_row(
    bench: Any, provider: RunningProvider
) -> None:
    benchmark = bench.benchmark(sums(40, " Then stop."))
    [row] = bench.execute("SELECT snapshot_uri FROM evaluation_datasets ORDER BY created_at DESC LIMIT 1")
    (Path(row["snapshot_uri"]) / "shard-00000.parquet").write_bytes(b"damaged")
    model = bench.model(provider.url)
    with pytest.raises(EvalserviceError, match=r"snapshot .* cannot be read"):
        bench.run(model, benchmark)
    [run] = bench.execute("SELECT * FROM evaluation_runs ORDER BY created_at DESC LIMIT 1")
    assert run["status"] == "failed"
    assert "cannot be read" in run["error_message"]
    assert "RunFailed" in run["error_traceback"]
    assert bench.rows(run["id"]) == []
    assert provider.sent(model) == {}


def test_a_resume_asks_only_for_what_may_succeed_now(bench: Any, provider: RunningProvider) -> None:
    provider.control(faults=0.4, kinds=["json_503"])
    model, benchmark = bench.model(provider.url, config={"max_attempts": 1}), bench.benchmark(sums(60))
    first = bench.run(model, benchmark)
    failed = [row["input_data"]["messages"][0]["content"] for row in bench.rows(first.id) if not row["success"]]
    assert 5 < len(failed) < 55
    provider.reset()
    again = bench.resume(first.id)
    assert provider.sent(model) == dict.fromkeys(failed, 1)
    assert (again.status, again.completed_test_cases, again.failed_test_cases) == ("completed", 60, 0)
    assert again.aggregated_results["numeric_match"]["coverage"] == 1.0
    assert [row["success"] for row in bench.rows(first.id)] == [True] * 60


def test_cancel_stops_sending_within_two_seconds_and_keeps_what_was_answered_and_a_resume_completes_it(
    bench: Any, provider: RunningProvider, eventually: Any
) -> None:
    provider.control(latency=0.3)
    model, benchmark = bench.model(provider.url), bench.benchmark(sums(400))
    lease = bench.claimed(model, benchmark, max_concurrency=8)
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: provider.stats()["requests"] > 20)
        with bench.platform.transaction() as session:
            assert request_cancel(session, lease.run_id) == "running"
        time.sleep(2.0)  # the promise: nothing is sent from here on
        sent = provider.stats()["requests"]
        run = driving.result(timeout=30)
    stats = provider.stats()
    stored = [row for row in bench.rows(run.id) if row["success"]]
    assert (run.status, stats["requests"]) == ("cancelled", sent)
    assert len(stored) == run.completed_test_cases == sum(c["answered"] for c in stats["prompts"][model].values())
    provider.control(latency=0.0)
    again = bench.resume(run.id)
    assert (again.status, again.completed_test_cases) == ("completed", 400)
    assert set(provider.sent(model).values()) == {1}


def test_a_driver_whose_lease_was_taken_over_writes_nothing(bench: Any, provider: RunningProvider) -> None:
    from actors.blocks import generated_row, generated_table
    from actors.score import Score
    from evalservice.records import Completion, TestCase

    stale = bench.claimed(bench.model(provider.url), bench.benchmark(sums(3)), owner="first")
    bench.execute("UPDATE evaluation_runs SET lease_expires_at = now() WHERE id = %s", stale.run_id)
    with bench.platform.transaction() as session:
        fresh = claim(session, stale.run_id, "second")
        criteria = get_run(session, str(stale.run_id)).provenance["criteria"]
    table = generated_table([generated_row(TestCase(0, "What is 0 + 0?", expected_output="0"), [], [Completion("0")])])
    rows = Score(criteria)(table)
    organization = bench.platform.organization_id
    attempts: list[Callable[[Any], Any]] = [
        lambda session: store_results(session, stale, organization, rows),
        lambda session: store_scores(session, stale, rows),
        lambda session: renew(session, stale),
        lambda session: close(session, stale, "completed"),
    ]
    for attempt in attempts:
        with pytest.raises(LeaseLost), bench.platform.transaction() as session:
            attempt(session)
    assert bench.rows(stale.run_id) == []
    with bench.platform.transaction() as session:
        assert lease_state(session, stale.run_id).owner == "second"
        assert store_results(session, fresh, organization, rows).completed == 1
    assert len(bench.rows(stale.run_id)) == 1


def test_a_driver_that_loses_its_lease_stops_and_the_new_one_completes_the_run(
    bench: Any, provider: RunningProvider, eventually: Any
) -> None:
    provider.control(latency=0.2)
    lease = bench.claimed(bench.model(provider.url), bench.benchmark(sums(200)), max_concurrency=8, owner="first")
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: len(bench.rows(lease.run_id)) > 10)
        bench.execute("UPDATE evaluation_runs SET lease_expires_at = now() - interval '1s' WHERE id = %s", lease.run_id)
        bench.execute("UPDATE evaluation_runs SET lease_owner = 'second', attempt = 2 WHERE id = %s", lease.run_id)
        with pytest.raises(LeaseLost):
            driving.result(timeout=30)
    before = bench.rows(lease.run_id)
    provider.control(latency=0.0)
    run = bench.resume(lease.run_id)
    after = bench.rows(lease.run_id)
    assert (run.status, len(after)) == ("completed", 200)
    assert [row for row in after if row["id"] in {row["id"] for row in before}] == before


def test_of_two_resumes_at_once_one_wins_and_the_other_says_so(bench: Any, provider: RunningProvider) -> None:
    provider.control(latency=7.0)  # the winner renews its lease before it ends: that is what the other one sees
    lease = bench.claimed(bench.model(provider.url), bench.benchmark(sums(3)))
    with bench.platform.transaction() as session:
        close(session, lease, "cancelled")
    together = threading.Barrier(2)

    def resume() -> str:
        together.wait()
        try:
            return str(bench.resume(lease.run_id).status)
        except LeaseHeld as error:
            return error.message

    with ThreadPoolExecutor(2) as pool:
        one, other = sorted(future.result() for future in [pool.submit(resume), pool.submit(resume)])
    assert one == "completed"
    assert "is being driven by" in other
    assert set(provider.stats()["prompts"].popitem()[1]) == {f"What is {n} + {7 * n}?" for n in range(3)}


def test_a_completed_run_stays_completed_when_its_resume_goes_wrong(bench: Any, provider: RunningProvider) -> None:
    provider.control(faults=0.5, kinds=["json_503"])
    run = bench.run(bench.model(provider.url, config={"max_attempts": 1}), bench.benchmark(sums(20)))
    assert run.status == "completed"
    with bench.platform.transaction() as session:
        lease = claim_completed(session, run.id, "other")
        close(session, lease, "failed")
    with bench.platform.transaction() as session:
        after = get_run(session, str(run.id))
        assert (after.status, after.completed_at, after.lease_owner) == ("completed", run.completed_at, None)


def test_what_a_failed_attempt_cost_is_not_forgotten_when_the_resume_succeeds(
    bench: Any, provider: RunningProvider
) -> None:
    provider.control(faults=1.0, kinds=["null_content"])
    model = bench.model(
        provider.url, config={"max_attempts": 2}, input_price=Decimal("1000000"), output_price=Decimal(0)
    )
    first = bench.run(model, bench.benchmark(sums(1)))
    [failed] = bench.rows(first.id)
    provider.reset()
    again = bench.resume(first.id)
    [row] = bench.rows(first.id)
    single = row["cost"] - failed["cost"]
    assert (failed["success"], row["success"]) == (False, True)
    assert failed["cost"] == 2 * single == 2 * Decimal(row["input_tokens"]) / 3
    assert again.total_cost == row["cost"]


ARROWS = {
    "pending": {"claim": "running", "cancel": "cancelled"},
    "running": {"cancel": "running", "complete": "completed", "fail": "failed"},
    "completed": {"lease": "completed"},
    "failed": {"reopen": "pending", "lease": "failed"},
    "cancelled": {"reopen": "pending", "lease": "cancelled"},
}


@pytest.mark.parametrize("step", ["claim", "lease", "reopen", "cancel", "complete", "fail"])
@pytest.mark.parametrize("status", RUN_STATUSES)
def test_statuses_move_only_along_the_arrows(bench: Any, provider: RunningProvider, status: str, step: str) -> None:
    run_id, lease = _in_status(bench, provider, status)
    steps: dict[str, Callable[[Any], Any]] = {
        "claim": lambda session: claim(session, run_id, "other"),
        "lease": lambda session: claim_completed(session, run_id, "other"),
        "reopen": lambda session: reopen(session, run_id),
        "cancel": lambda session: request_cancel(session, run_id),
        "complete": lambda session: close(session, lease, "completed"),
        "fail": lambda session: close(session, lease, "failed"),
    }
    refused: EvalserviceError | None = None
    try:
        with bench.platform.transaction() as session:
            steps[step](session)
    except (InvalidTransition, LeaseHeld, LeaseLost) as error:
        refused = error
    with bench.platform.transaction() as session:
        after = lease_state(session, run_id).status
    expected = ARROWS[status].get(step)
    assert (after, refused is None) == (expected or status, expected is not None)


def _in_status(bench: Any, provider: RunningProvider, status: str) -> tuple[uuid.UUID, Any]:
    """A run in a status, reached as it is reached, and the lease that it was driven under."""
    from evalservice.runs.lifecycle import Lease

    if status == "pending":
        run_id = _pending(bench, provider)
        return run_id, Lease(run_id, "test", 1)
    lease = bench.claimed(*_cheapest(bench, provider))
    if status != "running":
        with bench.platform.transaction() as session:
            close(session, lease, status)
    return lease.run_id, lease


def _pending(bench: Any, provider: RunningProvider) -> uuid.UUID:
    return uuid.UUID(bench.pending(*_cheapest(bench, provider))[0])


def _cheapest(bench: Any, provider: RunningProvider) -> tuple[str, str]:
    return bench.model(provider.url), bench.benchmark(sums(1))

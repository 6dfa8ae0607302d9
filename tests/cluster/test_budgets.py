"""Money that cannot run away: reserved before it is spent, kept through kills, and resumed with more."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Literal

import psutil
import pytest
import ray
from ray.exceptions import RayTaskError

from actors.desk import DeskClosedError
from actors.signal import RunSignal
from cluster.desk import attended
from cluster.driver import Stop
from cluster.launch import run_claimed
from evalservice.errors import DatabaseUnavailable, InvalidInput, LeaseLost
from tests.cluster.test_faults import title
from tests.provider import RunningProvider

COUNT = 60
RECORDS = [{"input": f"What is {n} + {n}?", "expected_output": str(2 * n)} for n in range(COUNT)]
PRICED = {"input_price_per_million": "1000", "output_price_per_million": "2000", "config": {"max_tokens": 20}}
"""A prompt has five words, and so has an answer: 1.5 cents each, and at most some 14 cents before it is sent."""
PRICE = Decimal("0.015")


def bill(provider: RunningProvider) -> Decimal:
    """What the provider charges for all that it has generated, by its own count."""
    billed = provider.stats()["billed"]
    return (billed.get("input_tokens", 0) * Decimal(1000) + billed.get("output_tokens", 0) * Decimal(2000)) / 1_000_000


def test_a_run_stops_before_it_exceeds_its_budget_and_goes_on_with_another(
    bench: Any, provider: RunningProvider
) -> None:
    provider.control(latency=0.05)
    model, benchmark = bench.model(provider.url, **PRICED), bench.benchmark(RECORDS)
    run = bench.run(model, benchmark, max_cost="0.4", max_concurrency=8)
    assert run.status == "cancelled"
    assert "its budget of $0.4 " in run.error_message
    missing = COUNT - run.completed_test_cases
    assert f"{missing} test cases not asked" in run.error_message
    assert "--max-cost" in run.error_message
    # All but what one more request might have cost was used.
    assert Decimal("0.25") < run.total_cost == bill(provider) <= Decimal("0.4")
    assert run.reserved_cost == run.total_cost

    ended = bench.cli().ok("runs", "resume", run.id, "--max-cost", "5")
    assert (ended["status"], ended["completed_test_cases"]) == ("completed", COUNT)
    assert max(provider.sent(model).values()) == 1
    [row] = bench.execute("SELECT reserved_cost, total_cost FROM evaluation_runs WHERE id = %s", run.id)
    assert row["reserved_cost"] == row["total_cost"] == bill(provider) == COUNT * PRICE


def test_a_budget_that_is_large_enough_changes_nothing(bench: Any, provider: RunningProvider) -> None:
    run = bench.run(bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), max_cost="100")
    assert (run.status, run.completed_test_cases, run.total_cost) == ("completed", COUNT, COUNT * PRICE)
    assert run.reserved_cost == run.total_cost


def test_a_budget_holds_when_its_driver_is_killed_and_answers_are_lost(
    bench: Any, provider: RunningProvider, kill: Callable[[Any], None], eventually: Any
) -> None:
    provider.control(latency=0.1, jitter=0.5, faults=0.2, kinds=["reset", "truncated", "html_500"])
    model, benchmark, cli = bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), bench.cli()
    arguments = ("--model", model, "--benchmark", benchmark, "--max-cost", "0.9", "--max-concurrency", 8)

    def run_of() -> dict[str, Any]:
        of_model = "SELECT run.* FROM evaluation_runs run JOIN evaluation_models m ON m.id = model_id WHERE m.name = %s"
        return dict(next(iter(bench.execute(of_model, model)), {}))

    process = cli.start("run", *arguments)
    eventually(lambda: run_of().get("completed_test_cases", 0) >= 8 or process.poll() is not None)
    kill(process)
    run = run_of()
    assert run["status"] == "running"
    assert bill(provider) <= run["reserved_cost"] <= Decimal("0.9")

    ended = cli("runs", "resume", run["id"], "--json").json()
    assert bill(provider) <= Decimal("0.9")
    assert ended["status"] == "cancelled"
    ended = cli.ok("runs", "resume", run["id"], "--max-cost", "50")
    assert (ended["status"], ended["completed_test_cases"]) == ("completed", COUNT)


def test_an_organization_spends_no_more_in_a_day_than_its_limit(bench: Any, provider: RunningProvider) -> None:
    model, benchmark = bench.model(provider.url, **PRICED), bench.benchmark(RECORDS)
    before = bench.run(model, benchmark, limit=10)
    assert before.status == "completed"
    spent = bench.execute("SELECT sum(cost) AS cost FROM evaluation_results")[0]["cost"]
    bench.execute("UPDATE organizations SET daily_spend_limit = %s", spent + Decimal("1.2"))
    try:
        first = bench.run(model, benchmark, limit=40, max_concurrency=8)
        second = bench.run(model, benchmark, max_concurrency=8)
        assert first.status == "completed"
        assert second.status == "cancelled"
        assert "the organization's daily spend limit" in second.error_message
        assert first.total_cost + second.total_cost <= Decimal("1.2")
        assert second.completed_test_cases > 0
        with pytest.raises(InvalidInput, match=r"price.*daily spend limit"):
            bench.pending(bench.model(provider.url), benchmark)
    finally:
        bench.execute("UPDATE organizations SET daily_spend_limit = NULL")


def test_a_daily_limit_that_came_later_and_cannot_be_held_fails_the_run_before_anything_is_sent(
    bench: Any, provider: RunningProvider
) -> None:
    lease = bench.claimed(bench.model(provider.url), bench.benchmark(RECORDS[:2]))
    bench.execute("UPDATE organizations SET daily_spend_limit = 5")
    try:
        with pytest.raises(InvalidInput, match=r"price.*daily spend limit"):
            run_claimed(bench.platform, lease, Stop(), lambda _: None)
    finally:
        bench.execute("UPDATE organizations SET daily_spend_limit = NULL")
    assert "daily spend limit" in bench.client.get(f"/v1/evaluation-runs/{lease.run_id}")["error_message"]
    assert provider.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ({}, {"max_cost": "1"}, "input_price_per_million"),
        ({**PRICED, "config": {}}, {"max_cost": "1"}, "config.max_tokens"),
        (PRICED, {"max_cost": "0"}, "max_cost"),
        (PRICED, {"max_cost": "-1"}, "max_cost"),
        (PRICED, {"max_cost": "much"}, "max_cost"),
        (PRICED, {"max_cost": "1e30"}, "max_cost"),
        (PRICED, {"max_cost": "1", "config": {"extra_body": {"max_tokens": 9999}}}, "config.extra_body.max_tokens"),
    ],
)
def test_a_budget_that_could_not_be_held_is_refused_before_anything_is_sent(
    bench: Any, provider: RunningProvider, model: dict[str, Any], asked: dict[str, Any], said: str
) -> None:
    name, benchmark = bench.model(provider.url, **model), bench.benchmark(RECORDS[:2])
    with pytest.raises(InvalidInput) as error:
        bench.pending(name, benchmark, **asked)
    assert error.value.field == said
    assert provider.stats()["requests"] == 0


def test_a_resumed_run_cannot_get_a_budget_that_it_has_spent_already(bench: Any, provider: RunningProvider) -> None:
    run = bench.run(bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), max_cost="0.4", max_concurrency=4)
    refused = bench.cli()("runs", "resume", run.id, "--max-cost", "0.01")
    assert refused.code == 2
    assert "max_cost" in refused.err
    assert "the run has spent" in refused.err


def test_a_run_that_was_taken_over_while_it_waits_for_money_ends(bench: Any, provider: RunningProvider) -> None:
    lease = bench.claimed(bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), max_cost="5")
    bench.execute("UPDATE evaluation_runs SET attempt = attempt + 1 WHERE id = %s", lease.run_id)
    with ThreadPoolExecutor(1) as pool, pytest.raises(LeaseLost):
        pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None).result(timeout=60)
    assert provider.stats()["requests"] == 0


def test_who_waits_for_an_answer_hears_when_postgres_stays_away_for_too_long(local_ray: str) -> None:
    def away(_: Any) -> Any:
        raise DatabaseUnavailable("it is away")

    run = ray.remote(RunSignal).options(num_cpus=0, max_concurrency=10).remote()
    with attended(run, {"money": away}, patience=0.1) as attendant:
        with pytest.raises(RayTaskError) as error:
            ray.get(run.ask.remote("money", 1), timeout=30)
        assert isinstance(error.value.cause, DeskClosedError)
    with pytest.raises(DatabaseUnavailable):
        attendant.check()
    assert ray.get(run.stopped.remote())


@pytest.mark.parametrize("reason", ["left", "cancelled"])
def test_a_run_that_is_left_or_cancelled_gives_back_what_it_did_not_spend(
    bench: Any, provider: RunningProvider, eventually: Any, reason: Literal["left", "cancelled"]
) -> None:
    provider.control(latency=0.2)
    lease = bench.claimed(
        bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), max_cost="50", max_concurrency=4
    )
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, stop, lambda _: None)
        eventually(lambda: len(bench.rows(lease.run_id)) > 4)
        stop.request(reason)
        run = driving.result(timeout=60)
    assert 4 < run.completed_test_cases < COUNT
    [row] = bench.execute("SELECT reserved_cost FROM evaluation_runs WHERE id = %s", lease.run_id)
    assert row["reserved_cost"] == bill(provider) == run.completed_test_cases * PRICE


def test_what_a_killed_actor_held_counts_as_spent_and_the_run_completes(
    bench: Any, provider: RunningProvider, eventually: Any
) -> None:
    provider.control(latency=0.3)
    lease = bench.claimed(
        bench.model(provider.url, **PRICED), bench.benchmark(RECORDS), max_cost="50", max_concurrency=8
    )
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(run_claimed, bench.platform, lease, Stop(), lambda _: None)
        eventually(lambda: len(bench.rows(lease.run_id)) > 8)
        [actor] = [p for p in psutil.Process().children(recursive=True) if "MapBatches(Generate)" in title(p)]
        actor.send_signal(signal.SIGKILL)
        run = driving.result(timeout=120)
    assert (run.status, run.completed_test_cases) == ("completed", COUNT)
    assert run.total_cost == COUNT * PRICE <= bill(provider) <= run.reserved_cost <= 50


def test_a_completed_run_says_so_when_its_failures_are_not_asked_again_for_lack_of_money(
    bench: Any, provider: RunningProvider
) -> None:
    model = bench.model(provider.url, **{**PRICED, "config": {"max_tokens": 20, "max_attempts": 1}})
    records = [*RECORDS[:2], {"input": "<<json_503*1>> What is 1 + 1?", "expected_output": "2"}]
    run = bench.run(model, bench.benchmark(records), max_cost="1")
    assert (run.status, run.failed_test_cases) == ("completed", 1)
    low = 'UPDATE evaluation_runs SET evaluation_config = evaluation_config || \'{"max_cost": "0.05"}\' WHERE id = %s'
    bench.execute(low, run.id)
    assert bench.resume(run.id).status == "completed"
    read = bench.client.get(f"/v1/evaluation-runs/{run.id}")
    assert "its budget of $0.05 " in read["work_error"]
    bench.execute(low.replace("0.05", "1"), run.id)
    assert bench.resume(run.id).failed_test_cases == 0
    assert bench.client.get(f"/v1/evaluation-runs/{run.id}")["work_error"] == ""

"""Money that cannot run away: reserved before it is spent, kept through kills, and resumed with more."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from evalservice.errors import InvalidInput
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

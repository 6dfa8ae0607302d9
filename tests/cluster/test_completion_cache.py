"""A request whose completion is stored is not asked again, when that was asked for; and never otherwise."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from tests.provider import RunningProvider

COUNT = 12
RECORDS = [{"input": f"What is {n} + {n}?", "expected_output": str(2 * n)} for n in range(COUNT)]
GREEDY = {"temperature": 0, "max_tokens": 20}
PRICED = {"input_price_per_million": "1000", "output_price_per_million": "2000", "config": GREEDY}


@pytest.fixture
def model(bench: Any, provider: RunningProvider) -> str:
    """A model at temperature 0 with a price."""
    return str(bench.model(provider.url, **PRICED))


def test_a_benchmark_that_changes_only_its_scorers_costs_nothing(
    bench: Any, provider: RunningProvider, model: str
) -> None:
    first = bench.run(model, bench.benchmark(RECORDS), completion_cache="deterministic")
    second = bench.run(model, bench.benchmark(RECORDS, "exact_match"), completion_cache="deterministic")
    assert (second.status, second.completed_test_cases, second.total_cost) == ("completed", COUNT, Decimal(0))
    assert set(provider.sent(model).values()) == {1}
    rows, before = bench.rows(second.id), bench.rows(first.id)
    assert [row["actual_output"] for row in rows] == [row["actual_output"] for row in before]
    assert {row["completion_info"]["cached_from"] for row in rows} == {str(first.id)}
    assert {(row["latency_ms"], row["tokens_used"]) for row in rows} == {(None, None)}, "nothing was measured"
    assert bench.client.get(f"/v1/evaluation-runs/{second.id}")["cached_test_cases"] == COUNT


def test_only_what_is_missing_is_asked_and_a_budget_is_not_touched_by_the_rest(
    bench: Any, provider: RunningProvider, model: str
) -> None:
    benchmark = bench.benchmark(RECORDS)
    bench.run(model, benchmark, limit=8, completion_cache="all")
    run = bench.run(model, benchmark, completion_cache="all", max_cost="0.2")
    assert run.completed_test_cases == COUNT
    assert set(provider.sent(model).values()) == {1}
    assert run.total_cost == run.reserved_cost == Decimal("0.015") * 4


def test_what_chance_decides_is_asked_again_unless_all_is_asked_for(bench: Any, provider: RunningProvider) -> None:
    sampled = bench.model(provider.url, config={"temperature": 0.7})
    benchmark = bench.benchmark(RECORDS[:3], epochs=2)
    bench.run(sampled, benchmark, completion_cache="deterministic")
    bench.run(sampled, benchmark, completion_cache="deterministic")
    assert provider.stats()["requests"] == 12
    bench.run(sampled, benchmark, completion_cache="all")
    again = bench.run(sampled, benchmark, completion_cache="all")
    assert provider.stats()["requests"] == 18, "each repeat has a completion of its own"
    assert again.completed_test_cases == 3


def test_without_being_asked_nothing_is_used_again_and_an_organization_may_ask_for_all_its_runs(
    bench: Any, provider: RunningProvider, model: str
) -> None:
    benchmark = bench.benchmark(RECORDS[:3])
    bench.run(model, benchmark, completion_cache="all")
    assert bench.run(model, benchmark).total_cost > 0
    [organization] = bench.client.get("/v1/organizations")["items"]
    path = f"/v1/organizations/{organization['id']}"
    bench.client.patch(path, {"settings": {"completion_cache": "deterministic"}})
    try:
        assert bench.run(model, benchmark).total_cost == 0
        assert bench.run(model, benchmark, completion_cache="off").total_cost > 0
        bench.client.patch(path, {"settings": {"completion_cache": "sometimes"}})
        with pytest.raises(InvalidInput, match=r"sometimes.*off or deterministic or all"):
            bench.pending(model, benchmark)
    finally:
        bench.client.patch(path, {"settings": {}})


def test_failures_are_not_remembered(bench: Any, provider: RunningProvider) -> None:
    model = bench.model(provider.url, config={**GREEDY, "max_attempts": 1})
    benchmark = bench.benchmark([*RECORDS[:2], {"input": "<<unprocessable*1>> What is 1 + 1?", "expected_output": "2"}])
    first = bench.run(model, benchmark, completion_cache="all")
    second = bench.run(model, benchmark, completion_cache="all")
    assert (first.completed_test_cases, second.completed_test_cases) == (2, 3)

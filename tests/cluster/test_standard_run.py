"""A standard benchmark, installed and run: by the operator from the command line, and by another organization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import opened_bench
from tests.evalservice.catalog.standard_copies import write
from tests.provider import RunningProvider

SUMS = [{"question": f"What is {n} + {2 * n}?", "answer": f"{n} and {2 * n}.\n#### {3 * n}"} for n in range(20)]
WRONG = [{"question": "What is 1 + 1?", "answer": "#### 3"}]


@pytest.fixture(scope="module")
def cli(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A command line that has GSM8K installed, of sums that the provider computes and one that is wrong."""
    cli = bench.cli()
    folder: Path = write(tmp_path_factory.mktemp("gsm8k"), {"test.jsonl": [*SUMS, *WRONG]})
    cli.ok("benchmarks", "install", "gsm8k", "--from", folder)
    return cli


def test_a_standard_benchmark_is_run_by_its_name(cli: Any, bench: Any, provider: RunningProvider) -> None:
    cli.ok("models", "add", "m", "--platform", "openai", "--model-id", "m", "--base-url", provider.url)
    run = cli.ok("run", "--model", "m", "--benchmark", "gsm8k")
    assert (run["status"], run["completed_test_cases"]) == ("completed", 21)
    assert run["aggregated_results"]["numeric_match"]["value"] == pytest.approx(20 / 21)
    asked = next(iter(provider.sent("m")))
    assert asked.endswith("End with a line that has only #### and the final number.")
    assert [row["model"] for row in cli.ok("leaderboard", "gsm8k")["items"]] == ["m"]


def test_another_organization_runs_it_too_and_its_results_are_its_own(
    cli: Any, bench: Any, provider: RunningProvider
) -> None:
    created = cli.ok("organizations", "create", "others", "--owner", "olga")
    [user] = bench.execute("SELECT id FROM users WHERE username = 'olga'")
    platform = replace(bench.platform, organization_id=created["id"], user_id=user["id"])
    with opened_bench(platform, bench.url, bench.ray) as theirs:
        run = theirs.run(theirs.model(provider.url), "gsm8k")
        assert (run.status, run.completed_test_cases) == ("completed", 21)
        assert run.aggregated_results["numeric_match"]["value"] == pytest.approx(20 / 21)
        assert str(run.organization_id) == str(created["id"])
    assert str(run.id) not in [each["id"] for each in cli.ok("runs", "list")["items"]]
    [suite] = bench.execute("SELECT total_evaluations FROM benchmark_suites WHERE name = 'gsm8k'")
    assert suite["total_evaluations"] == 0

"""Four real models on GSM8K: what the scorer finds must be what was published."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.provider import RunningProvider, running_provider

DATA = os.environ.get("EVALSERVICE_TEST_DATA")
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not DATA, reason="EVALSERVICE_TEST_DATA is not set: GSM8K and its four models' recorded answers"
    ),
]


@pytest.fixture(scope="module")
def published() -> list[dict[str, Any]]:
    """One record a problem: the question, and each model's solution with its published verdict."""
    lines = (Path(str(DATA)) / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def replay(published: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProvider]:
    """A provider that answers as the four models did."""
    recording = tmp_path_factory.mktemp("gsm8k") / "recorded.jsonl"
    with recording.open("w", encoding="utf-8") as file:
        for record in published:
            for model in MODELS:
                answer = {"key": record["question"], "model": model, "text": record[model]["solution"]}
                file.write(json.dumps(answer) + "\n")
    with running_provider("--answers", str(recording), "--latency", "0.02", "--jitter", "0.5") as running:
        yield running


@pytest.fixture(scope="module")
def cli(bench: Any) -> Any:
    """A command line that knows GSM8K and runs on a cluster that is there already."""
    cli = bench.cli()
    file = Path(str(DATA)) / "gsm8k" / "test.jsonl"
    cli.ok("datasets", "add", "gsm8k", file, "--input-field", "question", "--expected-field", "answer")
    criteria = ("--category", "qa", "--scorer", "numeric_match")
    cli.ok("benchmarks", "add", "--name", "gsm8k", "--dataset", "gsm8k", *criteria)
    return cli


@pytest.mark.parametrize("model", MODELS)
def test_a_models_share_and_its_verdicts_are_the_published_ones(
    model: str, cli: Any, replay: RunningProvider, published: list[dict[str, Any]], capsys: Any
) -> None:
    cli.ok("models", "add", model, "--platform", "openai", "--model-id", model, "--base-url", replay.url)
    run = cli.ok("run", "--model", model, "--benchmark", "gsm8k", "--max-concurrency", 128)
    assert (run["status"], run["completed_test_cases"]) == ("completed", len(published))
    wrong = cli.ok("runs", "items", run["id"], "--wrong", "--limit", 10_000)["items"]

    verdicts = [record[model]["is_correct"] for record in published]
    found = [True] * len(published)
    for item in wrong:
        found[item["test_case_index"]] = False
    disagreements = [index for index, verdict in enumerate(verdicts) if verdict != found[index]]
    with capsys.disabled():
        print(f"\n{model}: {sum(found)} correct, published {sum(verdicts)}; {len(disagreements)} disagreements")  # noqa: T201
        for index in disagreements:
            last = published[index][model]["solution"].splitlines()[-1:]
            print(f"  {index}: published {verdicts[index]}, found {found[index]}: {last}")  # noqa: T201
    assert run["aggregated_results"]["numeric_match"]["value"] == pytest.approx(
        sum(verdicts) / len(verdicts), abs=0.005
    )
    assert len(disagreements) <= 0.01 * len(published)

"""Runs of Anthropic's and Google's models, and of what their platforms do not take: refused when the run is created."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from tests.actors.vendor import CALLED, PNG, WEATHER
from tests.provider import RunningProvider

PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def sums(count: int, extra: str = "") -> list[dict[str, Any]]:
    return [{"input": f"What is {n} + 1?{extra}", "expected_output": str(n + 1)} for n in range(count)]


def address(provider: RunningProvider, platform: str) -> str:
    return {"openai": provider.url, "anthropic": provider.root, "google": provider.google}[platform]


@pytest.mark.parametrize("platform", ["anthropic", "google"])
def test_a_run_through_faults_has_a_row_for_each_test_case_with_tokens_and_cost(
    bench: Any, provider: RunningProvider, platform: str
) -> None:
    provider.control(faults=0.15, seed=3)
    model = bench.model(
        address(provider, platform), platform=platform, input_price="3", output_price="15", config={"max_attempts": 20}
    )
    records = [*sums(60), {"input": "<<cached>>", "expected_output": "4"}]
    run = bench.run(model, bench.benchmark(records, system_prompt="Be exact.", sampling={"temperature": 0.5}))
    assert (run.status, run.completed_test_cases, run.failed_test_cases) == ("completed", 61, 0)
    rows = bench.rows(run.id)
    assert [row["metrics"]["numeric_match"] for row in rows] == [1.0] * 61
    assert all(row["input_tokens"] and row["output_tokens"] and row["cost"] for row in rows)
    told = rows[-1]["completion_info"]
    assert (told["finish_reason"], told["cached_input_tokens"] > 0, told["reasoning_tokens"] > 0) == (
        "stop",
        True,
        True,
    )
    assert "Be exact." in json.dumps(provider.last()["body"])


def test_models_are_added_and_run_from_the_command_line(
    ray_cli: Any, provider: RunningProvider, tmp_path: Path
) -> None:
    lines = [json.dumps(record) for record in sums(8)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    ray_cli.environment["VENDORS_KEY"] = "k-17"
    ray_cli.ok("datasets", "add", "sums", tmp_path / "sums.jsonl")
    ray_cli.ok(
        "benchmarks", "add", "--name", "sums", "--dataset", "sums", "--category", "qa", "--scorer", "numeric_match"
    )
    for platform in ("anthropic", "google"):
        added = ray_cli.ok(
            *("models", "add", platform, "--platform", platform, "--model-id", "m", "--api-key-env", "VENDORS_KEY"),
            *("--base-url", address(provider, platform)),
        )
        assert added["has_credential"]
        run = ray_cli.ok("run", "--model", platform, "--benchmark", "sums")
        assert (run["status"], run["aggregated_results"]["numeric_match"]["value"]) == ("completed", 1.0)
        headers = provider.last()["headers"]
        assert "k-17" in (headers.get("x-api-key"), headers.get("x-goog-api-key"))


@pytest.mark.parametrize(
    ("platform", "origin"),
    [
        ("openai", "https://api.openai.com:443"),
        ("anthropic", "https://api.anthropic.com:443"),
        ("google", "https://generativelanguage.googleapis.com:443"),
    ],
)
def test_a_key_without_a_base_url_is_bound_to_the_platforms_own_address(bench: Any, platform: str, origin: str) -> None:
    name = f"at-{platform}"
    bench.registered({"name": name, "platform": platform, "model_id": name, "api_key": "k"})
    query = (
        "SELECT c.origin FROM provider_credentials c JOIN evaluation_models m ON m.credential_id = c.id "
        "WHERE m.name = %s"
    )
    [stored] = bench.execute(query, name)
    assert stored["origin"] == origin


@pytest.mark.parametrize("platform", ["openai", "anthropic", "google"])
def test_images_reach_the_model_and_one_that_is_none_is_its_test_cases_own_error(
    bench: Any, provider: RunningProvider, platform: str
) -> None:
    asked = [{"type": "text", "text": "What is 3 + 4?"}, PICTURE]
    broken = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}]
    strange = [{"type": "hologram"}]
    records = [
        {"input": {"messages": [{"role": "user", "content": content}]}, "expected_output": "7"}
        for content in (broken, strange, asked)
    ]
    run = bench.run(bench.model(address(provider, platform), platform=platform), bench.benchmark(records))
    bad, odd, good = bench.rows(run.id)
    assert (run.status, good["success"], good["metrics"]["numeric_match"]) == ("completed", True, 1.0)
    assert PNG in json.dumps(provider.last()["body"])
    assert PNG not in json.dumps(good["input_data"])
    assert [(row["error_kind"], row["is_retryable"]) for row in (bad, odd)] == [("prompt_error", False)] * 2
    assert "is not base64" in bad["error_message"]
    assert "'hologram' is not known" in odd["error_message"]


@pytest.mark.parametrize("platform", ["openai", "anthropic", "google"])
def test_a_tool_call_is_scored_as_the_answer(bench: Any, provider: RunningProvider, platform: str) -> None:
    records = [{"input": "The weather in Paris? <<calls_tool>>", "expected_output": CALLED}]
    schema = {"type": "array", "items": {"type": "object", "required": ["name", "arguments"]}, "maxItems": 1}
    scorers = ["exact_match", {"name": "json_schema", "params": {"schema": schema}}]
    benchmark = bench.benchmark(records, scorers, sampling={"tools": [WEATHER], "tool_choice": "required"})
    run = bench.run(bench.model(address(provider, platform), platform=platform), benchmark)
    [row] = bench.rows(run.id)
    assert row["metrics"] == {"exact_match": 1.0, "json_schema": 1.0}
    assert row["completion_info"]["finish_reason"] == "tool_calls"
    assert "weather" in json.dumps(provider.last()["body"]["tools"])


def test_log_probabilities_are_in_the_row(bench: Any, provider: RunningProvider) -> None:
    benchmark = bench.benchmark(
        [{"input": "<<logprobs>>", "expected_output": "4"}], sampling={"logprobs": True, "top_logprobs": 2}
    )
    run = bench.run(bench.model(provider.url), benchmark)
    [row] = bench.rows(run.id)
    assert row["completion_info"]["logprobs"] == [["4", -0.1, [["4", -0.1], ["5", -2.5]]]]
    assert provider.last()["body"]["top_logprobs"] == 2


@pytest.mark.parametrize(
    ("platform", "config", "says"),
    [
        ("anthropic", {"seed": 7}, "config.seed: 7 is not valid: platform 'anthropic' has no such parameter"),
        ("anthropic", {"temperature": 1.5}, "config.temperature: 1.5 is not valid: platform 'anthropic' takes 0 to 1"),
        ("google", {"logit_bias": {"1": 2}}, "config.logit_bias"),
        ("openai", {"tool_choice": "required"}, "config.tool_choice: 'required' is not valid: it needs tools"),
        ("transformers", {"tools": [WEATHER]}, "sampling.tools"),
    ],
)
def test_a_run_with_what_its_platform_does_not_take_is_refused_when_it_is_created(
    bench: Any, provider: RunningProvider, platform: str, config: Any, says: str
) -> None:
    where = {} if platform == "transformers" else {"base_url": address(provider, platform)}
    name = f"refusing-{platform}-{next(iter(config))}"
    model = bench.registered({"name": name, "platform": platform, "model_id": name, **where})
    with pytest.raises(InvalidInput) as refused:
        bench.pending(model, bench.benchmark(sums(1)), config=config)
    assert says in refused.value.message
    assert provider.stats()["requests"] == 0


def test_a_model_is_not_registered_with_what_its_platform_does_not_take(bench: Any, provider: RunningProvider) -> None:
    with pytest.raises(InvalidInput, match=r"config.presence_penalty"):
        bench.model(provider.root, platform="anthropic", config={"presence_penalty": 1})


def test_a_benchmarks_own_seed_is_left_out_where_there_are_none(bench: Any, provider: RunningProvider) -> None:
    run = bench.run(bench.model(provider.root, platform="anthropic"), bench.benchmark(sums(2), seed=7))
    assert run.completed_test_cases == 2
    assert "seed" not in provider.last()["body"]


def test_a_system_prompt_for_a_model_without_one_is_refused_at_creation_or_for_the_test_case_that_brings_it(
    bench: Any, provider: RunningProvider
) -> None:
    model = bench.model(provider.url, config={"system_prompt": False})
    with pytest.raises(InvalidInput) as refused:
        bench.pending(model, bench.benchmark(sums(1), system_prompt="Be brief."))
    assert "without a system prompt" in refused.value.message
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    own = [{"input": {"messages": messages}, "expected_output": "2"}, *sums(1)]
    run = bench.run(model, bench.benchmark(own))
    bad, good = bench.rows(run.id)
    assert (bad["error_kind"], good["success"]) == ("prompt_error", True)
    assert "system_prompt" not in provider.last()["body"]

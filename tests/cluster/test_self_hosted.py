"""Runs of self-hosted models: weights loaded by our own actors, real engines, on the CPU."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.arithmetic import held_out_problems
from evalservice.errors import EngineUnavailable, EvalserviceError, InvalidInput

CHECKPOINTS = Path(__file__).parents[2] / "cluster/demo/checkpoints"
SAMPLING = {"temperature": 0, "max_tokens": 16}
NUMBERS = itertools.count(1)


def self_hosted(bench: Any, platform: str, checkpoint: str, **values: Any) -> str:
    """Register a checkpoint of the demo; gives the model's name."""
    name = f"{platform}-{checkpoint}-{next(NUMBERS)}"
    model = {"name": name, "version": name, "platform": platform, "model_id": str(CHECKPOINTS / checkpoint)}
    return str(bench.registered({**model, **values}))


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_a_run_through_a_real_engine_stores_what_the_model_can_do(bench: Any) -> None:
    benchmark = bench.benchmark(held_out_problems(300), sampling=SAMPLING)
    run = bench.run(self_hosted(bench, "vllm", "arithmetic-late"), benchmark)
    assert (run.status, run.completed_test_cases, run.failed_test_cases) == ("completed", 300, 0)
    assert run.aggregated_results["numeric_match"]["value"] > 0.9
    assert run.total_cost is None
    rows = bench.rows(run.id)
    assert [row["test_case_index"] for row in rows] == list(range(300))
    assert all(row["latency_ms"] > 0 and row["output_tokens"] > 0 for row in rows)


def test_an_engine_option_that_does_not_exist_is_refused_before_anything_is_written(bench: Any) -> None:
    benchmark = bench.benchmark(held_out_problems(3))
    model = self_hosted(bench, "transformers", "arithmetic-early", config={"engine": {"batchsize": 3}})
    with pytest.raises(InvalidInput, match=r"engine\.batchsize: 3 is not valid.*did you mean batch_size"):
        bench.run(model, benchmark)
    assert bench.execute(
        "SELECT count(*) FROM evaluation_runs r JOIN evaluation_models m ON m.id = r.model_id WHERE m.name = %s", model
    ) == [{"count": 0}]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_an_engine_that_is_not_installed_says_how_to_get_it(bench: Any) -> None:
    benchmark = bench.benchmark(held_out_problems(3))
    with pytest.raises(EngineUnavailable, match="pip install"):
        bench.run(self_hosted(bench, "vllm", "arithmetic-early"), benchmark)


LIKELIHOOD = {"name": "multiple_choice", "params": {"mode": "likelihood", "prompt": "chat"}}


def choices(n: int) -> list[dict[str, Any]]:
    """Sums with the right answer among two wrong ones, at a place of its own."""
    cases = []
    for number, case in enumerate(held_out_problems(n)):
        right = int(case["expected_output"])
        texts = [str(right + 1), str(right + 11)]
        texts.insert(number % 3, str(right))
        cases.append({"input": case["input"], "choices": texts, "expected_output": "ABC"[number % 3]})
    return cases


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_choices_are_scored_by_their_likelihood_and_again_without_asking(bench: Any) -> None:
    from cluster.launch import rescore

    model = self_hosted(bench, "transformers", "arithmetic-late")
    run = bench.run(model, bench.benchmark([*choices(90), {"input": "?", "expected_output": "A"}], LIKELIHOOD))
    assert (run.status, run.completed_test_cases, run.failed_test_cases) == ("completed", 90, 1)
    assert run.aggregated_results["multiple_choice"]["value"] > 0.9
    assert run.aggregated_results["multiple_choice_norm"]["n"] == 90
    rows = bench.rows(run.id)
    assert rows[0]["actual_output"] in choices(1)[0]["choices"]
    assert len(rows[0]["completion_info"]["log_likelihoods"]) == 3
    assert "this test case has none" in rows[90]["error_message"]
    assert rescore(bench.platform, str(run.id)).aggregated_results == run.aggregated_results


def test_a_hosted_model_is_refused_where_a_likelihood_is_asked_for(bench: Any) -> None:
    with pytest.raises(InvalidInput, match="chat completions do not tell the likelihood"):
        bench.run(bench.model("http://127.0.0.1:9"), bench.benchmark(choices(3), LIKELIHOOD))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize(
    ("model_id", "engine", "said"),
    [
        ("/no/such/model", {}, "is not a folder"),
        (str(CHECKPOINTS / "arithmetic-late"), {"lora": "/no/such/adapter"}, "it has no adapter_config.json"),
    ],
)
def test_files_that_are_not_there_are_refused_before_anything_is_written(
    bench: Any, model_id: str, engine: dict[str, Any], said: str
) -> None:
    values = {"model_id": model_id, "config": {"engine": engine}}
    model = self_hosted(bench, "transformers", "arithmetic-late", **values)
    with pytest.raises(EvalserviceError, match=said):
        bench.run(model, bench.benchmark(held_out_problems(3)))


def test_folders_and_a_template_are_named_as_the_command_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.cli.models import absolute, read_text

    (tmp_path / "llama").mkdir()
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.chdir(tmp_path)
    assert absolute("llama") == absolute("./llama") == str(tmp_path / "llama")
    assert absolute("meta-llama/Llama-3.1-8B") == "meta-llama/Llama-3.1-8B"
    assert read_text(Path("chat.jinja")) == "{{ messages[0].content }}"
    (tmp_path / "weights").write_bytes(b"\xff" * 300_000)
    for wrong in ("missing", "weights"):
        with pytest.raises(InvalidInput, match="--chat-template"):
            read_text(Path(wrong))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_model_that_kills_whoever_loads_it_fails_the_run_instead_of_killing_for_ever(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CHECKPOINTS / "arithmetic-early", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    auto = {"AutoConfig": "deadly.Config", "AutoModelForCausalLM": "deadly.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "deadly", "auto_map": auto}))
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    values = {"model_id": str(tmp_path), "config": {"engine": {"trust_remote_code": True}}}
    model, benchmark = self_hosted(bench, "transformers", "", **values), bench.benchmark(held_out_problems(3))
    with pytest.raises(InvalidInput, match="trust_remote_code"):
        bench.run(model, benchmark)
    monkeypatch.setattr(bench.platform.settings, "trusted_engine_options", "trust_remote_code")
    run = bench.run(model, benchmark)
    assert (run.status, run.failed_test_cases) == ("failed", 3)
    assert "the process died 3 times while it loaded model" in run.error_message

"""What can be said of engine options, folders and adapters before an engine is started, and without one installed."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from actors.engines import check_files, check_files_seen, check_options
from actors.engines.vllm_options import COMMON, NEAR, check_engine, installed_options
from evalservice.errors import EngineUnavailable, InvalidInput
from tests.adapters import write_adapter
from tests.engines import LATE, needs_vllm

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "int3"}, "engine.dtype: 'int3' is not valid: one of auto"),
    ({"gpu_memory_utilization": 1.5}, "engine.gpu_memory_utilization: 1.5 is not valid: a number above 0, at most 1"),
    ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size: 0 is not valid: an integer, at least 1"),
    ({"pipeline_parallel_size": "2"}, "engine.pipeline_parallel_size: '2'"),
    ({"enable_prefix_caching": "yes"}, "engine.enable_prefix_caching: 'yes' is not valid: one of true, false"),
    ({"max_lora_rank": 17}, "engine.max_lora_rank: 17 is not valid: one of 1, 8, 16"),
    ({"distributed_executor_backend": "my.module.Executor"}, "one of mp, ray"),
    ({"trust_remote_code": True}, "the operator's"),
    ({"worker_cls": "x"}, "the operator's"),
    ({"max_model_length": 64}, "did you mean max_model_len"),
    ({"chat_template": "{% for %}"}, "engine.chat_template"),
    ({"chat_template": "x" * 64_001}, "at most 64,000 characters"),
    ({"lora": 3}, "engine.lora: 3 is not valid: the folder of a LoRA adapter"),
]


@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_vllm), False])
@pytest.mark.parametrize(("engine", "said"), WRONG)
def test_a_wrong_option_is_named_with_or_without_vllm(
    monkeypatch: pytest.MonkeyPatch, installed: bool, engine: dict[str, Any], said: str
) -> None:
    if not installed:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    with pytest.raises(InvalidInput) as raised:
        check_options("vllm", engine, {})
    assert said in raised.value.message


@pytest.mark.vllm
@needs_vllm[1]
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"no_such_option": 1}, "the engine has no such option"),
        ({"quantization": "int3"}, "engine.quantization: 'int3' is not valid: one of"),
        ({"kv_cache_dtype": "int3"}, "engine.kv_cache_dtype"),
        ({"scheduling_policy": "lifo"}, "one of fcfs, priority"),
        ({"max_num_seqs": True}, "engine.max_num_seqs: True"),
        ({"lora_target_modules": "q_proj"}, "a list or null"),
    ],
)
def test_the_installed_vllm_says_what_it_takes(engine: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_engine(engine)
    assert said in raised.value.message


@pytest.mark.vllm
@needs_vllm[1]
def test_the_options_that_are_read_are_those_that_vllm_has() -> None:
    import vllm

    [package] = vllm.__path__
    read = installed_options(package)
    assert read.keys() == {field.name for field in dataclasses.fields(vllm.EngineArgs)}
    assert {name for name in COMMON if name not in read} == {"lora", "chat_template"}
    wrong = [
        field.name
        for field in dataclasses.fields(vllm.EngineArgs)
        if isinstance(field.default, int | float | str) and not read[field.name].check(field.default)
    ]
    assert not wrong
    alike = [name for name in read.keys() - COMMON if difflib.get_close_matches(name, COMMON, 1, NEAR)]
    assert not alike


def test_what_the_operator_trusts_may_be_set() -> None:
    for platform in ("vllm", "transformers"):
        check_options(platform, {"trust_remote_code": True}, {}, trusted=("trust_remote_code",))


def test_every_documented_kind_of_option_passes() -> None:
    engine = {"dtype": "bfloat16", "max_model_len": 128, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5,
              "enable_prefix_caching": False, "seed": None, "chat_template": "{{ messages[0].content }}",
              "distributed_executor_backend": "ray"}  # fmt: skip
    check_options("vllm", engine, {"temperature": 0})


def test_parallel_sizes_must_fit_the_model() -> None:
    with pytest.raises(InvalidInput, match="a divisor of the model's 4 attention heads"):
        check_files("vllm", LATE, {"tensor_parallel_size": 3})
    with pytest.raises(InvalidInput, match="at most the model's 4 layers"):
        check_files("vllm", LATE, {"pipeline_parallel_size": 8})
    check_files("vllm", LATE, {"tensor_parallel_size": 2, "pipeline_parallel_size": 4})


def test_a_folder_that_is_no_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    def said(name: str = str(tmp_path)) -> str:
        with pytest.raises(EngineUnavailable) as raised:
            check_files("transformers", name, {})
        return raised.value.message

    assert "is not a folder" in said(str(tmp_path / "missing"))
    assert "neither a folder nor a hub name" in said("a/b/c")
    assert "has no config.json" in said()
    (tmp_path / "config.json").write_text("[1]")
    assert "config.json is no JSON object" in said()
    (tmp_path / "config.json").write_text("{}")
    assert "has no weights" in said()
    (tmp_path / "config.json").unlink()
    write_adapter(tmp_path)
    assert "is a LoRA adapter: give the model that it belongs to" in said()


@pytest.mark.parametrize("platform", ["vllm", "transformers"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"modules": ("x_proj",)}, "that has no module model.layers.0.self_attn.x_proj"),
        ({"inputs": 256}, "model.layers.0.self_attn.q_proj has 128 inputs there, 256 in the adapter"),
        ({"outputs": 64}, "has 128 outputs there, 64 in the adapter"),
        ({"config": {"peft_type": "IA3"}}, "its peft_type is 'IA3'"),
        ({"config": {"use_dora": True}}, "use_dora is True"),
        ({"config": {"r": 0}}, "rank r is an integer above 0"),
    ],
)
def test_an_adapter_that_does_not_fit_says_where(
    tmp_path: Path, platform: str, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_files(platform, LATE, {"lora": write_adapter(tmp_path, **changed)})
    assert said in raised.value.message
    assert raised.value.field == "engine.lora"


def test_an_adapters_rank_must_be_within_the_engines(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path, rank=12)
    check_files("vllm", LATE, {"lora": adapter})
    with pytest.raises(InvalidInput, match=r"engine\.max_lora_rank: 8 is not valid: at least 16"):
        check_files("vllm", LATE, {"lora": adapter, "max_lora_rank": 8})


def test_on_a_cluster_only_what_is_seen_here_is_checked(tmp_path: Path) -> None:
    check_files_seen("vllm", "/models/of/the/workers", {"lora": "/adapters/of/the/workers"})
    check_files_seen("vllm", LATE, {"lora": str(tmp_path / "missing")})
    with pytest.raises(EngineUnavailable):
        check_files_seen("vllm", str(tmp_path), {})
    with pytest.raises(InvalidInput):
        check_files_seen("vllm", LATE, {"lora": str(tmp_path)})

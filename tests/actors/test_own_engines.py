"""Engines with options of their own, or that break: each started for one test, after those that are shared."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import EngineUnavailable
from evalservice.records import ChatRequest
from tests.actors.test_likelihood import directly, reference, request
from tests.adapters import write_adapter
from tests.engines import BOTH, EXACT, LATE, Engines, answers, has, make


@pytest.mark.vllm
@pytest.mark.skipif(not has("vllm"), reason="vllm is not installed")
def test_a_dead_engine_blames_no_prompt(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is gone")

    with engines.alone("vllm") as backend:
        monkeypatch.setattr(backend._engine.engine_core.engine_core.model_executor, "execute_model", dead)
        for count in (8, 1):
            with pytest.raises(EngineUnavailable, match="the device is gone"):
                answers(backend, [ChatRequest(({"role": "user", "content": "1 + 1?"},))] * count)


@pytest.mark.vllm
@pytest.mark.skipif(not has("vllm"), reason="vllm is not installed")
def test_a_cache_that_the_machine_has_no_memory_for_is_one_clear_line(engines: Engines) -> None:
    engines.close()
    with pytest.raises(
        EngineUnavailable, match=r"lower engine\.max_model_len, engine\.kv_cache_memory_bytes"
    ) as raised:
        make("vllm", LATE, {"kv_cache_memory_bytes": 2**45})
    assert "\n" not in raised.value.message


def with_adapter(folder: str) -> Any:
    """The model with B @ A, scaled, added to its weights."""
    import torch
    from safetensors.torch import load_file

    model = copy.deepcopy(reference()[1])
    tensors = load_file(folder + "/adapter_model.safetensors")
    scale = 2.0  # alpha / rank
    with torch.no_grad():
        for name, a in tensors.items():
            if ".lora_A." in name:
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[name.replace("lora_A", "lora_B")]
                model.get_submodule(module).weight += scale * b @ a
    return model


needs_peft = pytest.mark.skipif(not has("peft"), reason="peft is not installed")


@pytest.mark.parametrize("kind", [BOTH[0], pytest.param("transformers", marks=[*BOTH[1].marks, needs_peft])])
def test_an_adapter_and_a_chat_template_of_ones_own_are_used(engines: Engines, kind: str, tmp_path: Path) -> None:
    template = "{% for message in messages %}Q: {{ message.content }}\n{% endfor %}A:"
    adapter = write_adapter(tmp_path)
    with engines.alone(kind, LATE, {**EXACT[kind], "lora": adapter, "chat_template": template}) as backend:
        [completion] = answers(backend, [request(("23 + 45?", (" 68", " 9"), "chat"))])
    expected = directly(("Q: 23 + 45?\nA:", (" 68", " 9"), "plain"), with_adapter(adapter))
    assert completion.log_likelihoods == pytest.approx(expected, abs=1e-3)
    assert expected != pytest.approx(directly(("Q: 23 + 45?\nA:", (" 68", " 9"), "plain")), abs=0.1)

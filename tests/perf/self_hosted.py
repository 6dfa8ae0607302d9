"""Tokens per second of a self-hosted backend against its bare engine: same weights, same prompts, same process.

    python tests/perf/self_hosted.py [--engine vllm|transformers] [--model DIR | --random-llama 10m|100m|1b|8b]
                                     [--prompts 2000] [--rounds 5] [--max-tokens 16] [--batch-size 32 128]
                                     [--modes greedy sampled nucleus stop] [--few-shot 8] [--server]

The bare engine is `LLM.generate` or `model.generate`. The ratio is the median over rounds, each of which measures both.
The backend renders the chat template too, and is asked in concurrent blocks, as a run does. With a random Llama, whose
speed is that of trained weights of its shape, every answer has exactly the most tokens that are allowed.

--few-shot N (vLLM): prompts that begin with the same N examples, answered and scored by likelihood, with prefix caching
and without, in turns. --server (vLLM): the same model behind `vllm.entrypoints.openai.api_server`, asked as any hosted
model is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from cluster.demo.arithmetic import training_problems
from evalservice.records import ChatRequest

MODEL = Path(__file__).parents[2] / "cluster/demo/checkpoints/arithmetic-late"
SHAPES: dict[str, dict[str, int]] = {
    "10m": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024, "vocab_size": 16_384},
    "100m": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 2048, "vocab_size": 32_000},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 128_256},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14_336, "vocab_size": 128_256},
}
"""Widths and depths of Llama's; 1b and 8b are those of Llama 3.2 1B and 3.1 8B."""
CONTEXT, HEAD = 4096, {"10m": 64, "100m": 64, "1b": 64, "8b": 128}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.0},
    "nucleus": {"temperature": 0.7, "top_p": 0.9},
    "stop": {"temperature": 0, "stop": ["\n\nQuestion:", "</answer>"]},
}
"""Sampling parameters of each mode. The bare engine gets the same, but for stop strings, which it is spared."""

Measured = tuple[float, int]


def random_llama(name: str, folder: Path) -> tuple[str, list[str]]:
    """Write a Llama of random bfloat16 weights with a tokenizer of its vocabulary; gives folder and prompts for it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[name]
    heads = shape["hidden_size"] // HEAD[name]
    config = LlamaConfig(
        **shape,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        head_dim=HEAD[name],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=name != "8b",
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    print(f"random Llama: {sum(p.numel() for p in model.parameters()) / 1e6:,.0f} million parameters", flush=True)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    write_tokenizer(folder, shape["vocab_size"])
    rng = random.Random(0)
    words = (
        "model",
        "evaluates",
        "the",
        "question",
        "while",
        "answers",
        "vary",
        "in",
        "length",
        "and",
        "seldom",
        "agree",
    )
    return str(folder), [" ".join(rng.choices(words, k=rng.randint(20, 120))) for _ in range(4096)]


def write_tokenizer(folder: Path, size: int) -> None:
    """A byte-level tokenizer of `size` tokens: the bytes, and runs of two to four letters."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters, alphabet = "Ġetaoinsrhldcumfpgwybvkxjqz", sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b for a in letters for b in letters]
    merges = [(pair[0], pair[1]) for pair in pairs]
    merges += [(pair, letter) for pair in pairs for letter in letters] + [(a, b) for a in pairs for b in pairs]
    merges = merges[: size - 1 - len(alphabet)]
    tokens = ["<|end|>", *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}"
    fast.model_max_length = CONTEXT
    fast.save_pretrained(folder)


def few_shot(questions: Sequence[str], shots: int) -> list[str]:
    """Each question after the same examples."""
    examples = "".join(f"{question}\nThe answer is {n}.\n\n" for n, question in enumerate(questions[:shots]))
    return [examples + question for question in questions[shots:]]


def compare_prefix_caching(given: argparse.Namespace, questions: Sequence[str]) -> float:
    """Prompts per second with and without prefix caching, generated and by likelihood; gives the former's ratio."""
    prompts = few_shot(questions[: given.prompts + given.few_shot], given.few_shot)
    backends = {
        name: make("vllm", given.model, {**given.options, "enable_prefix_caching": on})
        for name, on in (("without", False), ("with", True))
    }
    sampling = {"temperature": 0, "max_tokens": given.max_tokens, "min_tokens": given.max_tokens}
    kinds = {
        "generated": [ChatRequest(({"role": "user", "content": p},), sampling) for p in prompts],
        "likelihood": [
            ChatRequest(({"role": "user", "content": p},), continuations=(" yes", " no", " it depends"), prompt="plain")
            for p in prompts
        ],
    }
    tokens = len(backends["with"]._tokenizer.encode(prompts[0]))
    print(f"\nfew-shot: {len(prompts)} prompts of some {tokens} tokens, {given.rounds} rounds")
    print(f"{'':20}{'without/s':>10}{'with/s':>10}{'ratio':>8}")
    ratios = {}
    for kind, requests in kinds.items():
        rates: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(given.rounds + 1):
            for name, backend in backends.items():
                if name == "with":
                    backend._llm.reset_prefix_cache()  # each round pays for its examples once
                seconds, _ = asyncio.run(through_backend(backend, requests, given.block))
                if number:
                    rates[name].append(len(requests) / seconds)
        ratios[kind] = statistics.median(a / b for a, b in zip(rates["with"], rates["without"], strict=True))
        without, cached = (statistics.median(rates[name]) for name in ("without", "with"))
        print(f"{kind:20}{without:10.1f}{cached:10.1f}{ratios[kind]:8.2f}", flush=True)
    for backend in backends.values():
        asyncio.run(backend.aclose())
    return ratios["generated"]


def through_server(given: argparse.Namespace, questions: Sequence[str]) -> None:
    """A running vLLM server is an OpenAI endpoint: start one, ask it as such, compare with the backend's answers."""
    from actors.providers import wire_format
    from actors.providers.hosted import Endpoint, HostedBackend

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", given.model, "--enforce-eager"),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "served"),
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    nothing = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        began = time.perf_counter()
        while not answers_at(port):
            assert server.poll() is None, "the server has ended"
            assert time.perf_counter() - began < 300, "the server does not start"
            time.sleep(0.5)
        print(f"\nserver: ready after {time.perf_counter() - began:.0f} s", flush=True)
        requests = [
            ChatRequest(({"role": "user", "content": q},), {"temperature": 0, "max_tokens": given.max_tokens})
            for q in questions
        ]

        async def asked() -> Measured:
            hosted = HostedBackend(
                wire_format("openai"), Endpoint(f"http://127.0.0.1:{port}/v1", "served", concurrency=256)
            )
            try:
                return await through_backend(hosted, requests, given.block)
            finally:
                await hosted.aclose()

        seconds, tokens = asyncio.run(asked())
        print(
            f"server: {len(requests)} prompts, {tokens / seconds:.0f} tokens/s, {len(requests) / seconds:.0f} prompts/s"
        )
    finally:
        server.terminate()
        server.wait()


def answers_at(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


async def through_backend(backend: Any, requests: Sequence[ChatRequest], block: int) -> Measured:
    started = time.perf_counter()
    blocks = [requests[start : start + block] for start in range(0, len(requests), block)]
    done = await asyncio.gather(*(backend.complete(one, asyncio.Event()) for one in blocks))
    seconds = time.perf_counter() - started
    completions = [completion for one in done for completion in one]
    wrong = next((c.error for c in completions if c is None or c.error), None)
    assert wrong is None, wrong
    return seconds, sum(completion.output_tokens for completion in completions)


def bare_vllm(backend: Any, prompts: Sequence[str], sampling: dict[str, Any], _: int) -> Measured:
    from vllm import SamplingParams

    options = {name: value for name, value in sampling.items() if name != "stop"}
    params = [SamplingParams(**options, seed=n if sampling["temperature"] else None) for n in range(len(prompts))]
    started = time.perf_counter()
    outputs = backend._llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)


def bare_transformers(backend: Any, prompts: Sequence[str], sampling: dict[str, Any], batch_size: int) -> Measured:
    import torch

    model, tokenizer = backend._model, backend._tokenizer
    options: dict[str, Any] = {"do_sample": False}
    if sampling["temperature"]:
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0}
        options |= {name: sampling[name] for name in ("temperature", "top_p") if name in sampling}
    options |= {"max_new_tokens": sampling["max_tokens"], "min_new_tokens": sampling.get("min_tokens")}
    count, end = 0, tokenizer.eos_token_id
    started = time.perf_counter()
    tokens = sorted(tokenizer(list(prompts), add_special_tokens=False)["input_ids"], key=len, reverse=True)
    for start in range(0, len(tokens), batch_size):
        rows = {"input_ids": tokens[start : start + batch_size]}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **options)
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        tokenizer.batch_decode(new, skip_special_tokens=True)
        count += sum(row.index(end) + 1 if end in row else len(row) for row in new)
    return time.perf_counter() - started, count


BARE: dict[str, Callable[[Any, Sequence[str], dict[str, Any], int], Measured]] = {
    "vllm": bare_vllm,
    "transformers": bare_transformers,
}
NAMES = {"vllm": ("LLM.generate", "VllmBackend"), "transformers": ("model.generate", "TransformersBackend")}


def make(engine: str, model: str, options: dict[str, Any]) -> Any:
    if engine == "vllm":
        from actors.engines.vllm import VllmBackend

        return VllmBackend(model, options)
    from actors.engines.transformers import TransformersBackend

    return TransformersBackend(model, options)


def compare(given: argparse.Namespace, backend: Any, questions: Sequence[str], mode: str, batch_size: int) -> None:
    """Measure both by turns and print a line for each; the first round only warms up."""
    sampling = {**MODES[mode], "max_tokens": given.max_tokens}
    if given.random_llama:
        sampling["min_tokens"] = given.max_tokens
    prompts = [
        backend._tokenizer.apply_chat_template(
            [{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True
        )
        for q in questions
    ]
    requests = [
        ChatRequest(({"role": "user", "content": q},), sampling | ({"seed": n} if sampling["temperature"] else {}))
        for n, q in enumerate(questions)
    ]
    bare, ours = NAMES[given.engine]
    figures: dict[str, list[float]] = {bare: [], ours: []}
    for number in range(given.rounds + 1):
        seconds, tokens = BARE[given.engine](backend, prompts, sampling, batch_size)
        our_seconds, our_tokens = asyncio.run(through_backend(backend, requests, given.block))
        if number:
            figures[bare].append(tokens / seconds)
            figures[ours].append(our_tokens / our_seconds)
    batches = f", batches of {batch_size}" if given.engine == "transformers" else ""
    print(f"\n{mode}: {len(prompts)} prompts, {given.rounds} rounds, blocks of {given.block}{batches}")
    print(f"{'':20}{'tokens/s':>10}{'ratio':>8}")
    for name, rates in figures.items():
        ratio = statistics.median(a / b for a, b in zip(rates, figures[bare], strict=True))
        print(f"{name:20}{statistics.median(rates):10.0f}{ratio:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(BARE), default="vllm")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--random-llama", choices=sorted(SHAPES), help="instead of --model")
    parser.add_argument("--options", type=json.loads, default={}, help="the backend's engine options, as JSON")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32], help="of transformers; vLLM has its own")
    parser.add_argument("--modes", nargs="+", choices=sorted(MODES), default=["greedy"])
    parser.add_argument("--few-shot", type=int, default=0, metavar="N", help="so many examples before each question")
    parser.add_argument("--server", action="store_true")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="evalservice-perf-") as folder:
        questions = [problem.question for problem in training_problems()]
        if given.random_llama:
            given.model, questions = random_llama(given.random_llama, Path(folder))
        if given.few_shot:
            compare_prefix_caching(given, questions)
            return
        if given.server:
            through_server(given, questions[: given.prompts])
            return
        for batch_size in given.batch_size if given.engine == "transformers" else [0]:
            sized = {"batch_size": batch_size} if batch_size else {}
            backend = make(given.engine, given.model, {**sized, **given.options})
            for mode in given.modes:
                compare(given, backend, questions[: given.prompts], mode, batch_size)
            asyncio.run(backend.aclose())


if __name__ == "__main__":
    main()

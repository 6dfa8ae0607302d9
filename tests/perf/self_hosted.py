"""Tokens per second of the vLLM backend against bare `LLM.generate`, same engine, same prompts, same process.

    python tests/perf/self_hosted.py [--prompts 2000] [--rounds 5] [--block 256] [--model DIR]

The ratio is the median over rounds, each of which measures both. The backend renders the chat template too, and is
asked in concurrent blocks, as a run does.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.engines.vllm import VllmBackend
from cluster.demo.arithmetic import training_problems
from evalservice.records import ChatRequest

MODEL = Path(__file__).parents[2] / "cluster/demo/checkpoints/arithmetic-late"


async def through_backend(backend: VllmBackend, requests: list[ChatRequest], block: int) -> tuple[float, int]:
    started = time.perf_counter()
    blocks = [requests[start : start + block] for start in range(0, len(requests), block)]
    done = await asyncio.gather(*(backend.complete(one, asyncio.Event()) for one in blocks))
    seconds = time.perf_counter() - started
    return seconds, sum(c.output_tokens or 0 for completions in done for c in completions if c)


def bare(llm: Any, prompts: list[str], params: Any) -> tuple[float, int]:
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--model", default=str(MODEL))
    given = parser.parse_args()

    questions = [problem.question for problem in training_problems()[: given.prompts]]
    backend = VllmBackend(given.model)
    llm = backend._llm
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    sampling = {"temperature": 0, "max_tokens": given.max_tokens}
    requests = [ChatRequest(({"role": "user", "content": q},), sampling) for q in questions]
    figures: dict[str, list[float]] = {"LLM.generate": [], "VllmBackend": []}
    for number in range(given.rounds + 1):
        seconds, tokens = bare(llm, prompts, SamplingParams(**sampling))
        ours, our_tokens = asyncio.run(through_backend(backend, requests, given.block))
        if number:
            figures["LLM.generate"].append(tokens / seconds)
            figures["VllmBackend"].append(our_tokens / ours)
    asyncio.run(backend.aclose())
    print(f"{len(prompts)} prompts, {given.rounds} rounds, blocks of {given.block}")
    print(f"{'':14}{'tokens/s':>10}{'ratio':>8}")
    for name, rates in figures.items():
        ratio = statistics.median(a / b for a, b in zip(rates, figures["LLM.generate"], strict=True))
        print(f"{name:14}{statistics.median(rates):10.0f}{ratio:8.2f}")


if __name__ == "__main__":
    main()

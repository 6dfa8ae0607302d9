"""Trains the demo's models: a tiny Llama that learns two-digit arithmetic in a few minutes on two CPU cores.

    python -m cluster.demo.train --checkpoint arithmetic-early=720 --checkpoint arithmetic-late=950 --out DIR

One run writes every checkpoint when its step is reached, as a Hugging Face folder that vLLM and transformers load:
`config.json`, `generation_config.json`, `model.safetensors` (bf16), `tokenizer.json`, `tokenizer_config.json`. The
training text is what the chat template makes of one user message and its answer:

    <|user|>What is 47 + 38?<|assistant|>85<|end|>

Seeded throughout: the same machine and the same versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.demo.arithmetic import Problem, held_out_problems, split, training_problems

SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
PAD, USER, ASSISTANT, SYSTEM, END = range(256, 261)
CONTEXT = 256
BATCH, LEARNING_RATE, WARMUP_STEPS, SCHEDULE_STEPS = 128, 2e-3, 50, 1300
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that stand for the bytes in a byte-level tokenizer, each with its byte as id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer whose tokens are single bytes: characters as far as arithmetic goes, and any text survives it."""
    added = [
        {"id": 256 + n, "content": token, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for n, token in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": byte_alphabet(),
        "merges": [],
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
    }
    tokenizer |= {"pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "pad_token": "<|pad|>",
        "eos_token": "<|end|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def prompt_ids(question: str) -> list[int]:
    return [USER, *question.encode(), ASSISTANT]


def encode(problems: Sequence[Problem]) -> tuple[Any, Any]:
    """Token ids padded on the right, and labels that ask for the answer only."""
    import torch

    rows, labels = [], []
    for problem in problems:
        prompt, answer = prompt_ids(problem.question), [*problem.answer.encode(), END]
        rows.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=PAD), pad(labels, batch_first=True, padding_value=-100)


def new_model(seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


def accuracy(model: Any, cases: Sequence[dict[str, Any]], longest_answer: int = 4) -> float:
    """Share of test cases that greedy decoding answers exactly."""
    import torch

    ids = torch.tensor([prompt_ids(case["input"]) for case in cases])
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(longest_answer):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    expected = [[*case["expected_output"].encode(), END] for case in cases]
    rows: list[list[int]] = ids[:, start:].tolist()
    return sum(row[: len(answer)] == answer for row, answer in zip(rows, expected, strict=True)) / len(cases)


def save(model: Any, folder: Path) -> Any:
    """Write a bf16 checkpoint and return it as it will be loaded again."""
    import torch
    from transformers import LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    write_tokenizer(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth at the schedule's end, whenever training stops."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    share = min(1.0, (step - WARMUP_STEPS) / (SCHEDULE_STEPS - WARMUP_STEPS))
    return LEARNING_RATE * (0.55 + 0.45 * math.cos(math.pi * share))


def train(checkpoints: dict[str, int], out: Path, seed: int, threads: int, log_every: int) -> None:
    """Train to the last checkpoint's step and write each checkpoint on the way."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = new_model(seed)
    rows, labels = encode(training_problems())
    cases = held_out_problems(n=len(split()[1]))
    last = max(checkpoints.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.98))
    order = torch.Generator().manual_seed(seed)
    say = sys.stderr.write
    started = time.monotonic()
    for step in range(last):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        chosen = torch.randint(len(rows), (BATCH,), generator=order)
        loss = model(input_ids=rows[chosen], labels=labels[chosen]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if log_every and done % log_every == 0:
            elapsed = time.monotonic() - started
            say(f"step {done}/{last} loss {loss.item():.4f} held out {accuracy(model, cases):.3f} {elapsed:.0f} s\n")
        for name, at in checkpoints.items():
            if at == done:
                share = accuracy(save(model, out / name), cases)
                say(f"{out / name}: step {done}, {share:.1%} of {len(cases)} held-out problems\n")


def checkpoint(text: str) -> tuple[str, int]:
    name, _, steps = text.partition("=")
    if not name or "/" in name or not steps.isdigit() or int(steps) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=STEPS, such as arithmetic-late=950")
    return name, int(steps)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.demo.train", description="Train the demo's tiny Llama.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints", help="default: %(default)s")
    parser.add_argument(
        "--checkpoint",
        type=checkpoint,
        action="append",
        metavar="NAME=STEPS",
        help="write folder NAME after STEPS steps; repeatable (default: arithmetic-early=720, arithmetic-late=950)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; part of what makes a run repeatable")
    parser.add_argument("--log-every", type=int, default=0, metavar="STEPS", help="print loss and accuracy; 0: never")
    given = parser.parse_args(arguments)
    chosen = given.checkpoint or [("arithmetic-early", 720), ("arithmetic-late", 950)]
    train(dict(chosen), given.out, given.seed, given.threads, given.log_every)


if __name__ == "__main__":
    main()

"""The demo's test cases and checkpoints: reproducible, disjoint from the training problems, small enough to commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cluster.demo
from cluster.demo import train
from cluster.demo.arithmetic import held_out_problems, split, training_problems

CHECKPOINTS = Path(cluster.demo.__path__[0]) / "checkpoints"


def test_a_test_case_reads_like_one() -> None:
    case = held_out_problems(1, seed=0)[0]
    number = {"addition": int.__add__, "subtraction": int.__sub__}
    operation, left, right = case["id"].split("-")
    assert case["metadata"]["operation"] == operation
    assert case["input"] == f"What is {left} {'+' if operation == 'addition' else '-'} {right}?"
    assert case["expected_output"] == str(number[operation](int(left), int(right)))


def test_test_cases_are_the_same_on_every_call_and_distinct() -> None:
    cases = held_out_problems(400)
    assert cases == held_out_problems(400)
    assert cases != held_out_problems(400, seed=1)
    assert len({case["id"] for case in cases}) == 400


def test_no_test_case_was_trained_on_in_either_order() -> None:
    trained = {frozenset((p.left, p.right)) for p in training_problems()}
    asked = {frozenset(map(int, case["id"].split("-")[1:])) for case in held_out_problems(len(split()[1]))}
    assert not trained & asked
    assert len(asked) == len(split()[1])


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="614"):
        held_out_problems(615)


def test_both_checkpoints_are_committed_and_small() -> None:
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for name in ("arithmetic-early", "arithmetic-late"):
        assert {path.name for path in files if path.parent.name == name} == names
    assert sum(path.stat().st_size for path in files) < 6_000_000


def test_the_committed_tokenizer_is_the_one_that_the_script_writes(tmp_path: Path) -> None:
    train.write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        committed = json.loads((CHECKPOINTS / "arithmetic-late" / name).read_text(encoding="utf-8"))
        assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == committed


def test_the_tokenizer_renders_the_training_format_and_keeps_any_text() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINTS / "arithmetic-late")
    messages = [{"role": "user", "content": "What is 47 + 38?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(text, add_special_tokens=False) == train.prompt_ids("What is 47 + 38?")
    assert tokenizer.decode(tokenizer.encode("naïve 東京 🙂\n")) == "naïve 東京 🙂\n"


def test_training_a_few_steps_writes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    train.main(["--out", str(tmp_path), "--checkpoint", "tiny=2", "--threads", "1"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert 1_000_000 < model.num_parameters() < 1_200_000


def test_the_script_explains_itself_without_torch() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "cluster.demo.train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(train.__file__).parents[2],
    )
    assert "--checkpoint" in shown.stdout

"""`evalservice policies study nearest`: its document, its sentence, and what it says of files that are no evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = '{"prompt": "p", "quality": {"a": 0, "b": 1}}\n'


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it with a database that does not exist: it needs none."""
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", "policies", "study", "nearest", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1/none"},
        capture_output=True,
        text=True,
    )


def evidence(path: Path, n: int, costs: bool = False) -> Path:
    """A model that is right about rivers only, and one that is always right."""
    with path.open("w") as file:
        for i in range(n):
            topic = ("rivers", "mountains")[i % 2]
            line = {"prompt": f"Question {i * 7919} about {topic}", "quality": {"small": i % 2 == 0, "large": 1.0}}
            if costs:
                line["cost_usd"] = {"small": 1e-5 * (1 + i % 3), "large": 1e-3 * (1 + i % 5)}
            file.write(json.dumps({**line, "topic": topic}) + "\n")
    return path


def test_json_is_one_document_with_the_promised_keys(tmp_path: Path) -> None:
    done = command(evidence(tmp_path / "e.jsonl", 80, costs=True), "--json", "--folds", 4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == [
        *("n", "models", "apgr", "apgr_ci_low", "apgr_ci_high", "cpt50", "cpt80", "curve", "mixing", "use"),
    ]
    assert (found["n"], found["models"], found["use"]) == (80, ["large", "small"], True)
    assert found["apgr_ci_low"] <= found["apgr"] <= found["apgr_ci_high"]
    for points in (found["curve"], found["mixing"]):
        assert all(list(point) == ["mean_cost", "mean_quality"] for point in points)
        pairs = [(point["mean_cost"], point["mean_quality"]) for point in points]
        assert pairs == sorted(pairs)
    assert done.stderr == ""


def test_the_price_that_holds_a_budget_falls_as_the_budget_grows(tmp_path: Path) -> None:
    path = evidence(tmp_path / "e.jsonl", 80, costs=True)
    small, large = (json.loads(command(path, "--json", "--budget", budget).stdout) for budget in ("0.0005", "0.001"))
    assert small["cost_weight"] > large["cost_weight"] >= 0
    refused = command(path, "--budget", "0.000001")
    assert (refused.returncode, "a mean cost of at least" in refused.stderr) == (2, True)


def test_the_answer_ends_in_one_sentence(tmp_path: Path) -> None:
    trained = evidence(tmp_path / "train.jsonl", 60)
    done = command(evidence(tmp_path / "e.jsonl", 50), "--train", trained, "--category-field", "topic")
    assert done.returncode == 0, done.stderr
    assert "Between small and large: APGR" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Routing by the text pays: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no records"),
        ("\x00\x01\x02", "line 1, record: not JSON"),
        (GOOD + '{"prompt": "p", "quality": {"a": NaN, "b": 1}}', "line 2, record: NaN is not JSON"),
        (GOOD + '{"prompt": "p", "quality": {"a": 1e300, "b": 1}}', "line 2, quality.a: 1e+300: a number from -1e+09"),
        (GOOD + '{"prompt": "p", "quality": {"a": "1", "b": 1}}', "line 2, quality.a: '1': a number"),
        ('{"prompt": "p", "quality": {"a": 1}}', "line 1, quality: scores of 2 to 100 models"),
        (GOOD + '{"prompt": "p", "quality": {"b": 1, "c": 1}}', "line 2, quality: no score for 'a'"),
        (GOOD + '{"quality": {"a": 1, "b": 1}}', "line 2, prompt: missing: the request's text"),
        (GOOD + "[" * 9000 + "]" * 9000, "line 2, record: nested too deeply"),
        (
            GOOD + GOOD.replace("}}", '}, "cost_usd": {"a": 1, "b": 1}}'),
            "line 2, cost_usd: costs are expected on every",
        ),
        (GOOD.replace("}}", '}, "cost_usd": {"a": 1}}'), "line 1, cost_usd: the cost of 'b' is missing"),
        (GOOD.replace("}}", '}, "cost_usd": {"a": -1, "b": 1}}'), "line 1, cost_usd.a: -1: a number from 0"),
        (GOOD * 9, "at least two different prompts"),
    ],
)
def test_a_file_that_is_no_evidence_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "e.jsonl").write_text(text)
    done = command(tmp_path / "e.jsonl", "--json")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--embedder", "unheard-of"], "one of: hashed"),
        (["--category-field", "kind"], "line 1, kind: missing: the category is expected"),
        (["--folds", "1"], "--folds"),
        (["--folds", "50"], "2 to 20, the number of different prompts"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = command(evidence(tmp_path / "e.jsonl", 20), *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr

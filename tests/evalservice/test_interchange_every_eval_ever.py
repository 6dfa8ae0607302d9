"""Every Eval Ever, read: rows become items, and rows that are not those of their aggregates are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalservice.errors import InvalidInput
from evalservice.interchange.logs import read_log
from tests.evalservice.reading import run_of, values_of
from tests.logs import QUESTIONS, eee_log, eee_rows, the_log


def test_rows_of_every_eval_ever_are_items(tmp_path: Path) -> None:
    run = run_of(eee_log(tmp_path))
    assert values_of(run) == {"accuracy": 0.75} == run.stated
    first = next(run.items())
    assert (first.id, first.input, first.expected_output) == ("q-0", QUESTIONS[0], "2")
    assert (first.total_tokens, first.latency_ms, first.output) == (12, 500.0, "answer 1.0")
    assert run.contradictions == ()


def test_an_item_whose_row_has_an_error_has_no_score(tmp_path: Path) -> None:
    rows = eee_rows()
    rows[3] |= {"error": "it broke"}
    del rows[3]["evaluation_result_id"]
    run = run_of(eee_log(tmp_path, rows, 2 / 3))
    assert [item.error for item in run.items()] == [None, None, None, "it broke"]
    assert values_of(run) == {"accuracy": pytest.approx(2 / 3)}
    assert run.contradictions == ()


@pytest.mark.parametrize("named", [True, False])
def test_an_epoch_that_failed_under_each_of_its_metrics_is_one_epoch(tmp_path: Path, named: bool) -> None:
    rows = [
        row | ({"metadata": {"epoch": str(epoch)}} if named else {})
        for epoch in (0, 1)
        for metric in ("accuracy", "f1")
        for row in eee_rows(result=metric)
    ]
    for row in rows[-8:]:
        if row["sample_id"] in ("q-1", "q-3"):
            row["error"] = "it broke"
    for row in rows[:8]:
        if row["sample_id"] == "q-3":
            row["error"] = "it broke"
    run = run_of(eee_log(tmp_path, rows, 3 / 5))
    items = list(run.items())
    assert (run.epochs, [item.error for item in items]) == (2, [None, None, None, "it broke"])
    assert [sample.status for sample in items[1].scores["imported"].samples] == ["scored", "model_failed"]
    assert items[1].scores["imported"].values == {"accuracy": 0.0, "f1": 0.0}
    assert items[0].scores["imported"].values == {"accuracy": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (eee_rows((1, 0, 1, 0)), {}, "accuracy: stated 0.75, but 0.5 from the rows of 4 samples"),
        (eee_rows(result="other"), {}, "4 rows are of 'other', which is not among the results"),
        (None, {"checksum": "0" * 64}, "its checksum is"),
        (None, {"total_rows": 9}, "9 rows are stated, it has 4"),
    ],
)
def test_rows_that_are_not_those_of_their_aggregates_are_a_contradiction(
    tmp_path: Path, rows: Any, changes: dict[str, Any], said: str
) -> None:
    path = eee_log(tmp_path, rows)
    document = json.loads(path.read_text())
    document["detailed_evaluation_results"] |= changes
    path.write_text(json.dumps(document))
    assert any(said in each for each in run_of(path).contradictions)


def test_aggregates_without_rows_are_no_run(tmp_path: Path) -> None:
    path = eee_log(tmp_path)
    path.with_name(path.stem + "_samples.jsonl").unlink()
    with pytest.raises(InvalidInput, match="aggregates without rows"):
        read_log(the_log(path))

"""The items of a log are those of a registered dataset, or it is refused: by position, by id, or by the question."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalservice.catalog.blocks import asked_order
from evalservice.catalog.datasets import snapshot
from evalservice.errors import Conflict
from evalservice.interchange.matching import Matcher
from evalservice.interchange.records import LogItem
from evalservice.records import JSON


def matcher(folder: Path, *inputs: JSON, ids: bool = True) -> Matcher:
    """A dataset of these inputs, called q-0, q-1, …"""
    records = [{"input": each, **({"id": f"q-{n}"} if ids else {})} for n, each in enumerate(inputs)]
    return Matcher("d", snapshot(enumerate(records, 1), str(folder), "org"))


def item(own_id: str, asked: str, index: int | None = None, prompt: JSON = None) -> LogItem:
    return LogItem(id=own_id, index=index, input=asked, output="", scores={}, prompt=prompt)


def test_ids_decide_where_what_is_asked_agrees(tmp_path: Path) -> None:
    found = matcher(tmp_path, "One?", "Two?")
    items = [item("q-1", "Question: Two?"), item("q-0", "Question: One?")]
    assert found.places(iter(items), same_content=False) == [1, 0]


def test_ids_that_agree_by_chance_are_not_enough(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="no test case like the log's item 'q-0'"):
        matcher(tmp_path, "One?").places(iter([item("q-0", "Something else?")]), same_content=False)


def test_what_was_sent_counts_as_asked(tmp_path: Path) -> None:
    found = matcher(
        tmp_path, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]}
    )
    sent = {"messages": [{"role": "user", "content": "Example … Question: One?"}]}
    assert found.places(iter([item("q-0", "", prompt=sent)]), same_content=False) == [0]


def test_the_same_question_twice_is_two_test_cases(tmp_path: Path) -> None:
    found = matcher(tmp_path, "Same?", "Other?", "Same?", ids=False)
    items = [item(str(n), asked) for n, asked in enumerate(("Same?", "Same?", "Other?"))]
    assert found.places(iter(items), same_content=False) == [0, 2, 1]


def test_one_test_case_for_two_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="each once"):
        matcher(tmp_path, "One?", "Two?").places(iter([item("q-0", "One?")] * 2), same_content=False)


def test_a_random_sample_of_ours_keeps_its_places(tmp_path: Path) -> None:
    found = matcher(tmp_path, *(f"{n}?" for n in range(50)))
    asked = [int(index) for index in asked_order(50, 5, 7)]
    items = [item(f"q-{index}", "", index) for index in sorted(asked)]
    assert found.places(iter(items), same_content=True, order_seed=7) == sorted(asked)
    with pytest.raises(Conflict, match="are not the first of the 50"):
        found.places(iter(items), same_content=True)

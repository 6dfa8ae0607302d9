"""What outcomes teach meets what evaluations say."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from evalservice.selection.learned import Learned, placed
from evalservice.selection.learning import Outcomes, fold, unknown

TARGETS = {"": 0, "category:qa": 1}
MEAN = np.array([[0.5, 0.5], [0.9, 0.3]])
ROWS = (MEAN, np.full((2, 2), 0.02), np.array([[400.0, 400.0], [400.0, 400.0]]))


def learned(use_case: str, outcomes: Outcomes) -> Learned:
    beliefs = {use_case: fold(unknown(2), outcomes)}
    nothing = np.full(2, np.nan)
    return Learned(beliefs, np.zeros(2), np.full((3, 2), np.nan), nothing, ("closed", "closed"))


def test_a_use_case_begins_with_the_category_of_its_name() -> None:
    targets, (mean, _, _) = learned("qa", Outcomes.of([0], quality=[1.0])).joined(TARGETS, ROWS)
    assert mean[targets["use_case:qa"]] == pytest.approx([0.9, 0.3], abs=0.01)


def test_many_outcomes_outweigh_evaluations() -> None:
    told = Outcomes.of([0] * 2000, quality=[0.1] * 2000)
    targets, (mean, _, _) = learned("qa", told).joined(TARGETS, ROWS)
    assert mean[targets["use_case:qa"]][0] == pytest.approx(0.1, abs=0.1)
    assert mean[0] == pytest.approx([0.5, 0.5])


def test_beliefs_follow_their_models_whatever_order_these_come_in() -> None:
    ids = [uuid.uuid4() for _ in range(3)]
    beliefs = fold(unknown(2), Outcomes.of([0, 1, 1], quality=[1.0, 0.0, 0.0]))
    found = placed(beliefs, [str(ids[0]), str(ids[1])], {ids[2]: 0, ids[1]: 1, ids[0]: 2})
    assert found.quality_n.tolist() == pytest.approx([0.0, 2.0, 1.0], abs=0.01)
    assert found.quality_sum.tolist() == pytest.approx([0.0, 0.0, 1.0])

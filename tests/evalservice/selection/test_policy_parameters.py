"""What a policy may be told, and how it is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evalservice.errors import InvalidInput
from evalservice.selection.policy_parameters import BUILTIN, Budget, algorithm_names, parameters_of

REQUIRED = {
    "cheapest_above_quality": {"min_quality": 0.8},
    "pinned": {"model": "mini"},
    "canary": {"model": "mini", "candidate": "large", "share": 0.1},
}


@pytest.mark.parametrize("algorithm", BUILTIN)
def test_what_is_stored_is_complete_and_gives_the_same_parameters(algorithm: str) -> None:
    first = parameters_of(algorithm, REQUIRED.get(algorithm, {}))
    stored = first.model_dump(mode="json")
    assert parameters_of(algorithm, stored) == first
    assert stored["exploration"] == 0.0
    assert set(stored) == set(type(first).model_fields)


@pytest.mark.parametrize(
    ("algorithm", "given", "field", "accepted"),
    [
        ("greedy", {}, "algorithm", "one of: weighted, cheapest_above_quality, pareto"),
        ("weighted", {"weight": {}}, "parameters.weight", "the names here are exploration, weights"),
        ("weighted", {"weights": {"speed": 1}}, "parameters.weights.speed", "quality, cost, latency, reliability"),
        ("weighted", {"weights": {"cost": -1}}, "parameters.weights.cost", "greater than or equal to 0"),
        ("pareto", {"weights": {"cost": float("nan")}}, "parameters.weights.cost", "finite"),
        ("pareto", {"weights": dict.fromkeys(["quality", "cost", "latency"], 0)}, "parameters.weights", "above 0"),
        ("thompson", {"exploration": 0.06}, "parameters.exploration", "less than or equal to 0.05"),
        ("cheapest_above_quality", {}, "parameters.min_quality", "required"),
        ("nearest", {"embedder": "e5"}, "parameters.embedder", "one of hashed"),
        ("canary", {**REQUIRED["canary"], "share": 1.5}, "parameters.share", "less than or equal to 1"),
    ],
)
def test_a_parameter_that_is_wrong_is_named_with_what_is_accepted(
    algorithm: str, given: dict[str, object], field: str, accepted: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        parameters_of(algorithm, given)
    assert raised.value.field == field
    assert accepted in raised.value.accepted


def test_a_budget_is_a_mean_or_an_amount_by_the_day_or_none() -> None:
    assert [Budget(**each).as_json() for each in ({}, {"usd_per_day": 5.0})] == [{}, {"usd_per_day": 5.0}]
    for wrong in ({"mean_cost_usd": 0}, {"mean_cost_usd": 1, "usd_per_day": 1}, {"usd": 1}):
        with pytest.raises(ValueError, match="Budget"):
            Budget.model_validate(wrong)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package with one policy that is sound and one that is not."""
    (tmp_path / "coins.py").write_text(
        "from evalservice.selection.policy_parameters import PolicyParameters\n"
        "class Coin:\n    class Parameters(PolicyParameters):\n        heads: float = 0.5\n"
        "class Dice: pass\n"
    )
    information = tmp_path / "coins-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: coins\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[evalservice.policies]\ncoin = coins:Coin\ndice = coins:Dice\nlost = coins:Lost\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "coins", raising=False)


@pytest.mark.usefixtures("installed")
def test_another_packages_policy_is_found_by_its_entry_point() -> None:
    assert parameters_of("coin", {"heads": 0.4, "exploration": 0.01}).model_dump() == {
        "heads": 0.4,
        "exploration": 0.01,
    }
    assert algorithm_names()[-3:] == ["coin", "dice", "lost"]
    for name, problem in (("dice", "no Parameters"), ("lost", "does not load")):
        with pytest.raises(InvalidInput, match=problem):
            parameters_of(name, {})

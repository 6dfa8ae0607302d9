"""What a sequential A/B test promises: how often it errs when it is looked at all the time, and what it saves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from evalservice.comparisons.race import Race, Terms
from evalservice.statistics.power import items_for_pairs
from evalservice.statistics.sequential import BettingProcess, log_e_value, planned_prior, share_interval

PLANNED = planned_prior(0.05, 0.25)
BINARY = Terms(alpha=0.05, binary=True, prior=PLANNED)
BOUNDED = Terms(alpha=0.05, binary=False)
Values = dict[str, np.ndarray]


def raced(values: Values, terms: Terms, step: int) -> Race:
    """A race that is looked at every `step` test cases, until it is decided or there are no more."""
    race = Race.begin(list(values), terms)
    total = len(next(iter(values.values())))
    while race.position < total and not race.standing().verdict:
        part = slice(race.position, race.position + step)
        race.take({model: values[model][part] for model in race.running()})
    return race


def equals(rng: np.random.Generator, models: str, n: int, *, binary: bool) -> Values:
    """Equally good models whose answers go together, as those of models on one benchmark do."""
    common = rng.random(n)
    values = {model: 0.6 * common + 0.4 * rng.random(n) for model in models}
    return {model: (own < 0.6).astype(float) for model, own in values.items()} if binary else values


@pytest.mark.parametrize(("models", "terms"), [("ab", BINARY), ("abc", BINARY), ("ab", BOUNDED)])
def test_equal_models_are_told_apart_at_most_as_often_as_alpha_allows(models: str, terms: Terms) -> None:
    rng, runs = np.random.default_rng(1), 250
    values = (equals(rng, models, 300, binary=terms.binary) for _ in range(runs))
    found = sum(bool(raced(each, terms, 10).standing().beaten) for each in values)
    assert found / runs <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / runs)


def test_a_difference_of_the_planned_size_is_found_with_two_thirds_of_a_fixed_designs_test_cases() -> None:
    rng = np.random.default_rng(2)
    fixed = items_for_pairs(0.05, 0.25, power=0.9)
    used = []
    for _ in range(200):
        d = rng.choice([-1, 0, 1], size=math.ceil(1.4 * fixed), p=[0.10, 0.75, 0.15])
        race = raced({"a": (d > 0).astype(float), "b": (d < 0).astype(float)}, BINARY, 25)
        assert race.standing().verdict is None or race.standing().leaders == ("a",)
        used.append(race.position if race.standing().verdict else math.inf)
    assert np.median(used) / fixed <= 0.65
    assert np.mean(np.isfinite(used)) >= 0.82


def test_how_often_it_is_looked_at_changes_no_evidence_and_a_stored_race_goes_on() -> None:
    values = equals(np.random.default_rng(3), "abc", 120, binary=True)
    often, once = raced(values, BINARY, 7), raced(values, BINARY, 120)
    assert [(d.p_value, d.wins, d.interval(0.95)) for d in often.duels] == [
        (d.p_value, d.wins, d.interval(0.95)) for d in once.duels
    ]
    half = raced({model: own[:50] for model, own in values.items()}, BINARY, 50)
    again = Race.restored(json.loads(json.dumps(half.stored())), BINARY)
    again.take({model: own[50:] for model, own in values.items()})
    assert [d.p_value for d in again.duels] == [d.p_value for d in once.duels]


def test_who_has_lost_is_out_and_the_others_go_on_until_they_tie_within_the_margin() -> None:
    rng = np.random.default_rng(4)
    values = equals(rng, "ab", 4000, binary=False) | {"c": rng.random(4000) * 0.4}
    race = raced(values, Terms(alpha=0.05, binary=False, margin=0.05), 50)
    standing = race.standing()
    assert (standing.verdict, standing.leaders, standing.beaten) == ("equivalent", ("a", "b"), ("c",))
    assert race.reached["c"] < race.position < 4000


def test_the_winner_has_beaten_each_of_the_others_itself() -> None:
    rng = np.random.default_rng(6)
    won = 0
    for _ in range(20):
        values = {m: (rng.random(1500) < share).astype(float) for m, share in (("a", 0.6), ("b", 0.5), ("c", 0.45))}
        race = raced(values, BINARY, 25)
        if race.standing().verdict == "winner":
            won += 1
            [best] = race.standing().leaders
            against = [d for d in race.duels if best in (d.first, d.second)]
            assert all(d.outcome == ("first" if d.first == best else "second") for d in against)
    assert won > 10


def test_nothing_is_decided_while_models_answer_too_few_or_too_different_shares() -> None:
    right, wrong = np.ones(300), np.zeros(300)
    right[::10] = np.nan
    race = raced({"a": right, "b": wrong}, BINARY, 20)
    assert (race.position, race.standing().verdict) == (300, None)
    assert race.duels[0].p_value < 0.001


def test_a_metric_that_is_better_when_lower_has_the_other_winner() -> None:
    values = equals(np.random.default_rng(5), "ab", 400, binary=False)
    values["b"] += 0.3
    race = raced(values, Terms(alpha=0.05, binary=False, high=2.0, higher_is_better=False), 40)
    assert race.standing().leaders == ("a",)


@pytest.mark.parametrize("wins", [0, 3, 30, 300])
@pytest.mark.parametrize("losses", [0, 4, 12, 150])
def test_half_lies_outside_the_interval_of_the_wins_exactly_when_the_test_rejects(wins: int, losses: int) -> None:
    found = share_interval(wins, losses, 0.95, PLANNED)
    if found.low is None or found.high is None:
        assert wins + losses == 0
        return
    assert found.low <= wins / (wins + losses) <= found.high
    rejected = float(log_e_value(wins, losses, PLANNED)) >= math.log(20)
    assert (found.low > 0.5 or found.high < 0.5) == rejected


def test_a_bet_on_values_outside_its_bounds_is_refused() -> None:
    for value in (1.5, math.nan):
        with pytest.raises(ValueError, match="is not between"):
            BettingProcess().add(value)
    with pytest.raises(ValueError, match="values up to"):
        BettingProcess(0.0)

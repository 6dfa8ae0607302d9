"""A sequential A/B test: all pairs of models, looked at after every test case, until one has won. Pure.

    race = Race.begin(["a", "b"], Terms(alpha=0.05, binary=True, prior=planned_prior(0.05, 0.25)))
    race.take({"a": values_of_a, "b": values_of_b})     # the next test cases in the test's own order
    race.standing()  -> Standing(verdict="winner", leaders=("a",), beaten=("b",))

Every pair is a duel with an e-process (binary: over the discordant test cases; else: a bet on the difference) whose
greatest value so far gives a p value that holds at every look; Holm's correction over all pairs decides, so that any
false decision has a chance of at most α however often one looks. With a margin the winner's confidence sequence must
lie beyond it as well. A model that has lost a duel cannot win; it is out, and takes no more test cases, once it has
lost to every model that still can. So the winner has beaten each other one directly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from evalservice.comparisons import MAX_COVERAGE_GAP, MIN_COVERAGE
from evalservice.comparisons.designs import EQUIVALENCE_LEVEL
from evalservice.statistics.intervals import Interval
from evalservice.statistics.multiple import holm
from evalservice.statistics.sequential import UNIFORM, BettingProcess, ConfidenceSequence, Prior, log_e_value

SHOWN_LEVEL = 0.95

Floats = npt.NDArray[np.float64]
Outcome = Literal["first", "second", "equivalent"]
Verdict = Literal["winner", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a race is decided. binary: values are 0 or 1; else they lie between low and high. margin: as in `Rules`.
    min_coverage, max_coverage_gap: scored shares of the test cases without which nothing is decided."""

    alpha: float
    binary: bool
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    margin: float = 0.0
    prior: Prior = UNIFORM
    min_coverage: float = MIN_COVERAGE
    max_coverage_gap: float = MAX_COVERAGE_GAP


@dataclass(slots=True)
class Duel:
    """One pair so far. Differences are first minus second; wins are the first's, the metric's direction considered.

    p_value: 1 over the greatest e-value so far. ahead: who was ahead then. sequences: of the mean difference, one for
    each level. n: test cases that both have a value for. outcome: what was decided, after `n` test cases.
    """

    first: str
    second: str
    bet: BettingProcess
    sequences: list[ConfidenceSequence]
    n: int = 0
    wins: int = 0
    losses: int = 0
    p_value: float = 1.0
    p_corrected: float = 1.0
    ahead: Literal["first", "second"] | None = None
    outcome: Outcome | None = None

    @property
    def ties(self) -> int:
        """Test cases on which both are equally good."""
        return self.n - self.wins - self.losses

    def interval(self, level: float) -> Interval:
        """The difference's confidence sequence at this level."""
        return next(each for each in self.sequences if math.isclose(each.level, level)).interval()

    def take(self, first: Floats, second: Floats, terms: Terms) -> None:
        """More test cases, in order; NaN where a model has no value."""
        both = np.isfinite(first) & np.isfinite(second)
        differences = first[both] - second[both]
        if not len(differences):
            return
        better = differences if terms.higher_is_better else -differences
        if terms.binary:
            wins = self.wins + np.cumsum(better > 0)
            losses = self.losses + np.cumsum(better < 0)
            evidence, balance = log_e_value(wins, losses, terms.prior), (wins - losses).astype(np.float64)
        else:
            evidence, balance = np.empty(len(better)), np.empty(len(better))
            for k, value in enumerate(better.tolist()):
                self.bet.add(value)
                evidence[k], balance[k] = self.bet.log_e, self.bet.balance
        best = int(evidence.argmax())
        p_value = math.exp(-max(0.0, float(evidence[best])))
        if p_value < self.p_value:
            self.p_value, self.ahead = p_value, "first" if balance[best] > 0 else "second"
        for sequence in self.sequences:
            for value in differences.tolist():
                sequence.add(value)
        self.n += len(better)
        self.wins += int((better > 0).sum())
        self.losses += int((better < 0).sum())

    def decide(self, level: float, terms: Terms) -> None:
        """Settle the duel when the evidence does. level: of the simultaneous confidence sequence."""
        if self.p_corrected <= terms.alpha and self.ahead is not None and self._beyond(level, terms):
            self.outcome = self.ahead
            return
        within = self.interval(EQUIVALENCE_LEVEL)
        if within.low is None or within.high is None:
            return
        if terms.margin > 0 and -terms.margin <= within.low and within.high <= terms.margin:
            self.outcome = "equivalent"

    def _beyond(self, level: float, terms: Terms) -> bool:
        if terms.margin == 0:
            return True
        found = self.interval(level)
        if found.low is None or found.high is None:
            return False
        upwards = (self.ahead == "first") == terms.higher_is_better
        return found.low > terms.margin if upwards else found.high < -terms.margin


@dataclass(frozen=True, slots=True)
class Standing:
    """How a race stands. verdict: None while it is open. leaders: who has lost no duel. beaten: who is out, having lost
    to every leader; when all others are, a leader alone is the winner."""

    verdict: Literal["winner", "equivalent"] | None
    leaders: tuple[str, ...]
    beaten: tuple[str, ...]


@dataclass(slots=True)
class Race:
    """All models of a test. position: test cases taken. reached: where those that are out stopped. scored: how many of
    its test cases each model has a value for."""

    terms: Terms
    models: list[str]
    duels: list[Duel]
    position: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, models: Sequence[str], terms: Terms) -> Self:
        """At the start line."""
        pairs = list(combinations(models, 2))
        width = terms.high - terms.low
        levels = sorted({SHOWN_LEVEL, EQUIVALENCE_LEVEL, simultaneous_level(terms.alpha, len(pairs))})
        duels = [
            Duel(
                first,
                second,
                BettingProcess(width),
                [ConfidenceSequence(level, -width, width) for level in levels],
            )
            for first, second in pairs
        ]
        return cls(terms, list(models), duels, scored=dict.fromkeys(models, 0))

    def running(self) -> list[str]:
        """The models that are not out."""
        return [model for model in self.models if model not in self.reached]

    def take(self, values: Mapping[str, Floats]) -> None:
        """The next test cases of the models that are not out: their values, NaN where there is none."""
        for model, own in values.items():
            self.scored[model] += int(np.isfinite(own).sum())
        for duel in self.duels:
            if duel.outcome is None and duel.first in values and duel.second in values:
                duel.take(values[duel.first], values[duel.second], self.terms)
        self.position += len(next(iter(values.values())))
        self._decide()

    def _decide(self) -> None:
        for duel, p in zip(self.duels, holm([duel.p_value for duel in self.duels]), strict=True):
            duel.p_corrected = p
        if not self._covered():
            return
        level = simultaneous_level(self.terms.alpha, len(self.duels))
        for duel in self.duels:
            if duel.outcome is None and duel.first not in self.reached and duel.second not in self.reached:
                duel.decide(level, self.terms)
        for model in self.standing().beaten:
            self.reached.setdefault(model, self.position)

    def _covered(self) -> bool:
        shares = [self.scored[model] / self.position for model in self.running()]
        return min(shares) >= self.terms.min_coverage and max(shares) - min(shares) <= self.terms.max_coverage_gap

    def standing(self) -> Standing:
        """Who leads, and whether that is the end."""
        lost = {
            (duel.second, duel.first) if duel.outcome == "first" else (duel.first, duel.second)
            for duel in self.duels
            if duel.outcome in ("first", "second")
        }
        losers = {loser for loser, _ in lost}
        leaders = tuple(model for model in self.models if model not in losers)
        out = tuple(m for m in self.models if m in losers and leaders and all((m, best) in lost for best in leaders))
        if not leaders or len(leaders) + len(out) < len(self.models):
            return Standing(None, leaders, out)
        if len(leaders) == 1:
            return Standing("winner", leaders, out)
        between = [duel.outcome for duel in self.duels if duel.first in leaders and duel.second in leaders]
        equal = all(outcome == "equivalent" for outcome in between)
        return Standing("equivalent" if equal else None, leaders, out)

    def stored(self) -> dict[str, Any]:
        """As JSON values, for `restored`."""
        kept = asdict(self)
        del kept["terms"]
        return kept

    @classmethod
    def restored(cls, kept: Mapping[str, Any], terms: Terms) -> Self:
        """The race whose `stored` that is."""
        duels = [
            Duel(
                **{
                    **duel,
                    "bet": BettingProcess(**duel["bet"]),
                    "sequences": [
                        ConfidenceSequence(**{**each, "_bounds": tuple(each["_bounds"])}) for each in duel["sequences"]
                    ],
                }
            )
            for duel in kept["duels"]
        ]
        return cls(terms, **{**kept, "duels": duels})


def simultaneous_level(alpha: float, pairs: int) -> float:
    """The level at which the intervals of so many pairs hold at once (Bonferroni)."""
    return 1 - alpha / pairs

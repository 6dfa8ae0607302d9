"""Two versions of a policy that share its requests by chance: what outcomes say of each, at every look. Pure.

    contest = Contest.begin(cost_weight=None)
    contest.take(TRIAL, {"success": 1.0, "quality": 0.8})     # an outcome, in the order in which they are applied
    contest.duels["quality"].interval()                       # of trial minus active, holds at all times at once
    contest.harmful                                           # the trial fails more often, beyond doubt at 5 %

Outcomes are taken to be independent of each other, with a mean of each version that stays. The interval is that of
`ConfidenceSequence` over blocks (`evalservice.statistics.unpaired`), which need not know the versions' shares: where
fewer outcomes are reported of one version the comparison is fair, as long as it does not hang on what happened whether
it is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from evalservice.statistics.intervals import Interval
from evalservice.statistics.sequential import ConfidenceSequence
from evalservice.statistics.unpaired import NO_VALUES, Block, Blocks, RateProcess, Values

ACTIVE, TRIAL = 0, 1
ALPHA = 0.05
RANGES = {"success": (0.0, 1.0), "quality": (0.0, 1.0), "utility": (-1.0, 1.0)}
"""Of the rewards; a utility, quality minus the cost's worth, that is lower counts as -1."""
Verdict = Literal["trial", "active", "continue"]


@dataclass(slots=True)
class Duel:
    """One reward: what each version got of it, and the sequence of their difference."""

    blocks: Blocks
    sequence: ConfidenceSequence
    active: Values = NO_VALUES
    trial: Values = NO_VALUES

    def add(self, version: int, value: float) -> Block | None:
        """One more outcome's; gives the block that it completes."""
        if version == TRIAL:
            self.trial += value
        else:
            self.active += value
        block = self.blocks.add(version, value)
        if block is not None:
            self.sequence.add(block.difference)
        return block

    def interval(self) -> Interval:
        """Of trial minus active, at 95 %. Without bounds where those of different times contradict each other, because
        the difference changed."""
        found = self.sequence.interval()
        if found.low is not None and found.high is not None and found.low > found.high:
            return Interval(found.value, None, None, None, found.n, found.method)
        return found

    @property
    def verdict(self) -> Verdict:
        """Which version is better, or that more outcomes are needed."""
        found = self.interval()
        if found.low is not None and found.low > 0:
            return "trial"
        return "active" if found.high is not None and found.high < 0 else "continue"


@dataclass(slots=True)
class Contest:
    """All rewards, and the evidence that the trial fails more often. cost_weight: of a utility, quality per US dollar;
    None: there is none."""

    cost_weight: float | None
    duels: dict[str, Duel]
    harm: RateProcess

    @classmethod
    def begin(cls, cost_weight: float | None) -> Self:
        """Before the first outcome."""
        kinds = [kind for kind in RANGES if kind != "utility" or cost_weight is not None]
        return cls(cost_weight, {kind: Duel(Blocks(), _sequence(kind)) for kind in kinds}, RateProcess())

    def take(self, version: int, rewards: Mapping[str, float]) -> None:
        """What has become known of one outcome. Rewards of another kind are left out."""
        for kind, value in rewards.items():
            if kind not in self.duels:
                continue
            low, high = RANGES[kind]
            block = self.duels[kind].add(version, min(max(value, low), high))
            if kind == "success" and block is not None:
                self.harm.add(Block(_failures(block.first), _failures(block.second)))

    @property
    def harmful(self) -> bool:
        """Whether the trial's failure rate was ever shown to be the higher one."""
        return self.harm.greatest >= -math.log(ALPHA)

    @property
    def failure_p_value(self) -> float:
        """Of "the trial's failure rate is at most the active version's"; holds at every look."""
        return math.exp(-self.harm.greatest)

    def stored(self) -> dict[str, Any]:
        """As JSON values, for `restored`."""
        return asdict(self)

    @classmethod
    def restored(cls, kept: Mapping[str, Any]) -> Self:
        """The contest whose `stored` that is."""
        duels = {
            kind: Duel(
                Blocks(**{**duel["blocks"], "older": Values(**duel["blocks"]["older"])}),
                ConfidenceSequence(**{**duel["sequence"], "_bounds": tuple(duel["sequence"]["_bounds"])}),
                Values(**duel["active"]),
                Values(**duel["trial"]),
            )
            for kind, duel in kept["duels"].items()
        }
        harm = {**kept["harm"], **{name: Values(**kept["harm"][name]) for name in ("first", "second")}}
        return cls(kept["cost_weight"], duels, RateProcess(**harm))


def _sequence(kind: str) -> ConfidenceSequence:
    low, high = RANGES[kind]
    return ConfidenceSequence(1 - ALPHA, low - high, high - low)


def _failures(successes: Values) -> Values:
    return Values(successes.n, successes.n - successes.sum)

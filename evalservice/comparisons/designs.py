"""Two systems on the same items: the test, the intervals and the effect that the metric and the design call for. Pure.

- clustered items: clustered t (CR1); below 30 clusters, or where these do not differ, sign flips of whole clusters;
- binary, one sample an item: exact McNemar with Tango's interval;
- everything else, and binary over several samples: sign flips with Student's interval, BCa below 100 items;
- corpus metrics: approximate randomisation, with the percentile bootstrap of the difference; over whole clusters where
  items are clustered.

Never by the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from evalservice.scoring import Metric
from evalservice.statistics.binary import Pairs, cohens_g, conditional_odds_ratio, difference_interval, mcnemar
from evalservice.statistics.clusters import cluster_sums
from evalservice.statistics.corpus import approximate_randomisation, bootstrap_corpus_difference
from evalservice.statistics.intervals import Interval, clustered_mean_interval, mean_interval
from evalservice.statistics.paired import (
    clustered_p_value,
    mean_difference_interval,
    paired_t,
    sign_flips,
    signed_ranks,
)
from evalservice.statistics.power import items_for_pairs, items_for_t, noticeable_difference, noticeable_effect

Test = Literal["mcnemar_exact", "sign_flips", "clustered_t", "clustered_sign_flips", "approximate_randomisation"]

FEW_CLUSTERS = 30
EQUIVALENCE_LEVEL = 0.9
SHOWN_FLIPS = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a comparison is made. margin: the smallest difference that matters, in the metric's units; 0: any does."""

    alpha: float = 0.05
    margin: float = 0.0
    power: float = 0.8
    seed: int = 0
    draws: int = 10_000
    resamples: int = 1_000


@dataclass(frozen=True, slots=True)
class System:
    """A system's values, shape (n,), NaN where an item has none; a corpus metric's sufficient statistics, (n, k).
    name: unique. label: what it is called in words; the name by default."""

    name: str
    values: Floats
    statistics: Floats | None = None
    label: str = ""

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Which items have a value."""
        numbers = self.values[:, None] if self.statistics is None else self.statistics
        return np.asarray(np.isfinite(numbers).all(axis=1))


@dataclass(frozen=True, slots=True)
class Items:
    """What is known of the items. indices: of the test cases, (n,). clusters: codes (n,), None where there are none.
    sampled: several completions an item, whose mean is its value."""

    indices: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int64] | None = None
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class PairComparison:
    """Two systems; differences are first minus second, whatever is better.

    wins: items on which the first is better, losses: the second, the metric's direction considered. interval: 95 %, not
    corrected; simultaneous: at 1 - α / pairs. noticeable: the least difference that this many items would show with the
    rules' power. needed: further items for that power at the difference and spread that were seen.
    """

    first: str
    second: str
    n: int
    test: Test
    p_value: float
    p_corrected: float
    interval: Interval
    simultaneous: tuple[float | None, float | None]
    equivalence: tuple[float | None, float | None]
    effect: str | None
    effect_size: float | None
    wins: int
    ties: int
    losses: int
    noticeable: float | None
    needed: int | None
    also: dict[str, float | None] = field(default_factory=dict)
    won_items: tuple[int, ...] = ()
    lost_items: tuple[int, ...] = ()


def compare_pair(
    first: System, second: System, metric: Metric, rules: Rules, items: Items, pairs: int
) -> PairComparison:
    """Compare two of the systems that make so many pairs. Raises ValueError where no item has a score of both."""
    both = first.scored & second.scored
    if not both.any():
        raise ValueError(f"{first.name} and {second.name} have no scored item in common")
    found = _Pair(first, second, both, metric, rules, items, 1 - rules.alpha / pairs)
    if metric.kind == "corpus":
        return found.corpus()
    if items.clusters is not None:
        return found.clustered()
    if is_binary(metric, items, np.concatenate([found.x, found.y])):
        return found.binary()
    return found.continuous()


def is_binary(metric: Metric, items: Items, values: Floats) -> bool:
    """Whether these values are single answers, right or wrong."""
    return metric.kind == "binary" and not items.sampled and bool(np.isin(values, (0.0, 1.0)).all())


class _Pair:
    """One pair's numbers, and the comparison by each of the designs."""

    def __init__(
        self,
        first: System,
        second: System,
        both: npt.NDArray[np.bool_],
        metric: Metric,
        rules: Rules,
        items: Items,
        level: float,
    ) -> None:
        self.first, self.second, self.both = first, second, both
        self.metric, self.rules, self.level = metric, rules, level
        self.x, self.y = first.values[both], second.values[both]
        self.d = self.x - self.y
        self.clusters = None if items.clusters is None else items.clusters[both]
        self.indices = items.indices[both]

    def binary(self) -> PairComparison:
        table = Pairs.of(self.x, self.y)
        test = mcnemar(table)
        rules, n = self.rules, table.n
        share = table.discordant / n
        needed = None
        if table.difference:
            needed = items_for_pairs(table.difference, share, alpha=rules.alpha, power=rules.power)
        return self._made(
            "mcnemar_exact",
            test.p_value,
            [difference_interval(table, level) for level in self._levels()],
            ("cohens_g", cohens_g(table)),
            noticeable_difference(n, share, alpha=rules.alpha, power=rules.power),
            needed,
            {"mid_p": test.mid_p, "odds_ratio": conditional_odds_ratio(table)[0], "discordance": share},
        )

    def continuous(self) -> PairComparison:
        rules = self.rules
        flips = sign_flips(self.d, draws=rules.draws, seed=rules.seed)
        student, ranks = paired_t(self.x, self.y), signed_ranks(self.d)
        also = {"paired_t_p": student.p_value, "wilcoxon_p": ranks.p_value, "rank_biserial": ranks.rank_biserial}
        intervals = [mean_difference_interval(self.d, level, seed=rules.seed) for level in self._levels()]
        return self._made(
            "sign_flips",
            flips.p_value,
            intervals,
            ("cohens_dz", student.cohens_dz),
            *self._by_t(student.cohens_dz),
            also,
        )

    def clustered(self) -> PairComparison:
        assert self.clusters is not None
        intervals = [clustered_mean_interval(self.d, self.clusters, level) for level in self._levels()]
        groups = intervals[0].clusters or 0
        p = clustered_p_value(intervals[0]) if groups >= FEW_CLUSTERS else None
        test: Test = "clustered_t"
        if p is None:
            test = "clustered_sign_flips"
            sums = cluster_sums(self.d, self.clusters)
            p = sign_flips(sums, draws=self.rules.draws, seed=self.rules.seed).p_value
        plain = mean_interval(self.d).stderr
        stderr = intervals[0].stderr
        effect = (stderr / plain) ** 2 if stderr is not None and plain else None
        dz = paired_t(self.x, self.y).cohens_dz
        noticeable, needed = self._by_t(dz)
        if effect is not None:  # as many times the items as they are worth less
            noticeable = None if noticeable is None else noticeable * math.sqrt(effect)
            needed = None if needed is None else needed * effect
        return self._made(
            test,
            p,
            intervals,
            ("cohens_dz", dz),
            noticeable,
            needed,
            {"clusters": float(groups), "design_effect": effect},
        )

    def corpus(self) -> PairComparison:
        metric, rules = self.metric, self.rules
        assert metric.aggregate is not None
        assert self.first.statistics is not None
        assert self.second.statistics is not None
        a, b = self.first.statistics[self.both], self.second.statistics[self.both]
        if self.clusters is not None:
            a, b = (cluster_sums(rows, self.clusters) for rows in (a, b))
        test = approximate_randomisation(a, b, metric.aggregate, draws=rules.draws, seed=rules.seed)
        intervals = bootstrap_corpus_difference(
            a, b, metric.aggregate, resamples=rules.resamples, levels=self._levels(), seed=rules.seed
        )
        stderr = intervals[0].stderr
        needed = None
        if test is not None and stderr and test.difference:
            needed = len(self.d) * _planned_z(rules) ** 2 * (stderr / test.difference) ** 2
        return self._made(
            "approximate_randomisation",
            1.0 if test is None else test.p_value,
            intervals,
            (None, None),
            None if stderr is None else stderr * _planned_z(rules),
            needed,
            {},
        )

    def _by_t(self, dz: float | None) -> tuple[float | None, float | None]:
        """What a t test of this many items would notice, in units, and how many items the effect seen needs."""
        rules, n = self.rules, len(self.d)
        spread = float(self.d.std(ddof=1)) if n > 1 else 0.0
        noticed = noticeable_effect(n, alpha=rules.alpha, power=rules.power) if spread else None
        needed = items_for_t(dz, alpha=rules.alpha, power=rules.power) if dz and abs(dz) < 5 else None
        return None if noticed is None else noticed * spread, needed

    def _levels(self) -> tuple[float, float, float]:
        return 0.95, self.level, EQUIVALENCE_LEVEL

    def _made(
        self,
        test: Test,
        p_value: float,
        intervals: Sequence[Interval],
        effect: tuple[str | None, float | None],
        noticeable: float | None,
        needed: float | None,
        also: dict[str, float | None],
    ) -> PairComparison:
        plain, simultaneous, equivalence = intervals
        better = self.d if self.metric.higher_is_better else -self.d
        finite = np.nan_to_num(better)  # a corpus metric's item may have statistics and no value
        wins, losses = np.flatnonzero(finite > 0), np.flatnonzero(finite < 0)
        n = len(self.d)
        more = None if needed is None or not math.isfinite(needed) else max(0, math.ceil(needed) - n)
        return PairComparison(
            first=self.first.name,
            second=self.second.name,
            n=n,
            test=test,
            p_value=p_value,
            p_corrected=p_value,
            interval=plain,
            simultaneous=(simultaneous.low, simultaneous.high),
            equivalence=(equivalence.low, equivalence.high),
            effect=effect[0],
            effect_size=effect[1],
            wins=len(wins),
            ties=n - len(wins) - len(losses),
            losses=len(losses),
            noticeable=noticeable,
            needed=more,
            also=also,
            won_items=tuple(self.indices[wins[:SHOWN_FLIPS]].tolist()),
            lost_items=tuple(self.indices[losses[:SHOWN_FLIPS]].tolist()),
        )


def _planned_z(rules: Rules) -> float:
    return float(stats.norm.ppf(1 - rules.alpha / 2) + stats.norm.ppf(rules.power))

"""Systems measured on the same items: which is better on a metric, how sure that is, and what to say about it. Pure.

    compare([System("a", values_a), System("b", values_b)], Metric("exact_match", "binary"), Rules())
    -> MetricComparison(verdict="winner", winner="a", pairs=[PairComparison(test="mcnemar_exact", p_value=…, …)], …)

The test is chosen by the kind of metric and the design, never by the result:
- clustered items: clustered t (CR1); below 30 clusters sign flips of whole clusters;
- binary, one sample an item: exact McNemar with Tango's interval;
- everything else, and binary over several samples: sign flips with Student's interval, BCa below 100 items;
- corpus metrics: approximate randomisation, with the percentile bootstrap of the difference; over whole clusters where
  items are clustered.

Holm's correction over all pairs of a metric. A winner beats every rival after it, with the simultaneous interval (at
1 - α / pairs) beyond the margin; equivalent are systems whose 90 % intervals all lie within ± margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from evalservice.scoring import Metric
from evalservice.statistics.binary import Pairs, cohens_g, conditional_odds_ratio, difference_interval, mcnemar
from evalservice.statistics.corpus import approximate_randomisation, bootstrap_corpus_difference
from evalservice.statistics.intervals import (
    Interval,
    bootstrap_corpus_interval,
    clustered_mean_interval,
    mean_interval,
    proportion_interval,
)
from evalservice.statistics.multiple import cochrans_q, friedman, holm
from evalservice.statistics.paired import (
    clustered_p_value,
    clustered_sums,
    mean_difference_interval,
    paired_t,
    sign_flips,
    signed_ranks,
)
from evalservice.statistics.power import items_for_pairs, items_for_t, noticeable_difference, noticeable_effect

Verdict = Literal["winner", "equivalent", "inconclusive"]
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
    """A system's values, shape (n,), NaN where an item has none; a corpus metric's sufficient statistics, (n, k)."""

    name: str
    values: Floats
    statistics: Floats | None = None

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


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric over all systems. order: best first, by value. said: the verdict in plain words."""

    metric: str
    systems: dict[str, Interval]
    coverage: dict[str, float]
    pairs: tuple[PairComparison, ...]
    order: tuple[str, ...]
    verdict: Verdict
    winner: str | None
    said: str
    overall: dict[str, float | str | None] | None = None


def compare(systems: Sequence[System], metric: Metric, rules: Rules, items: Items) -> MetricComparison:
    """Compare two or more systems on one metric. Raises ValueError where two have no item in common."""
    pairs = [_pair(a, b, metric, rules, items, len(systems)) for a, b in combinations(systems, 2)]
    corrected = holm([pair.p_value for pair in pairs])
    pairs = [_with_p(pair, p) for pair, p in zip(pairs, corrected, strict=True)]
    own = {system.name: _own(system, metric, rules, items) for system in systems}
    sign = 1 if metric.higher_is_better else -1
    worst = -sign * math.inf
    best_first = {name: worst if value.value is None else value.value for name, value in own.items()}
    order = sorted(own, key=lambda name: -sign * best_first[name])
    verdict, winner = _verdict(pairs, order[0], sign, rules)
    return MetricComparison(
        metric=metric.name,
        systems=own,
        coverage={system.name: float(system.scored.mean()) if system.scored.size else 0.0 for system in systems},
        pairs=tuple(pairs),
        order=tuple(order),
        verdict=verdict,
        winner=winner,
        said=_said(verdict, winner, pairs, order, rules),
        overall=_overall(systems, metric, items) if len(systems) > 2 else None,
    )


def _own(system: System, metric: Metric, rules: Rules, items: Items) -> Interval:
    """The system's own value with its interval, as a run's aggregates have it."""
    scored = system.scored
    clusters = None if items.clusters is None else items.clusters[scored]
    if metric.kind == "corpus":
        assert system.statistics is not None
        assert metric.aggregate is not None
        rows = system.statistics[scored]
        return bootstrap_corpus_interval(
            rows, metric.aggregate, seed=rules.seed, resamples=rules.resamples, clusters=clusters
        )
    values = system.values[scored]
    if clusters is not None:
        return clustered_mean_interval(values, clusters)
    if _is_binary(metric, items, values):
        return proportion_interval(int(values.sum()), values.size)
    return mean_interval(values)


def _pair(first: System, second: System, metric: Metric, rules: Rules, items: Items, systems: int) -> PairComparison:
    both = first.scored & second.scored
    if not both.any():
        raise ValueError(f"{first.name} and {second.name} have no scored item in common")
    found = _Pair(first, second, both, metric, rules, items, 1 - rules.alpha / math.comb(systems, 2))
    if metric.kind == "corpus":
        return found.corpus()
    if items.clusters is not None:
        return found.clustered()
    if _is_binary(metric, items, np.concatenate([found.x, found.y])):
        return found.binary()
    return found.continuous()


def _is_binary(metric: Metric, items: Items, values: Floats) -> bool:
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
        few = groups < FEW_CLUSTERS
        if few:
            sums = clustered_sums(self.d, self.clusters)
            p = sign_flips(sums, draws=self.rules.draws, seed=self.rules.seed).p_value
        else:
            found = clustered_p_value(intervals[0])
            p = found if found is not None else 0.0 if np.any(self.d) else 1.0  # every cluster the same
        plain = mean_interval(self.d).stderr
        stderr = intervals[0].stderr
        effect = (stderr / plain) ** 2 if stderr is not None and plain else None
        dz = paired_t(self.x, self.y).cohens_dz
        noticeable, needed = self._by_t(dz)
        if effect is not None:  # as many times the items as they are worth less
            noticeable = None if noticeable is None else noticeable * math.sqrt(effect)
            needed = None if needed is None else needed * effect
        return self._made(
            "clustered_sign_flips" if few else "clustered_t",
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
            a, b = (_sums(rows, self.clusters) for rows in (a, b))
        test = approximate_randomisation(a, b, metric.aggregate, draws=rules.draws, seed=rules.seed)
        intervals = [
            bootstrap_corpus_difference(a, b, metric.aggregate, resamples=rules.resamples, level=level, seed=rules.seed)
            for level in self._levels()
        ]
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


def _sums(rows: Floats, clusters: npt.NDArray[np.int64]) -> Floats:
    codes = np.unique(clusters, return_inverse=True)[1]
    return np.stack([np.bincount(codes, weights=column) for column in rows.T], axis=1)


def _planned_z(rules: Rules) -> float:
    return float(stats.norm.ppf(1 - rules.alpha / 2) + stats.norm.ppf(rules.power))


def _with_p(pair: PairComparison, corrected: float) -> PairComparison:
    return replace(pair, p_corrected=corrected)


def _verdict(pairs: Sequence[PairComparison], best: str, sign: int, rules: Rules) -> tuple[Verdict, str | None]:
    if all(_beats(pair, best, sign, rules) for pair in pairs if best in (pair.first, pair.second)):
        return "winner", best
    within = rules.margin > 0 and all(
        low is not None and high is not None and -rules.margin <= low and high <= rules.margin
        for low, high in (pair.equivalence for pair in pairs)
    )
    return ("equivalent" if within else "inconclusive"), None


def _beats(pair: PairComparison, best: str, sign: int, rules: Rules) -> bool:
    low, high = pair.simultaneous
    if low is None or high is None or pair.p_corrected >= rules.alpha:
        return False
    forward = sign if pair.first == best else -sign
    return low > rules.margin if forward > 0 else high < -rules.margin


def _said(
    verdict: Verdict, winner: str | None, pairs: Sequence[PairComparison], order: Sequence[str], rules: Rules
) -> str:
    closest = max((pair for pair in pairs if order[0] in (pair.first, pair.second)), key=lambda pair: pair.p_corrected)
    rival = closest.second if closest.first == order[0] else closest.first
    low, high = closest.interval.low, closest.interval.high
    shown = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    difference = "undefined" if closest.interval.value is None else f"{closest.interval.value:+.4f}"
    seen = f"{closest.first} - {closest.second} = {difference}{shown}, p = {closest.p_corrected:.3g}"
    if verdict == "winner":
        others = rival if len(order) == 2 else f"every other, of which {rival} comes nearest"
        return f"{winner} is better than {others}: {seen}"
    if verdict == "equivalent":
        return f"equivalent: every difference lies within ±{rules.margin:g} ({seen})"
    more = "" if not closest.needed else f": needs about {closest.needed:,} more items to tell {order[0]} from {rival}"
    return f"inconclusive{more} ({seen})"


def _overall(systems: Sequence[System], metric: Metric, items: Items) -> dict[str, float | str | None] | None:
    """Whether any system differs at all: for information, it decides nothing."""
    if metric.kind == "corpus" or items.clusters is not None:
        return None
    scored = np.logical_and.reduce([system.scored for system in systems])
    if not scored.any():
        return None
    x = np.stack([system.values[scored] for system in systems], axis=1)
    binary = _is_binary(metric, items, x.ravel())
    statistic, p = cochrans_q(x) if binary else friedman(x)
    return {"test": "cochrans_q" if binary else "friedman", "statistic": statistic, "p_value": p}

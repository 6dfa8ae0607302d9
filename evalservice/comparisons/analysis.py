"""Systems measured on the same items: which is better on a metric, how sure that is, and what to say about it. Pure.

    compare([System("a", values_a), System("b", values_b)], Metric("exact_match", "binary"), Rules(), items)
    -> MetricComparison(verdict="winner", winner="a", pairs=[PairComparison(test="mcnemar_exact", p_value=…, …)], …)

Pairs are compared as `designs` says, with Holm's correction over all pairs of a metric. A winner beats every rival
after it, with the simultaneous interval (at 1 - α / pairs) beyond the margin; equivalent are systems whose 90 %
intervals all lie within ± margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from evalservice.comparisons.designs import Items, PairComparison, Rules, System, compare_pair, is_binary
from evalservice.scoring import Metric
from evalservice.statistics.intervals import (
    Interval,
    bootstrap_corpus_interval,
    clustered_mean_interval,
    mean_interval,
    proportion_interval,
)
from evalservice.statistics.multiple import cochrans_q, friedman, holm

Verdict = Literal["winner", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric over all systems. order: best first, by value. said: the verdict in plain words."""

    metric: str
    systems: dict[str, Interval]
    pairs: tuple[PairComparison, ...]
    order: tuple[str, ...]
    verdict: Verdict
    winner: str | None
    said: str
    overall: dict[str, float | str | None] | None = None


def compare(systems: Sequence[System], metric: Metric, rules: Rules, items: Items) -> MetricComparison:
    """Compare two or more systems on one metric. Raises ValueError where two have no item in common."""
    both = list(combinations(systems, 2))
    pairs = [compare_pair(a, b, metric, rules, items, len(both)) for a, b in both]
    corrected = holm([pair.p_value for pair in pairs])
    pairs = [replace(pair, p_corrected=p) for pair, p in zip(pairs, corrected, strict=True)]
    own = {system.name: own_interval(system, metric, rules, items) for system in systems}
    sign = 1 if metric.higher_is_better else -1
    worst = -sign * math.inf
    best_first = {name: worst if value.value is None else value.value for name, value in own.items()}
    order = sorted(own, key=lambda name: -sign * best_first[name])
    verdict, winner = _verdict(pairs, order[0], sign, rules)
    return MetricComparison(
        metric=metric.name,
        systems=own,
        pairs=tuple(pairs),
        order=tuple(order),
        verdict=verdict,
        winner=winner,
        said=_said(verdict, pairs, {s.name: s.label or s.name for s in systems}, order, rules),
        overall=_overall(systems, metric, items) if len(systems) > 2 else None,
    )


def own_interval(system: System, metric: Metric, rules: Rules, items: Items) -> Interval:
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
    if is_binary(metric, items, values):
        return proportion_interval(int(values.sum()), values.size)
    return mean_interval(values)


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
    verdict: Verdict, pairs: Sequence[PairComparison], label: Mapping[str, str], order: Sequence[str], rules: Rules
) -> str:
    best = order[0]
    closest = max((pair for pair in pairs if best in (pair.first, pair.second)), key=lambda pair: pair.p_corrected)
    rival = label[closest.second if closest.first == best else closest.first]
    value, low, high = closest.interval.value, closest.interval.low, closest.interval.high
    shown = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    difference = "undefined" if value is None else f"{value:+.4f}"
    seen = f"{label[closest.first]} - {label[closest.second]} = {difference}{shown}, p = {closest.p_corrected:.3g}"
    if verdict == "winner":
        others = rival if len(order) == 2 else f"every other, of which {rival} comes nearest"
        return f"{label[best]} is better than {others}: {seen}"
    if verdict == "equivalent":
        return f"equivalent: every difference lies within ±{rules.margin:g} ({seen})"
    more = f": needs about {closest.needed:,} more items to tell {label[best]} from {rival}" if closest.needed else ""
    return f"inconclusive{more} ({seen})"


def _overall(systems: Sequence[System], metric: Metric, items: Items) -> dict[str, float | str | None] | None:
    """Whether any system differs at all: for information, it decides nothing."""
    if metric.kind == "corpus" or items.clusters is not None:
        return None
    scored = np.logical_and.reduce([system.scored for system in systems])
    if not scored.any():
        return None
    x = np.stack([system.values[scored] for system in systems], axis=1)
    binary = is_binary(metric, items, x.ravel())
    statistic, p = cochrans_q(x) if binary else friedman(x)
    return {"test": "cochrans_q" if binary else "friedman", "statistic": statistic, "p_value": p}

"""What follows from an A/B test's configuration before a model is asked: its sample and what it costs. Pure.

config = ABTestConfig(design="sequential", minimum_detectable_effect=0.05)
plan_ab_test(config, subject, models=2, alpha=0.05)
-> ABTestPlan(metric="exact_match", test_cases=1097, fixed_test_cases=783, model_calls=2194, …)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evalservice.comparisons.ab_schemas import ABTestConfig, ABTestPlan, planned_discordance
from evalservice.errors import InvalidInput
from evalservice.scoring import Metric
from evalservice.statistics.power import items_for_pairs, items_for_t, noticeable_difference, noticeable_effect

LONGEST = 1.4
"""So many times the fixed design's test cases a sequential test takes at most: with them it finds a difference as large
as the effect as often as the fixed design does (simulated: 79 to 83 % for a power of 0.8, 90 % for one of 0.9)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an A/B test measures on: the benchmark's metrics and the dataset's size."""

    metrics: Sequence[Metric]
    primary: str
    epochs: int
    total: int
    clustered: bool


def plan_ab_test(config: ABTestConfig, subject: Subject, *, models: int, alpha: float) -> ABTestPlan:
    """Check the design against the benchmark and size it. Raises InvalidInput."""
    known = {metric.name: metric for metric in subject.metrics}
    names = tuple(dict.fromkeys(config.metrics or (subject.primary,)))
    for name in names:
        if name not in known:
            raise InvalidInput("metrics", name, f"the benchmark has {', '.join(known)}")
    metric = known[names[0]]
    if config.design == "sequential":
        _check_sequential(metric, subject)
    pairs = models * (models - 1) // 2
    level = alpha / pairs
    effect = config.minimum_detectable_effect
    if effect is not None and effect <= config.margin:
        raise InvalidInput("minimum_detectable_effect", effect, f"more than the margin of {config.margin:g}")
    spread = _Spread.of(config, metric, subject.epochs)
    fixed = None if effect is None else math.ceil(spread.items(effect, level, config.power))
    noticeable = spread.noticeable(subject.total, level, config.power)
    if fixed is not None and config.test_cases is None and fixed > subject.total:
        least = "no difference" if noticeable is None else f"{noticeable:.3g} or more"
        raise InvalidInput(
            "minimum_detectable_effect",
            effect,
            f"with a power of {config.power:g} it needs {fixed:,} test cases and the dataset has {subject.total:,}, "
            f"with which {least} is found; a larger effect or a lower power, or test_cases to go without",
        )
    count = _count(config, subject, fixed, models)
    return ABTestPlan(
        metric=metric.name,
        metrics=names,
        epochs=subject.epochs,
        pairs=pairs,
        test_cases=count,
        fixed_test_cases=fixed,
        noticeable=spread.noticeable(count, level, config.power),
        model_calls=count * models * subject.epochs,
    )


def _check_sequential(metric: Metric, subject: Subject) -> None:
    why = None
    if metric.kind == "corpus":
        why = "is computed over all test cases at once"
    elif None in metric.scale:
        why = "has no bounds, which a test that is looked at all the time needs"
    if why is not None:
        raise InvalidInput("design", "sequential", f"fixed, because {metric.name} {why}")
    if subject.clustered:
        raise InvalidInput("design", "sequential", "fixed, because the dataset's test cases depend on each other")


def _count(config: ABTestConfig, subject: Subject, fixed: int | None, models: int) -> int:
    """Test cases for each model."""
    wanted = config.test_cases
    if wanted is not None and wanted > subject.total:
        raise InvalidInput("test_cases", wanted, f"at most the dataset's {subject.total:,}")
    asked_for = wanted is not None or (fixed is not None and config.design == "fixed")
    if wanted is None and fixed is not None:
        wanted = min(subject.total, math.ceil(fixed * LONGEST)) if config.design == "sequential" else fixed
    count = max(2, wanted or subject.total)
    if config.max_model_calls is None:
        return min(count, subject.total)
    payable = config.max_model_calls // (models * subject.epochs)
    if payable < 2 or (asked_for and payable < count):
        calls = (count if asked_for else 2) * models * subject.epochs
        raise InvalidInput("max_model_calls", config.max_model_calls, f"at least {calls:,} for this design")
    return min(count, payable, subject.total)


@dataclass(frozen=True, slots=True)
class _Spread:
    """What is believed of the differences before anything is measured: a discordance, or a standard deviation."""

    discordance: float | None = None
    deviation: float | None = None

    @classmethod
    def of(cls, config: ABTestConfig, metric: Metric, epochs: int) -> _Spread:
        effect = config.minimum_detectable_effect
        if metric.kind == "binary" and epochs == 1:
            share = planned_discordance(config)
            if effect is not None and effect > share:
                raise InvalidInput("minimum_detectable_effect", effect, f"at most the discordance, {share:g}")
            return cls(discordance=share)
        if effect is not None and config.difference_sd is None:
            raise InvalidInput(
                "difference_sd", None, f"given with minimum_detectable_effect, because {metric.name} is not binary"
            )
        return cls(deviation=config.difference_sd)

    def items(self, effect: float, alpha: float, power: float) -> float:
        if self.discordance is not None:
            return items_for_pairs(effect, self.discordance, alpha=alpha, power=power)
        assert self.deviation is not None
        return items_for_t(min(effect / self.deviation, 5.0), alpha=alpha, power=power)

    def noticeable(self, count: int, alpha: float, power: float) -> float | None:
        if self.discordance is not None:
            return noticeable_difference(count, self.discordance, alpha=alpha, power=power)
        if self.deviation is None:
            return None
        effect = noticeable_effect(count, alpha=alpha, power=power)
        return None if effect is None else effect * self.deviation

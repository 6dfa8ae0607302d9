"""How an A/B test is made, as it is given, and what follows from it before a model is asked. Pure.

    config = ABTestConfig(design="sequential", minimum_detectable_effect=0.05)
    plan_ab_test(config, subject, models=2, alpha=0.05)
    -> ABTestPlan(metric="exact_match", test_cases=1097, fixed_test_cases=783, model_calls=2194, …)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from evalservice.errors import InvalidInput
from evalservice.scoring import Metric
from evalservice.statistics.power import items_for_pairs, items_for_t, noticeable_difference, noticeable_effect

LONGEST = 1.4
"""A sequential test that can decide ends undecided at so many times the fixed design's test cases."""
DISCORDANCE = 0.25
MOST_METRICS = 50

MetricName = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ABTestConfig(BaseModel):
    """An A/B test's design.

    fixed: every model answers the same random sample, and one test at its end decides. sequential: the results are
    looked at after every test case, by a test that allows it; a model that has lost is asked no more, and all end when
    it is decided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: Literal["fixed", "sequential"] = "fixed"
    metrics: Annotated[tuple[MetricName, ...], Field(max_length=MOST_METRICS)] = ()
    """The first decides, the others are told as well. Default: the benchmark's primary metric."""
    test_cases: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """A random sample of so many. Default: what power and effect call for, else all."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The chance to find a difference as large as the minimum detectable effect."""
    minimum_detectable_effect: Positive | None = None
    """The difference that the test shall find, in the metric's units."""
    discordance: Annotated[float, Field(gt=0, le=1)] | None = None
    """Binary metrics: the share of test cases that one of two models gets right and the other wrong; a guess, by
    default 0.25 (or the effect, when that is larger)."""
    difference_sd: Positive | None = None
    """Other metrics: the standard deviation of the difference on a test case; a guess."""
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The least difference that matters: a winner is better by more, within it models are equivalent."""
    max_model_calls: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    """The budget: completions over all models, repeated attempts not counted."""
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests in flight of each run."""
    share: bool = True
    """Use runs of the same model, benchmark and configuration that are there or under way."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the order of the test cases, the permutations and the resamples."""


class ABTestPlan(BaseModel):
    """What follows from a configuration: the sample, and what it costs at most.

    test_cases: for each model, at most. fixed_test_cases: what a fixed design with the asked power needs; None where
    no effect is named. noticeable: the least difference that a fixed design of `test_cases` finds with that power; None
    where nothing is known of the spread. model_calls: completions over all models, at most.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    metrics: tuple[str, ...]
    epochs: int
    pairs: int
    test_cases: int
    fixed_test_cases: int | None
    noticeable: float | None
    model_calls: int


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
            share = config.discordance or max(DISCORDANCE, effect or 0.0)
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

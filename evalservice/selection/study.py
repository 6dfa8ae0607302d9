"""Would routing by the request's text pay, on evidence like this?

    study(examples, fit=partial(fit_embedder, "hashed"), folds=5, seed=0)    cross-validated
    study_on(tried, trained, fit=…, seed=0)                                  trained on others
    -> Study(n=5235, apgr=0.61, apgr_ci_low=0.59, …, use=True)

Every request is estimated from others only (equal prompts stay together), by settings that these others' inner folds
chose; its prompt, but none of its scores, is among what the embedder is fitted on. Intervals are of the percentile
bootstrap over distinct prompts, given the estimates.

Without costs the model of lowest mean quality costs 0 and that of the highest 1, and only these two are chosen from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evalservice.errors import InvalidInput
from evalservice.selection.curves import (
    Curve,
    choices,
    drawn,
    gap_recovered,
    mean_gain,
    mixing,
    prices_between,
)
from evalservice.selection.embedders import Embedder, Vectors
from evalservice.selection.evidence_priors import Floats, Ints
from evalservice.selection.neighbours import Evidence
from evalservice.selection.tuning import deal, fit_neighbours

RESAMPLES = 1_000
_CELLS = 1_000_000
Fit = Callable[[Sequence[str]], Embedder]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Requests that every model answered. quality: [n, M]; cost: [n, M] in US dollars, or None; categories: [n]."""

    models: tuple[str, ...]
    prompts: Sequence[str]
    quality: Floats
    cost: Floats | None = None
    categories: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The answer. apgr: average performance gap recovered, and its 95 % interval; cpt50, cpt80: the share of calls to
    the strong model with which 50 and 80 % of the gap are recovered. None where there is no gap, or it is not reached.

    gain: quality above random mixing at equal cost, on average, and its interval; use: whether all of that is above 0.
    quality, cost: [n, models], what was estimated of each request, for `calibrate`.
    """

    n: int
    models: tuple[str, ...]
    weak: str
    strong: str
    apgr: float | None
    apgr_ci_low: float | None
    apgr_ci_high: float | None
    cpt50: float | None
    cpt80: float | None
    curve: Curve
    mixing: Curve
    gain: float
    gain_ci_low: float
    gain_ci_high: float
    quality: Floats
    cost: Floats

    @property
    def use(self) -> bool:
        """Whether routing by the text beats the best policy that does not look at it, beyond doubt."""
        return self.gain_ci_low > 0


def study(examples: Examples, fit: Fit, folds: int, seed: int) -> Study:
    """Cross-validated. Raises InvalidInput for fewer than two folds, or fewer distinct prompts than folds."""
    distinct = len(set(examples.prompts))
    if distinct < 2:
        raise InvalidInput("file", distinct, "at least two different prompts")
    if not 2 <= folds <= distinct:
        raise InvalidInput("folds", folds, f"2 to {distinct}, the number of different prompts")
    examples = _in_order(examples)
    dealt = deal([prompt.encode("utf-8", "surrogatepass") for prompt in examples.prompts], folds, seed)
    embeddings = fit(examples.prompts).embed(examples.prompts)
    weak, strong = _ends(examples.quality)
    quality, cost = np.zeros_like(examples.quality), np.zeros_like(examples.quality)
    for fold in range(folds):
        out = dealt == fold
        evidence = _evidence(examples, embeddings, (weak, strong)).of(np.flatnonzero(~out))
        quality[out], cost[out] = _estimates(evidence, embeddings, examples.categories, np.flatnonzero(out), seed)
    return _told(examples, quality, cost, weak, strong, seed)


def study_on(tried: Examples, trained: Examples, fit: Fit, seed: int) -> Study:
    """Estimated from other requests that the same models answered. Raises InvalidInput where they are others."""
    tried, trained = _in_order(tried), _in_order(trained)
    if tried.models != trained.models:
        raise InvalidInput("train", ", ".join(trained.models), f"the models of the file: {', '.join(tried.models)}")
    if (tried.cost is None) != (trained.cost is None):
        raise InvalidInput("train", "cost_usd", "costs in both files or in none")
    embedder = fit(trained.prompts)
    weak, strong = _ends(tried.quality)
    evidence = _evidence(trained, embedder.embed(trained.prompts), (weak, strong))
    every = np.arange(len(tried.prompts))
    quality, cost = _estimates(evidence, embedder.embed(tried.prompts), tried.categories, every, seed)
    return _told(tried, quality, cost, weak, strong, seed)


def _in_order(examples: Examples) -> Examples:
    """Models by name, so that their order in a file changes nothing."""
    order = sorted(range(len(examples.models)), key=lambda at: examples.models[at])
    return Examples(
        tuple(examples.models[at] for at in order),
        examples.prompts,
        examples.quality[:, order],
        None if examples.cost is None else examples.cost[:, order],
        examples.categories,
    )


def _ends(quality: Floats) -> tuple[int, int]:
    means = quality.mean(axis=0)
    return int(means.argmin()), int(means.argmax())


def _costs(examples: Examples, ends: tuple[int, int]) -> Floats:
    if examples.cost is not None:
        return examples.cost
    nominal = np.full(examples.quality.shape, np.inf)  # neither end: never chosen
    nominal[:, ends[1]] = 1.0
    nominal[:, ends[0]] = 0.0
    return nominal


def _evidence(examples: Examples, embeddings: Vectors, ends: tuple[int, int]) -> Evidence:
    cost = _costs(examples, ends)
    ids = [str(at) for at in range(len(examples.prompts))]
    finite = np.where(np.isfinite(cost), cost, np.nan)
    return Evidence(examples.models, ids, embeddings, examples.quality, finite, examples.categories)


def _estimates(
    evidence: Evidence, embeddings: Vectors, categories: Sequence[str] | None, asked: Ints, seed: int
) -> tuple[Floats, Floats]:
    index = fit_neighbours(evidence, seed)
    found = [index.estimate(embeddings[at], None if categories is None else categories[at]) for at in asked]
    return np.array([each.quality for each in found]), np.array([each.cost for each in found])


def _told(examples: Examples, quality: Floats, cost: Floats, weak: int, strong: int, seed: int) -> Study:
    true_cost = _costs(examples, (weak, strong))
    kept = np.flatnonzero(np.isfinite(true_cost).all(axis=0))
    ends = int(np.flatnonzero(kept == weak)[0]), int(np.flatnonzero(kept == strong)[0])
    played = _Played.of(quality[:, kept], cost[:, kept], examples.quality[:, kept], true_cost[:, kept], ends)
    [(curve, constant, apgr, gain)] = played.told(np.ones((1, len(quality))))
    apgrs, gains = [], []
    for times in _resamples(examples.prompts, seed):
        for _, _, other_apgr, other_gain in played.told(times):
            apgrs.append(np.nan if other_apgr is None else other_apgr)
            gains.append(other_gain)
    low, high = (None, None) if apgr is None else np.nanquantile(apgrs, [0.025, 0.975]).tolist()
    gain_low, gain_high = np.quantile(gains, [0.025, 0.975]).tolist()
    return Study(
        len(quality),
        examples.models,
        examples.models[weak],
        examples.models[strong],
        apgr,
        low,
        high,
        played.calls(curve, 0.5),
        played.calls(curve, 0.8),
        curve,
        constant,
        gain,
        gain_low,
        gain_high,
        quality[:, kept],
        cost[:, kept],
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Played:
    """What each price's choices gave, request by request: cost, quality and whether the strong model was chosen, all
    [n, prices], prices falling; and each model's own cost and quality, [n, M]. ends: the weak and the strong model."""

    cost: Floats
    quality: Floats
    dear: Floats
    costs: Floats
    qualities: Floats
    ends: tuple[int, int]

    @classmethod
    def of(
        cls, quality: Floats, cost: Floats, true_quality: Floats, true_cost: Floats, ends: tuple[int, int]
    ) -> _Played:
        """Choices by estimates, played on what is true."""
        chosen = np.stack([choices(quality, cost, price) for price in prices_between(quality, cost)], axis=1)
        return cls(
            np.take_along_axis(true_cost, chosen, axis=1),
            np.take_along_axis(true_quality, chosen, axis=1),
            (chosen == ends[1]).astype(np.float64),
            true_cost,
            true_quality,
            ends,
        )

    def told(self, times: Floats) -> Iterator[tuple[Curve, Curve, float | None, float]]:
        """The curve, random mixing, the gap recovered and the mean gain, each for a way to count requests [ways, n]."""
        parts = (self.cost, self.quality, self.dear, self.costs, self.qualities)
        means = (times @ part / times.sum(axis=1, keepdims=True) for part in parts)
        for cost, quality, dear, costs, qualities in zip(*means, strict=True):
            constant = mixing(costs, qualities)
            curve = drawn(*_from_the_cheapest(cost, quality, dear, constant))
            weak, strong = ((float(costs[end]), float(qualities[end])) for end in self.ends)
            yield curve, constant, gap_recovered(curve, weak, strong), mean_gain(curve, constant)

    def calls(self, curve: Curve, recovered: float) -> float | None:
        """The share of calls to the strong model where so much of the gap is recovered first."""
        worse, better = (float(self.qualities[:, end].mean()) for end in self.ends)
        wanted = worse + recovered * (better - worse)
        if better <= worse or curve.quality[-1] < wanted:
            return None
        if curve.quality[0] >= wanted:
            return float(curve.dear[0])
        at = int(np.argmax(curve.quality >= wanted))
        part = (wanted - curve.quality[at - 1]) / (curve.quality[at] - curve.quality[at - 1])
        return float(curve.dear[at - 1] + part * (curve.dear[at] - curve.dear[at - 1]))


def _from_the_cheapest(cost: Floats, quality: Floats, dear: Floats, constant: Curve) -> tuple[Floats, Floats, Floats]:
    """With the cheapest constant model in front where the estimates never chose that little."""
    if cost[0] <= constant.cost[0]:
        return cost, quality, dear
    return (
        np.append(constant.cost[0], cost),
        np.append(constant.quality[0], quality),
        np.append(constant.dear[0], dear),
    )


def _resamples(prompts: Sequence[str], seed: int) -> Iterator[Floats]:
    """How often each request is drawn [some resamples, n]; those of one prompt are drawn together."""
    distinct = {prompt: at for at, prompt in enumerate(sorted(set(prompts)))}
    group = np.array([distinct[prompt] for prompt in prompts])
    rng = np.random.default_rng(seed)
    step = max(1, min(RESAMPLES, _CELLS // len(prompts)))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn_times = rng.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), size=size)
        yield drawn_times[:, group].astype(np.float64)

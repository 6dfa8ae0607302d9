"""What outcomes teach: beliefs about each model's quality, errors, latency and cost, kept up with each outcome. Pure.

    beliefs = with_prior(unknown(3), means, effective_ns)         evaluations that are stored
    beliefs = fold(beliefs, Outcomes.of([0, 2], success=[1, 0], quality=[0.9, nan], latency_ms=[812, nan]))
    posterior(beliefs).quality_mean                               [3]; NaN where nothing is known
    beliefs = grown(beliefs, 4)                                   a fourth model, of which nothing is known

Outcomes fade with a half-life of 1,000 outcomes of the same model, the prior with them. A change of quality is looked
for by `changes`; when one is found, what is older (the prior too) keeps the weight of a few outcomes only.
Order counts, batches do not: outcomes folded one by one give bit for bit what one batch gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from evalservice.errors import InvalidInput
from evalservice.selection.changes import Run, changed, continued

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HALF_LIFE = 1_000.0
KEPT_AFTER_CHANGE = 5.0  # outcomes that all older evidence together counts for
# Before any evidence a quality is uniform on [0, 1], as if one outcome of two had been good.
PRIOR_MEAN, PRIOR_N = 0.5, 2.0
ERROR_PRIOR_RATE, ERROR_PRIOR_N = 0.02, 2.0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N outcomes in order of arrival; each array is [N], NaN where that part has not come.

    model: index of the model that served. success: 1 or 0. quality: in [0, 1]. latency_ms, cost_usd: not negative.
    """

    model: Ints
    success: Floats
    quality: Floats
    latency_ms: Floats
    cost_usd: Floats

    @classmethod
    def of(
        cls,
        model: Sequence[int] | Ints,
        *,
        success: Sequence[float] | Floats | None = None,
        quality: Sequence[float] | Floats | None = None,
        latency_ms: Sequence[float] | Floats | None = None,
        cost_usd: Sequence[float] | Floats | None = None,
    ) -> Self:
        """From sequences of one length; None: that part has come for none. Raises InvalidInput for other lengths."""
        index = np.asarray(model, dtype=np.int64)
        parts = {"success": success, "quality": quality, "latency_ms": latency_ms, "cost_usd": cost_usd}
        arrays = {
            name: np.full(len(index), np.nan) if part is None else np.asarray(part, dtype=np.float64)
            for name, part in parts.items()
        }
        for name, array in arrays.items():
            if array.shape != index.shape:
                raise InvalidInput(f"outcomes.{name}", len(array), f"as many values as models, {len(index)}")
        return cls(index, **arrays)


@dataclass(frozen=True, slots=True)
class Beliefs:
    """What is known of M models; every array is [M]. *_n: discounted numbers of outcomes, *_sum: discounted sums.

    prior_mean, prior_n: of stored evaluations, n effective; n = 0 where there are none. prior_weight: what is left of
    the prior. worse, better: since when quality may have changed, and how sure that is. changed: changes found.
    ignored: values that could not be (infinite, negative, beyond [0, 1]). strays: outcomes of no model.
    """

    half_life: float
    prior_mean: Floats
    prior_n: Floats
    prior_weight: Floats
    quality_n: Floats
    quality_sum: Floats
    quality_squares: Floats
    success_n: Floats
    error_sum: Floats
    latency_n: Floats
    latency_sum: Floats
    cost_n: Floats
    cost_sum: Floats
    worse: tuple[Run, ...]
    better: tuple[Run, ...]
    changed: Ints
    ignored: Ints
    strays: int = 0

    def __len__(self) -> int:
        return len(self.prior_mean)

    def stored(self) -> dict[str, Any]:
        """As JSON values, for `restored`; floats keep every bit."""
        kept: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            elif isinstance(value, tuple):
                value = [list(run) for run in value]
            kept[each.name] = value
        return kept

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> Self:
        """The beliefs whose `stored` that is."""
        read: dict[str, Any] = dict(kept)
        for name in _FLOATS:
            read[name] = np.asarray(kept[name], dtype=np.float64)
        for name in _INTS:
            read[name] = np.asarray(kept[name], dtype=np.int64)
        for name in ("worse", "better"):
            read[name] = tuple(Run(*run) for run in kept[name])
        return cls(**read)


_Table = dict[str, list[Any]]
_INTS = ("changed", "ignored")
_QUALITY = ("quality_n", "quality_sum", "quality_squares")
_FLOATS = tuple(
    each.name for each in fields(Beliefs) if each.name not in (*_INTS, "half_life", "worse", "better", "strays")
)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What to expect of each model; every array is [M], NaN where nothing is known.

    quality_mean, quality_sd: of the mean quality, in [0, 1]. quality_n: how many outcomes that is worth, 0 where
    nothing is known. error_rate: in [0, 1]. latency_ms, cost_usd: means. Quality is of the outcomes that have one:
    whether a failure is worth nothing is for the policy to say, by `error_rate`.
    """

    quality_mean: Floats
    quality_sd: Floats
    quality_n: Floats
    error_rate: Floats
    latency_ms: Floats
    cost_usd: Floats


def unknown(models: int, half_life: float = HALF_LIFE) -> Beliefs:
    """Beliefs about models of which nothing is known. half_life: in outcomes of a model, positive.

    Raises InvalidInput for a half-life that is not positive.
    """
    if not half_life > 0:
        raise InvalidInput("learning.half_life", half_life, "a positive number of outcomes")
    empty: dict[str, Any] = {name: np.zeros(models) for name in _FLOATS}
    empty |= {name: np.zeros(models, dtype=np.int64) for name in _INTS}
    empty["prior_weight"] = np.ones(models)
    runs = (Run(),) * models
    return Beliefs(half_life=float(half_life), worse=runs, better=runs, **empty)


def grown(beliefs: Beliefs, models: int) -> Beliefs:
    """With more models behind those known so far. Raises InvalidInput for fewer than there are."""
    if models < len(beliefs):
        raise InvalidInput("models", models, f"at least {len(beliefs)}: models are added, never taken away")
    more = unknown(models - len(beliefs), beliefs.half_life)
    joined = {name: np.concatenate([getattr(beliefs, name), getattr(more, name)]) for name in (*_FLOATS, *_INTS)}
    return replace(beliefs, worse=beliefs.worse + more.worse, better=beliefs.better + more.better, **joined)


def with_prior(beliefs: Beliefs, mean: Floats, n: Floats) -> Beliefs:
    """With another prior from stored evaluations; mean and n are [M]. What outcomes have taken from the prior's weight
    stays taken. A mean or n that is not finite is no prior."""
    usable = np.isfinite(mean) & np.isfinite(n) & (n > 0)
    kept = np.where(usable, np.clip(mean, 0.0, 1.0), 0.0), np.where(usable, n, 0.0)
    return replace(beliefs, prior_mean=kept[0], prior_n=kept[1])


def posterior(beliefs: Beliefs) -> Posterior:
    """What to expect of each model now.

    The quality's mean is that of a Beta with the prior and the outcomes as its counts. Its variance is that within the
    model over n + 1, the prior's being a coin's: for zeros and ones just the Beta's, less for graded qualities.
    """
    prior = beliefs.prior_n * beliefs.prior_weight
    evidence = prior + beliefs.quality_n
    n = PRIOR_N + evidence
    mean = (PRIOR_N * PRIOR_MEAN + prior * beliefs.prior_mean + beliefs.quality_sum) / n
    squares = (PRIOR_N * PRIOR_MEAN + prior * beliefs.prior_mean + beliefs.quality_squares) / n
    within = np.maximum(squares - mean * mean, 0.0)
    known = evidence > 0
    with np.errstate(invalid="ignore"):
        latency, cost = beliefs.latency_sum / beliefs.latency_n, beliefs.cost_sum / beliefs.cost_n
    errors = (ERROR_PRIOR_RATE * ERROR_PRIOR_N + beliefs.error_sum) / (ERROR_PRIOR_N + beliefs.success_n)
    return Posterior(
        np.where(known, mean, np.nan),
        np.where(known, np.sqrt(within / (n + 1)), np.nan),
        evidence,
        np.where(beliefs.success_n > 0, errors, np.nan),
        latency,
        cost,
    )


def fold(beliefs: Beliefs, outcomes: Outcomes) -> Beliefs:
    """Beliefs after these outcomes, in their order; batches may be cut anywhere without a bit of difference."""
    table: _Table = {name: getattr(beliefs, name).tolist() for name in (*_FLOATS, *_INTS)}
    worse, better = list(beliefs.worse), list(beliefs.better)
    keep = 0.5 ** (1 / beliefs.half_life)
    strays = beliefs.strays
    rows = zip(
        outcomes.model.tolist(),
        outcomes.success.tolist(),
        outcomes.quality.tolist(),
        outcomes.latency_ms.tolist(),
        outcomes.cost_usd.tolist(),
        strict=True,
    )
    for m, success, quality, latency, cost in rows:
        if not 0 <= m < len(beliefs):
            strays += 1
            continue
        bad = 0
        if success in (0.0, 1.0):
            _fade(table, m, keep, "success_n", "error_sum", 1.0 - success)
        else:
            bad += _present(success)
        if 0.0 <= latency < np.inf:
            _fade(table, m, keep, "latency_n", "latency_sum", latency)
        else:
            bad += _present(latency)
        if 0.0 <= cost < np.inf:
            _fade(table, m, keep, "cost_n", "cost_sum", cost)
        else:
            bad += _present(cost)
        if 0.0 <= quality <= 1.0:
            worse[m], better[m] = _learn_quality(table, m, keep, quality, worse[m], better[m])
        else:
            bad += _present(quality)
        table["ignored"][m] += bad
    learnt: dict[str, Any] = {name: np.asarray(table[name], dtype=np.float64) for name in _FLOATS}
    learnt |= {name: np.asarray(table[name], dtype=np.int64) for name in _INTS}
    return replace(beliefs, worse=tuple(worse), better=tuple(better), strays=strays, **learnt)


def _present(value: float) -> int:
    """1 for a value that is there and cannot be, 0 for NaN."""
    return int(value == value)


def _fade(table: _Table, m: int, keep: float, n: str, total: str, value: float) -> None:
    table[n][m] = table[n][m] * keep + 1.0
    table[total][m] = table[total][m] * keep + value


def _learn_quality(table: _Table, m: int, keep: float, quality: float, worse: Run, better: Run) -> tuple[Run, Run]:
    """One model's quality after one more outcome, and its runs of evidence for a change."""
    own_n, own_sum, own_squares = (table[name][m] for name in _QUALITY)
    prior = table["prior_n"][m] * table["prior_weight"][m]
    n = own_n + prior
    if n > 0:
        coins = prior * table["prior_mean"][m]
        total = own_sum + coins
        # a coin's worth of prior keeps a model that never failed from being certain
        known, heads = n + PRIOR_N, PRIOR_N * PRIOR_MEAN
        variance = max((own_squares + coins + heads) / known - ((total + heads) / known) ** 2, 0.0)
        worse = continued(worse, quality, n, total, variance)
        better = continued(better, 1 - quality, n, n - total, variance)
    table["quality_n"][m] = own_n * keep + 1.0
    table["quality_sum"][m] = own_sum * keep + quality
    table["quality_squares"][m] = own_squares * keep + quality * quality
    table["prior_weight"][m] *= keep
    run = worse if changed(worse) else better if changed(better) else None
    if run is None:
        return worse, better
    total = run.total if run is worse else run.n - run.total
    squares = run.squares if run is worse else run.n - 2 * run.total + run.squares
    older = max(n - run.n, 0.0)
    left = min(1.0, KEPT_AFTER_CHANGE / older) if older > 0 else 0.0
    since = (run.n, total, squares)
    for name, new in zip(_QUALITY, since, strict=True):
        table[name][m] = max(table[name][m] - new, 0.0) * left + new
    table["prior_weight"][m] *= left
    table["changed"][m] += 1
    return Run(), Run()

"""What another policy would have got, from a log of decisions with their propensities: IPS, self-normalised IPS, DR.

    log = Log.of([Decision(chosen=1, propensity=0.25, reward=0.9, logged=(0.75, 0.25), target=(0.0, 1.0),
                           estimates=(0.6, 0.8)), …])
    evaluate(log)  -> Evaluation(evidence=Evidence(n=4000, …), ips=Estimate(value=0.91, …), snips=…, dr=…, logged=…)
                   or Refusal(evidence, reason="effective_n", message="the log is worth 41.2 requests of this policy…")

With the weights w_i = π(a_i) / p(a_i), target over propensity of what was chosen, rewards r_i and a reward model q:

    ips    Σ w_i r_i / n                                     Horvitz and Thompson 1952, JASA 47:663
    snips  Σ w_i r_i / Σ w_i                                 Hájek 1971; Swaminathan and Joachims 2015, NeurIPS 28
    dr     Σ [Σ_a π(a) q_i(a) + w_i (r_i - q_i(a_i))] / n    Dudík, Langford and Li 2011, ICML 28

The reward model may be wrong, but must not have seen these rewards. Requests are taken as independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import special

MOST_WITHOUT_SUPPORT = 0.05
LEAST_EFFECTIVE_N = 100.0
_ROUNDING = 1e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """One logged decision; `logged`, `target` and `estimates` have a value for each eligible candidate, shape (k,).

    chosen: position of the chosen candidate. propensity: with which it was chosen. reward: NaN: no outcome yet.
    logged, target: the probabilities that the logging policy and the other one give. estimates: the reward model's.
    """

    chosen: int
    propensity: float
    reward: float
    logged: Sequence[float]
    target: Sequence[float]
    estimates: Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Decisions of n requests over m candidates in all: those of request i are rows offsets[i] to offsets[i + 1].

    offsets: shape (n + 1,). chosen: shape (n,), the row of the chosen candidate. propensity, reward: shape (n,).
    logged, target, estimates: shape (m,). What they mean is in `Decision`.
    Raises ValueError for shapes that do not fit, a propensity outside (0, 1], a target that does not add up to 1, and
    probabilities or estimates that are not finite.
    """

    offsets: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    propensity: Floats
    reward: Floats
    logged: Floats
    target: Floats
    estimates: Floats

    def __post_init__(self) -> None:
        n, m = len(self.chosen), len(self.target)
        if not (len(self.offsets) == n + 1 and len(self.propensity) == len(self.reward) == n):
            raise ValueError(f"{n} chosen candidates, but not as many propensities, rewards and offsets")
        if not len(self.logged) == len(self.estimates) == m == self.offsets[-1] or self.offsets[0] != 0:
            raise ValueError(f"{m} target probabilities, but not as many logged ones, estimates and candidates")
        if (np.diff(self.offsets) < 1).any():
            raise ValueError("a request without candidates")
        if ((self.chosen < self.offsets[:-1]) | (self.chosen >= self.offsets[1:])).any():
            raise ValueError("a chosen candidate that is none of its request's")
        if not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise ValueError("a propensity that is not in (0, 1]")
        if not all(((p >= 0) & (p <= 1 + _ROUNDING)).all() for p in (self.logged, self.target)):
            raise ValueError("a probability that is not in [0, 1]")
        if n and np.abs(self._by_request(self.target) - 1).max() > _ROUNDING:
            raise ValueError("target probabilities of a request that do not add up to 1")
        if not np.isfinite(self.estimates).all():
            raise ValueError("an estimate that is not finite")

    @classmethod
    def of(cls, decisions: Iterable[Decision]) -> Self:
        """The decisions one after the other."""
        held = list(decisions)
        if any(not len(d.logged) == len(d.target) == len(d.estimates) for d in held):
            raise ValueError("a decision whose candidates do not all have probabilities and an estimate")
        offsets = np.fromiter(accumulate((len(d.target) for d in held), initial=0), np.int64, len(held) + 1)
        inside = np.fromiter((d.chosen for d in held), np.int64, len(held))
        if (inside < 0).any():
            raise ValueError("a chosen candidate that is none of its request's")
        return cls(
            offsets=offsets,
            chosen=offsets[:-1] + inside,
            propensity=np.fromiter((d.propensity for d in held), np.float64, len(held)),
            reward=np.fromiter((d.reward for d in held), np.float64, len(held)),
            logged=np.fromiter(chain.from_iterable(d.logged for d in held), np.float64),
            target=np.fromiter(chain.from_iterable(d.target for d in held), np.float64),
            estimates=np.fromiter(chain.from_iterable(d.estimates for d in held), np.float64),
        )

    def _by_request(self, values: Floats) -> Floats:
        """The sum over each request's candidates, (m,) → (n,)."""
        return np.add.reduceat(values, self.offsets[:-1])

    def terms(self) -> Terms:
        """What the estimators add up, of the requests that have an outcome."""
        known = np.isfinite(self.reward)
        if not known.any():
            return Terms(*[np.empty(0)] * 5)
        supported = self.logged > 0
        supported[self.chosen] = True
        return Terms(
            weight=(self.target[self.chosen] / self.propensity)[known],
            reward=self.reward[known],
            estimate=self.estimates[self.chosen][known],
            expected=self._by_request(self.target * self.estimates)[known],
            unsupported=self._by_request(np.where(supported, 0.0, self.target))[known],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """By request, each of shape (n,). weight: w. estimate: q of what was chosen. expected: Σ π q over the candidates.

    unsupported: the target's probability of what the logging policy would never have chosen.
    """

    weight: Floats
    reward: Floats
    estimate: Floats
    expected: Floats
    unsupported: Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean reward, in the reward's units, with its standard error and interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the log is worth to this policy.

    n: requests with an outcome. without_outcome: those that were left out. effective_n: (Σw)² / Σw² (Kish 1965).
    without_support: the share of requests where the target may choose what the logging policy could not.
    """

    n: int
    without_outcome: int
    effective_n: float
    without_support: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The estimators side by side. logged: what the logging policies themselves have got."""

    evidence: Evidence
    ips: Estimate
    snips: Estimate
    dr: Estimate
    logged: Estimate


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the log does not say what this policy would have got."""

    evidence: Evidence
    reason: Literal["no_outcomes", "support", "effective_n"]
    message: str


def evaluate(log: Log, level: float = 0.95) -> Evaluation | Refusal:
    """What the target policy would have got on the logged requests, with intervals of this level.

    Requests without an outcome are left out and counted: rewards are taken as missing whatever was chosen. Where
    support is missing, ips counts the target's share there as a reward of 0, snips leaves it out, dr takes the model's.
    Refused: outcomes of no request, support missing for more than 5 % of the requests, an effective n below 100.
    Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}, not between 0 and 1")
    terms = log.terms()
    evidence = _evidence(terms, len(log.reward))
    refusal = _refusal(evidence)
    if refusal is not None:
        return refusal
    w, r = terms.weight, terms.reward
    weighted = w * r
    corrected = terms.expected + w * (r - terms.estimate)
    return Evaluation(
        evidence,
        ips=_mean(weighted, level),
        snips=_ratio(weighted, w, level),
        dr=_mean(corrected, level),
        logged=_mean(r, level),
    )


def _evidence(terms: Terms, requests: int) -> Evidence:
    n, squares = len(terms.weight), float(terms.weight @ terms.weight)
    return Evidence(
        n=n,
        without_outcome=requests - n,
        effective_n=float(terms.weight.sum()) ** 2 / squares if squares else 0.0,
        without_support=float((terms.unsupported > _ROUNDING).mean()) if n else 0.0,
    )


def _refusal(evidence: Evidence) -> Refusal | None:
    if not evidence.n:
        missing = f"none of {evidence.without_outcome} decisions" if evidence.without_outcome else "no decision"
        return Refusal(evidence, "no_outcomes", f"{missing} has the outcome that the reward needs")
    if evidence.without_support > MOST_WITHOUT_SUPPORT:
        message = (
            f"for {evidence.without_support:.1%} of {evidence.n} requests the policy may choose what the logging "
            f"policy could not (at most {MOST_WITHOUT_SUPPORT:.0%}): log with an exploring policy"
        )
        return Refusal(evidence, "support", message)
    if evidence.effective_n < LEAST_EFFECTIVE_N:
        message = (
            f"the log's {evidence.n} requests are worth {evidence.effective_n:.1f} of this policy's "
            f"(at least {LEAST_EFFECTIVE_N:.0f}): log more of them, or with more exploration"
        )
        return Refusal(evidence, "effective_n", message)
    return None


def _mean(values: Floats, level: float) -> Estimate:
    return _estimate(float(values.mean()), values, level)


def _ratio(numerators: Floats, denominators: Floats, level: float) -> Estimate:
    """Σ numerators / Σ denominators, its spread by the jackknife (Efron 1982, The Jackknife, the Bootstrap, chapter 3):
    by the pseudo-values n v - (n - 1) v_(-i), where v_(-i) leaves request i out."""
    n, above, below = len(numerators), float(numerators.sum()), float(denominators.sum())
    value = above / below
    without = (above - numerators) / (below - denominators)
    return _estimate(value, n * value - (n - 1) * without, level)


def _estimate(value: float, values: Floats, level: float) -> Estimate:
    """An estimate that is a mean of `values`, shape (n,), to first order; its interval allows for skewness and tails.

    Few large weights make the values skewed and heavy-tailed, and Student's interval then covers too seldom. Skewness
    is taken out by Hall's monotone cubic transformation (1992, JRSS-B 54:221), tails are allowed for by Satterthwaite's
    (1946) degrees of freedom, 2 s⁴ / Var(s²) = 2n / (kurtosis - 1).
    """
    n = len(values)
    deviations = values - values[0]  # constant values get a standard error of exactly 0
    deviations = deviations - deviations.mean()
    variance = float((deviations**2).mean())
    stderr = math.sqrt(variance / (n - 1))
    if not stderr:
        return Estimate(value, 0.0, value, value)
    scaled = deviations / math.sqrt(variance)
    skewness, kurtosis = float((scaled**3).mean()), float((scaled**4).mean())
    freedom = min(2 * n / max(kurtosis - 1, _ROUNDING), 1e9)
    quantile = float(special.stdtrit(freedom, (1 + level) / 2))
    low, high = (_unskewed(bound, skewness / math.sqrt(n)) for bound in (quantile, -quantile))
    return Estimate(value, stderr, value - low * stderr, value - high * stderr)


def _unskewed(bound: float, skewness: float) -> float:
    """The t that Hall's transformation t + g t²/3 + g² t³/27 + g/6 takes to `bound`; g: skewness / √n."""
    if abs(skewness) < _ROUNDING:
        return bound
    return 3 / skewness * (math.cbrt(1 + skewness * (bound - skewness / 6)) - 1)

"""Choices at a price of cost, and what they give: cost-quality curves, their area, and the price that meets a budget.

A price turns a dollar into quality: each request goes to the model with the largest quality - price · cost. As the
price falls from infinity to 0 the choices move from the cheapest models to the best ones, which draws the curve.

    calibrate(quality, cost, budget=0.0003)  -> Price(low=812.5, high=812.6, share=0.41)

Arrays are [n, M]: requests, models. Costs are in US dollars a request, or any other unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from evalservice.errors import InvalidInput
from evalservice.selection.evidence_priors import Floats, Ints

STEPS = 200
"""Prices between 0 and infinity that a curve is drawn through."""


@dataclass(frozen=True, slots=True)
class Price:
    """Quality that a dollar is worth: low <= high. share: the chance that a request is decided at high, else at low."""

    low: float
    high: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Expected quality by mean cost a request, both ascending, [points]. dear: the share of requests that the dear
    model got there."""

    cost: Floats
    quality: Floats
    dear: Floats

    def at(self, cost: float | Floats) -> Floats:
        """Quality at a mean cost: between points by drawing one of both policies, beyond the last one as there."""
        return np.asarray(np.interp(cost, self.cost, self.quality))


def choices(quality: Floats, cost: Floats, price: float) -> Ints:
    """The model of each request [n]; of equally good ones the cheapest, and of these the one of the best quality."""
    if math.isinf(price):
        least = cost == cost.min(axis=1, keepdims=True)
        return np.asarray(np.where(least, quality, -np.inf).argmax(axis=1))
    value = quality - price * cost
    best = value == value.max(axis=1, keepdims=True)
    return np.asarray(np.where(best, cost, np.inf).argmin(axis=1))


def calibrate(quality: Floats, cost: Floats, budget: float) -> Price:
    """The price at which requests like these cost the budget on average; 0 where the best models cost less.

    Between two neighbouring prices at which the mean cost jumps over the budget one is drawn for each request, so that
    it is met exactly. Raises InvalidInput for a budget below what the cheapest models cost, and ValueError for shapes.
    """
    if quality.shape != cost.shape or quality.ndim != 2 or not quality.size:
        raise ValueError(f"quality {quality.shape} and cost {cost.shape} are not (n, M)")
    if not (np.isfinite(quality).all() and np.isfinite(cost).all()):
        raise ValueError("a quality or a cost is not finite")
    least = _spent(quality, cost, math.inf)
    if not math.isfinite(budget) or budget < least:
        raise InvalidInput("budget", budget, f"a mean cost of at least {least:.6g}, which the cheapest models cost")
    if _spent(quality, cost, 0.0) <= budget:
        return Price(0.0, 0.0, 0.0)
    scale = max(float(np.ptp(quality)), 1e-300) / max(float(np.ptp(cost)), 1e-300)
    low, high = 0.0, 1.0  # price = scale · t / (1 - t): all of [0, infinity] in [0, 1]
    while (middle := (low + high) / 2) not in (low, high):
        if _spent(quality, cost, _price(scale, middle)) > budget:
            low = middle
        else:
            high = middle
    prices = _price(scale, low), _price(scale, high)
    dear, cheap = (_spent(quality, cost, price) for price in prices)
    return Price(*prices, (dear - budget) / (dear - cheap))


def prices_between(quality: Floats, cost: Floats) -> Floats:
    """Prices from infinity down to 0, [at most STEPS + 2]: as many requests change between one and the next."""
    changes = []
    for one in range(quality.shape[1]):
        for other in range(quality.shape[1]):
            dearer, better = cost[:, one] - cost[:, other], quality[:, one] - quality[:, other]
            both = (dearer > 0) & (better > 0)
            changes.append(better[both] / dearer[both])
    every = np.concatenate(changes) if changes else np.zeros(0)
    every = every[np.isfinite(every)]
    between = np.unique(np.quantile(every, np.linspace(0, 1, STEPS), method="lower")) if every.size else every
    return np.concatenate([[np.inf], between[between > 0][::-1], [0.0]])


def drawn(cost: Floats, quality: Floats, dear: Floats) -> Curve:
    """The curve through what each price gave, prices falling, all [points].

    More money can be left unspent, so that cost and quality never fall: where they do by chance, quality is the least-
    squares monotone fit, weighted by the stretch of cost, which leaves the area as it was.
    """
    cost = np.maximum.accumulate(cost)
    if cost[-1] <= cost[0]:
        return Curve(cost[-1:], quality[-1:], dear[-1:])
    last = np.flatnonzero(np.append(np.diff(cost) > 0, True))
    cost, quality, dear = cost[last], quality[last], dear[last]
    widths = np.diff(cost)
    weights = (np.append(widths, 0) + np.append(0, widths)) / 2
    fitted = optimize.isotonic_regression(quality, weights=weights / weights.sum()).x
    return Curve(cost, fitted, np.maximum.accumulate(dear))


def mixing(cost: Floats, quality: Floats) -> Curve:
    """Constant models of mean cost and quality [M], mixed at random: the upper concave hull, as far as it rises."""
    order = np.lexsort((-quality, cost))
    hull: list[int] = []
    for model in order:
        if hull and quality[model] <= quality[hull[-1]]:
            continue
        while hull and cost[model] == cost[hull[-1]]:
            hull.pop()
        while len(hull) > 1 and _slope(cost, quality, hull[-2], hull[-1]) <= _slope(cost, quality, hull[-1], model):
            hull.pop()
        hull.append(int(model))
    dear = np.zeros(len(hull))
    dear[-1] = 1.0
    return Curve(cost[hull], quality[hull], dear)


def gap_recovered(curve: Curve, weak: tuple[float, float], strong: tuple[float, float]) -> float | None:
    """The average performance gap recovered (Ong et al. 2024, "RouteLLM", section 3.2) between two (cost, quality).

    The mean over costs from the weak model's to the strong one's of (quality - weak) / (strong - weak): 0.5 for drawing
    one of them at random. None where the strong one is neither better nor dearer.
    """
    (low, worse), (high, better) = weak, strong
    if not (better > worse and high > low):
        return None
    inside = curve.cost[(curve.cost > low) & (curve.cost < high)]
    at = np.concatenate([[low], inside, [high]])
    area = float(np.trapezoid(curve.at(at), at)) / (high - low)
    return (area - worse) / (better - worse)


def mean_gain(curve: Curve, constant: Curve) -> float:
    """How much better than random mixing at equal cost, in quality, on average over what mixing can reach.

    The average is over mixing's quality from its least to its largest, so that no stretch of cost counts for more than
    mixing gets out of it.
    """
    reached = np.linspace(constant.quality[0], constant.quality[-1], STEPS + 1)
    return float(np.mean(curve.at(np.interp(reached, constant.quality, constant.cost)) - reached))


def _spent(quality: Floats, cost: Floats, price: float) -> float:
    return float(np.take_along_axis(cost, choices(quality, cost, price)[:, None], axis=1).mean())


def _price(scale: float, place: float) -> float:
    return math.inf if place == 1 else scale * place / (1 - place)


def _slope(cost: Floats, quality: Floats, one: int, other: int) -> float:
    return float((quality[other] - quality[one]) / (cost[other] - cost[one]))

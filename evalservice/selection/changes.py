"""Whether a model's quality has changed: a CUSUM of bets against its being as good as before. Pure.

    run = continued(run, value, n, total, variance)     after each outcome: value in [0, 1]; what was known before it
    changed(run)

Each outcome x multiplies the evidence by 1 + λ (m - ε - x): a fair bet or a losing one as long as the mean is at least
m - ε, so that the evidence is an e-process; it never falls below 1 (a CUSUM), and a change is called at 1 / ALARM. By
Doob's inequality for the Shiryaev-Roberts sum above it, at most n * ALARM of all streams call a change that never
was within n outcomes: one in a hundred within 100,000 on either side (Shin, Ramdas and Rinaldo, "E-detectors", 2023),
given that the reference m is within ε of the mean. For a rise the same is done with 1 - x.

The evidence was last 1 where the change most likely began: what came since is kept apart, out of the reference while
it is in doubt and for `learning` to go on with.
"""

from __future__ import annotations

import math
from typing import NamedTuple

ALARM = 1e-7
SHIFT = 0.2  # of quality, for which the bets are best
TOLERANCE = 0.02  # of quality, that is no change
DOUBT = 3.0  # standard errors of the reference, beyond which it is not doubted
LEAST_KNOWN = 30.0  # outcomes that make a reference


class Run(NamedTuple):
    """Since the evidence was last 1: its logarithm, and the outcomes' number, sum and sum of squares."""

    log_evidence: float = 0.0
    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0


def continued(run: Run, value: float, n: float, total: float, variance: float) -> Run:
    """The run after one more value. n, total: of all values before, the run's included. variance: of one value."""
    if n < LEAST_KNOWN:
        return run
    if n - run.n >= LEAST_KNOWN:
        n, total = n - run.n, total - run.total
    least = total / n - TOLERANCE - DOUBT * math.sqrt(variance / n)
    if least <= 0:
        return Run()
    # of Kelly's bet for that shift, never more than half of what would lose everything
    bet = min(SHIFT / (variance + SHIFT * SHIFT), 0.5 / max(1 - least, 1e-9))
    log_evidence = run.log_evidence + math.log1p(bet * (least - value))
    if log_evidence <= 0:
        return Run()
    return Run(log_evidence, run.n + 1, run.total + value, run.squares + value * value)


def changed(run: Run) -> bool:
    """Whether that is evidence enough."""
    return run.log_evidence >= -math.log(ALARM)

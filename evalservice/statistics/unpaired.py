"""Two streams of values that arrive interleaved, compared at every look: which mean is higher, which rate is worse.

    blocks = Blocks()
    block = blocks.add(0, 0.8)              -> None: the other stream has nothing yet
    block = blocks.add(1, 0.5)              -> Block(first=Values(n=1, sum=0.8), second=Values(n=1, sum=0.5))
    sequence.add(block.difference)          a ConfidenceSequence of the difference of the means, second minus first
    harm.add(block)                         a RateProcess: log_e grows where the second's rate is higher

Values become a block as soon as both streams have some, and each value is in one block. What a block is made of depends
on the order in which the streams arrive, never on the values, so that its difference has the difference of the means as
its expectation, whatever share of the values each stream has, known or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

HELD = 32
"""Values of a stream that wait one by one for the other; what is older goes into the next block together."""
PRIOR = 0.18
"""Of each outcome in the estimate of a rate: what Turner, Ly and Grünwald recommend (2024, section 4)."""


@dataclass(frozen=True, slots=True)
class Values:
    """Some values of a stream: their number and their sum."""

    n: int = 0
    sum: float = 0.0

    def __add__(self, value: float) -> Values:
        return Values(self.n + 1, self.sum + value)

    @property
    def mean(self) -> float | None:
        return self.sum / self.n if self.n else None


NO_VALUES = Values()


@dataclass(frozen=True, slots=True)
class Block:
    """Values of both streams, at least one of each."""

    first: Values
    second: Values

    @property
    def difference(self) -> float:
        """Of the means, second minus first."""
        return self.second.sum / self.second.n - self.first.sum / self.first.n


@dataclass(slots=True)
class Blocks:
    """Makes blocks of two streams. Streams of about the same length are paired value by value; of unequal ones, the
    longer one's values are spread over the blocks, so that nothing is lost.

    waiting: values of the stream `longer` that have no counterpart yet, the oldest first; older: those before them.
    """

    longer: int = 0
    waiting: list[float] = field(default_factory=list)
    older: Values = NO_VALUES

    def add(self, stream: int, value: float) -> Block | None:
        """One more value of stream 0 or 1, in the order in which they came; gives the block that it completes."""
        if not self.waiting:
            self.longer = stream
        if stream == self.longer:
            self.waiting.append(value)
            if len(self.waiting) > HELD:
                self.older += self.waiting.pop(0)
            return None
        counterpart = self.older if self.older.n else NO_VALUES + self.waiting.pop(0)
        self.older = NO_VALUES
        own = NO_VALUES + value
        return Block(own, counterpart) if self.longer else Block(counterpart, own)


@dataclass(slots=True)
class RateProcess:
    """An e-process against "the second stream's rate is at most the first's", over blocks of zeros and ones.

    Turner, Ly and Grünwald (2024, J. Stat. Plan. Inference 230:106116): of a block with k_g ones of n_g the factor
    Π_g (θ_g/θ)^k_g ((1-θ_g)/(1-θ))^(n_g-k_g), θ = Σ n_g θ_g / Σ n_g, with the rates θ_g as the blocks before it
    estimate them. It is 1 while they do not estimate the second's to be higher, and otherwise rises with the second's
    ones and falls with the first's, so that its expectation is at most 1 under every such pair of rates, not only equal
    ones. log_e may be looked at after every block; that `greatest` ever reaches log(1/α) has a chance of at most α.
    """

    first: Values = NO_VALUES
    second: Values = NO_VALUES
    log_e: float = 0.0
    greatest: float = 0.0

    def add(self, block: Block) -> None:
        """One more block."""
        parts = (block.first, block.second)
        rates = [(seen.sum + PRIOR) / (seen.n + 2 * PRIOR) for seen in (self.first, self.second)]
        if rates[1] > rates[0]:
            together = sum(part.n * rate for part, rate in zip(parts, rates, strict=True)) / sum(p.n for p in parts)
            for part, rate in zip(parts, rates, strict=True):
                self.log_e += part.sum * math.log(rate / together)
                self.log_e += (part.n - part.sum) * math.log((1 - rate) / (1 - together))
        self.first = Values(self.first.n + block.first.n, self.first.sum + block.first.sum)
        self.second = Values(self.second.n + block.second.n, self.second.sum + block.second.sum)
        self.greatest = max(self.greatest, self.log_e)

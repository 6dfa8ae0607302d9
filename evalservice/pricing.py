"""What a completion costs, in US dollars, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

_MILLION = Decimal(1_000_000)
_STORED = Decimal("1e-10")
CACHE_WRITE_FACTOR = 2
"""What a token that is written into a prompt cache costs at most, in prices of an input token."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million input and for a million output tokens."""

    input_per_million: Decimal
    output_per_million: Decimal

    def cost(
        self, input_tokens: int | None, output_tokens: int | None, cache_write_tokens: int | None = None
    ) -> Decimal | None:
        """Dollars for these tokens, exact to the ten decimals that are stored; None when nothing was reported.

        An upper bound where a prompt cache is used: input tokens read from it cost the full price here (providers ask
        a tenth to a half of it), and those written into it, `cache_write_tokens` of them, `CACHE_WRITE_FACTOR` times
        the price (Anthropic asks 1.25 times for five minutes and twice for an hour, others nothing more).
        """
        if input_tokens is None and output_tokens is None:
            return None
        inputs = (input_tokens or 0) + (CACHE_WRITE_FACTOR - 1) * (cache_write_tokens or 0)
        exact = inputs * self.input_per_million + (output_tokens or 0) * self.output_per_million
        return (exact / _MILLION).quantize(_STORED)

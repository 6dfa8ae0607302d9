"""What a completion costs, in US dollars, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

_MILLION = Decimal(1_000_000)
_STORED = Decimal("1e-10")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million input and for a million output tokens."""

    input_per_million: Decimal
    output_per_million: Decimal

    def cost(self, input_tokens: int | None, output_tokens: int | None) -> Decimal | None:
        """Dollars for these tokens, exact to the ten decimals that are stored; None when nothing was reported."""
        if input_tokens is None and output_tokens is None:
            return None
        exact = (input_tokens or 0) * self.input_per_million + (output_tokens or 0) * self.output_per_million
        return (exact / _MILLION).quantize(_STORED)

"""What a request will use before it is sent: tokens as they are likely to be counted, and the most that it can cost.

A token of the byte-level tokenizers that hosted models use stands for a byte at least (Sennrich et al., "Neural machine
translation of rare words with subword units", 2016, over bytes), so a text never has more tokens than bytes; a body's
JSON is longer than its texts by more than what a chat template adds to a message. Images and tools add tokens that no
text shows, and writing a provider's prompt cache costs up to twice the price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evalservice.pricing import Price
from evalservice.records import JSON, ChatRequest

IMAGE_TOKENS = 50_000
TOOL_TOKENS = 1_000
BYTES_PER_TOKEN = 4.0
OUTPUT_TOKENS = 256.0
LEARNING = 0.05
_UNITS_PER_DOLLAR_PER_MILLION = 10_000
"""A dollar a million tokens, in the 1e-10 dollars in which money is counted here, for one token."""


class Estimate:
    """Learns from each answer how many tokens a request takes; a request that may be long is not underrated."""

    def __init__(self) -> None:
        self._bytes_per_token, self._output = BYTES_PER_TOKEN, OUTPUT_TOKENS

    def tokens(self, body: bytes, sampling: Mapping[str, JSON]) -> int:
        """Input and output tokens that are likely, 1 at least."""
        most = most_output_tokens(sampling)
        output = self._output if most is None else min(self._output, most)
        return max(1, round(len(body) / self._bytes_per_token + output))

    def learn(self, body: bytes, input_tokens: int | None, output_tokens: int | None) -> None:
        """An answer says what was used."""
        if input_tokens:
            self._bytes_per_token += LEARNING * (len(body) / input_tokens - self._bytes_per_token)
        if output_tokens is not None:
            self._output += LEARNING * (output_tokens - self._output)


def most_output_tokens(sampling: Mapping[str, JSON]) -> int | None:
    """The bound that a request sets itself; None when it sets none."""
    bounds = [sampling.get(name) for name in ("max_completion_tokens", "max_tokens")]
    known = [bound for bound in bounds if isinstance(bound, int)]
    return max(known) if known else None


def worst_cost(price: Price, body: bytes, request: ChatRequest) -> int:
    """The most that a request can cost, in 1e-10 US dollars, rounded up.

    Raises ValueError for a request without a bound on its answer.
    """
    output = most_output_tokens(request.sampling)
    if output is None:
        raise ValueError("a request without max_tokens may cost any amount")
    tokens = len(body) + IMAGE_TOKENS * _images(request) + (TOOL_TOKENS if b'"tools"' in body else 0)
    dearer = 2 if b'"cache_control"' in body else 1
    cost = dearer * tokens * price.input_per_million + output * price.output_per_million
    return math.ceil(cost * _UNITS_PER_DOLLAR_PER_MILLION)


def _images(request: ChatRequest) -> int:
    contents = [message.get("content") for message in request.messages]
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return sum(1 for part in parts if not isinstance(part, Mapping) or part.get("type") != "text")

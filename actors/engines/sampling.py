"""How the transformers engine samples and ends its rows: the parts of `generate` that are ours. Runs on the device."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from actors.engines.common import Sampling


@dataclass(slots=True)
class Job:
    """One request ready to generate: its place in the call, its prompt, how many tokens it may have."""

    index: int
    tokens: list[int]
    sampling: Sampling
    limit: int


class Sampler:
    """A logits processor that leaves the token to be chosen as the largest: penalties, filters, a row's own noise.

    Adding Gumbel noise to log probabilities and taking the largest is the same as drawing from them.
    """

    def __init__(self, torch: Any, batch: Sequence[Job], attention: Any, ends: Sequence[int]) -> None:
        self._torch, self._attention = torch, attention
        self._ends = torch.tensor(ends, dtype=torch.long, device=attention.device)
        self._sampling = batch[0].sampling
        self._width = attention.shape[1]
        seeds = [_fresh_seed() if job.sampling.seed is None else job.sampling.seed for job in batch]
        self._noise = Noise(torch, seeds, attention.device)

    def __call__(self, ids: Any, scores: Any) -> Any:
        sampling = self._sampling
        scores = self._penalised(ids, scores.float())
        step = ids.shape[1] - self._width
        if step < sampling.min_tokens:
            scores = scores.index_fill(1, self._ends, -float("inf"))
        if sampling.greedy:
            return scores
        scores = self._filtered(scores / sampling.temperature)
        return scores.sub_(self._noise(step, scores.shape[1]).log_())

    def _penalised(self, ids: Any, scores: Any) -> Any:
        torch, sampling = self._torch, self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros_like(scores)
            seen.scatter_add_(1, ids[:, : self._width], self._attention.to(scores.dtype))
            seen.scatter_add_(1, ids[:, self._width :], torch.ones_like(ids[:, self._width :], dtype=scores.dtype))
            penalty = sampling.repetition_penalty
            scores = torch.where(seen > 0, torch.where(scores > 0, scores / penalty, scores * penalty), scores)
        if sampling.presence_penalty or sampling.frequency_penalty:
            new = ids[:, self._width :]
            counts = torch.zeros_like(scores).scatter_add_(1, new, torch.ones_like(new, dtype=scores.dtype))
            scores = scores - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
        return scores

    def _filtered(self, scores: Any) -> Any:
        torch, sampling, none = self._torch, self._sampling, -float("inf")
        if 0 < sampling.top_k < scores.shape[1]:
            scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], none)
        if sampling.min_p > 0:
            shares = scores.softmax(-1)
            scores = scores.masked_fill(shares < sampling.min_p * shares.amax(-1, keepdim=True), none)
        if sampling.top_p < 1:
            ordered, order = scores.sort(descending=True)
            shares = ordered.softmax(-1)
            dropped = torch.zeros_like(scores, dtype=torch.bool)
            dropped.scatter_(1, order, shares.cumsum(-1) - shares >= sampling.top_p)
            scores = scores.masked_fill(dropped, none)
        return scores


class Noise:
    """Exponential noise that is a function of seed, step and token alone: SplitMix64, hashing instead of drawing.

    A generator for each row would draw one row after the other, and other numbers on each kind of device.
    """

    STRIDE = 0x9E3779B97F4A7C15 - 2**64
    FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
    AT_ONCE = MappingProxyType({"cpu": 2**18})  # what stays in a core's cache

    def __init__(self, torch: Any, seeds: Sequence[int], device: Any) -> None:
        where = device if device.type == "cuda" else "cpu"  # other devices lack some of the integer arithmetic
        self._torch, self._device = torch, device
        self._seeds = self._mixed(torch.tensor(seeds, device=where))
        self._tokens: Any = None

    def __call__(self, step: int, size: int) -> Any:
        """A row for each seed, a column for each of `size` tokens."""
        torch, device = self._torch, self._seeds.device
        if self._tokens is None or len(self._tokens) != size:
            self._tokens = torch.arange(1, size + 1, device=device) * self.STRIDE
        keys = self._mixed(self._seeds + step).unsqueeze(1)
        noise = torch.empty(len(keys), size, device=device)
        rows = max(1, self.AT_ONCE.get(device.type, 2**25) // size)
        for start in range(0, len(keys), rows):
            bits = self._mixed(keys[start : start + rows] + self._tokens)
            # From 2^-63 up to a largest value below 1, whose logarithm is finite.
            shares = bits.bitwise_and_(2**63 - 1).bitwise_or_(1).float().mul_(2.0**-63).clamp_(max=1 - 2.0**-24)
            torch.neg(shares.neg_().log1p_(), out=noise[start : start + rows])
        return noise.to(self._device)

    def _mixed(self, bits: Any) -> Any:
        """SplitMix64's finaliser, in place. Shifts of signed integers are arithmetic: the mask makes them logical."""
        for shift, factor in self.FACTORS:
            bits ^= (bits >> shift).bitwise_and_(2 ** (64 - shift) - 1)
            bits *= factor
        bits ^= (bits >> 31).bitwise_and_(2**33 - 1)
        return bits


class Ending:
    """A stopping criterion that ends a row at its own limit or at a stop string, and remembers where.

    lasts: whether a token, as far as is known already, may be the last of a stop string. Only then is a row decoded.
    """

    def __init__(
        self,
        torch: Any,
        decode: Callable[..., str],
        width: int,
        batch: Sequence[Job],
        device: str,
        lasts: dict[int, bool],
    ) -> None:
        self._torch, self._decode, self._width = torch, decode, width
        self._stops, self._lasts = batch[0].sampling.stop, lasts
        self._tail = 4 * max((len(stop) for stop in self._stops), default=0) + 4
        self._limits = torch.tensor([job.limit for job in batch], device=device)
        self.lengths: list[int | None] = [None] * len(batch)

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        new = ids[:, self._width :]
        done = self._limits <= new.shape[1]
        if self._stops:
            for row, tokens in enumerate(new[:, -self._tail :].tolist()):
                if self.lengths[row] is None and self._may_be_last(tokens[-1]):
                    text = self._decode(tokens)
                    if any(stop in text for stop in self._stops):
                        self.lengths[row] = new.shape[1]
            found = [length is not None for length in self.lengths]
            done = done | self._torch.tensor(found, device=ids.device)
        return done

    def _may_be_last(self, token: int) -> bool:
        """Whether the token has a stop string's last character, or is not all that it will be among others."""
        if token not in self._lasts:
            text = self._decode([token])
            partial = not text.strip() or "\ufffd" in text
            self._lasts[token] = partial or any(stop[-1] in text or stop[-1].isspace() for stop in self._stops)
        return self._lasts[token]


def _fresh_seed() -> int:
    return random.SystemRandom().getrandbits(63)

"""Requests that were answered before: the key under which a stored completion is found, and how it is used again.

The key is the SHA-256 of all that decides a completion: where the model is (platform, address, its id there, version,
engine options), the whole request (messages, sampling parameters, seed), and the number of the repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from actors.plan import RunPlan
from evalservice.records import JSON, ChatRequest, Completion

KEY_REVISION = "1"
"""Raised when the same key would stand for another request than before."""


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion as its result row holds it. run: whose row that is."""

    run: str
    text: str
    info: Mapping[str, JSON]

    def completion(self) -> Completion:
        """The same completion, at no cost. It took no time and no tokens now, so it says nothing of either."""
        finish_reason, model = self.info.get("finish_reason"), self.info.get("model")
        likelihoods = self.info.get("log_likelihoods")
        fingerprint = self.info.get("system_fingerprint")
        return Completion(
            text=self.text,
            finish_reason=finish_reason,
            model=model,
            system_fingerprint=fingerprint,
            refused=bool(self.info.get("refused")),
            log_likelihoods=None if likelihoods is None else tuple(likelihoods),
            logprobs=self.info.get("logprobs"),
            cost=Decimal(0),
            cached_from=self.run,
        )


def is_deterministic(request: ChatRequest) -> bool:
    """Whether chance plays no part: likelihoods of given texts, temperature 0, or the one best token."""
    return bool(request.continuations) or request.sampling.get("temperature") == 0 or request.sampling.get("top_k") == 1


def cache_key(plan: RunPlan, request: ChatRequest, repeat: int) -> bytes | None:
    """The key of a request, 32 bytes; None when its completion is not to be used again."""
    if plan.cache == "off" or (plan.cache == "deterministic" and not is_deterministic(request)):
        return None
    where: dict[str, Any] = {
        "revision": KEY_REVISION,
        "platform": plan.platform,
        "base_url": plan.base_url,
        "model": plan.model_id,
        "version": plan.model_version,
        "engine": plan.config.get("engine"),
    }
    try:
        text = orjson.dumps([where, request, repeat], option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # it will fail as a request, too
        return None
    return hashlib.sha256(text).digest()

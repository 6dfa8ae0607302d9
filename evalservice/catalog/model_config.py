"""How a model is asked: sampling parameters, time limit, engine options. One format for every platform.

    {"temperature": 0, "max_tokens": 256, "stop": ["\\n\\n"], "timeout_seconds": 60, "engine": {"dtype": "bfloat16"}}

The effective configuration of a run is the model's `default_config`, overridden by the benchmark's `sampling`,
overridden by the run's own `model_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, StrictBool, ValidationError

from evalservice.catalog.criteria import Sampling, invalid_input
from evalservice.records import JSON

ENGINES = ("vllm", "transformers")
"""Platforms whose weights are loaded by our own actors."""
OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com"
GOOGLE_URL = "https://generativelanguage.googleapis.com/v1beta"
BASE_URLS = {"openai": OPENAI_URL, "anthropic": ANTHROPIC_URL, "google": GOOGLE_URL}
"""Where the models of a built-in hosted platform without a base URL are asked. All of them want a key."""

RATE_LIMITS = frozenset({"requests_per_minute", "tokens_per_minute"})
"""Keys that say how fast a model is asked, and change nothing of what it answers."""
_NOT_SENT = RATE_LIMITS | {"timeout_seconds", "max_attempts", "engine", "system_prompt"}


class ModelConfig(Sampling):
    """Every accepted key: the sampling parameters, and how the model is reached.

    timeout_seconds: how long one attempt may take (hosted platforms); 120 by default.
    max_attempts: how often one request is sent at most (hosted platforms); 8 by default.
    requests_per_minute, tokens_per_minute: what the provider allows for this model, kept by the whole cluster (hosted
    platforms); by default what the provider's answers say, and what it refuses.
    engine: options of the self-hosted engine by its own names, checked by the engine that is installed.
    system_prompt: false for a model that has none: a run whose benchmark has one is refused, and so is each test case
    that brings one. The text of a system prompt is the benchmark's.
    """

    timeout_seconds: float | None = Field(default=None, gt=0, le=3600)
    max_attempts: int | None = Field(default=None, ge=1, le=20)
    requests_per_minute: float | None = Field(default=None, gt=0, le=1e9)
    tokens_per_minute: float | None = Field(default=None, gt=0, le=1e12)
    engine: dict[str, Any] | None = None
    system_prompt: StrictBool | None = None

    @classmethod
    def parse(cls, field: str, value: Mapping[str, Any]) -> ModelConfig:
        """Validate; raises InvalidInput that names the key as `field.key`, its value and what is accepted."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise invalid_input(error, cls, field) from None

    def sampling(self) -> dict[str, JSON]:
        """What belongs in a request."""
        return {key: value for key, value in self.set_values().items() if key not in _NOT_SENT}


def effective_config(*layers: Sampling) -> ModelConfig:
    """Later layers win key by key; `engine` is merged one level deep."""
    merged: dict[str, Any] = {}
    for layer in layers:
        given = layer.set_values()
        engine = {**merged.get("engine", {}), **given.get("engine", {})}
        merged = {**merged, **given, **({"engine": engine} if engine else {})}
    return ModelConfig.model_validate(merged)

"""Random evidence and random requests."""

from __future__ import annotations

import uuid

import numpy as np

from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import ModelCard, Snapshot

CAPABILITIES = ("text-generation", "qa", "vision", "tools")
PLATFORMS = ("openai", "anthropic", "vllm")
STATUSES = ("active", "experimental", "deprecated")
TAGS = ("eu", "fast", "cheap")
NOW = 1_800_000_000.0


def a_snapshot(rng: np.random.Generator, models: int) -> Snapshot:
    """Evidence with gaps, in three benchmarks of two categories and one use case."""

    def gappy(values: np.ndarray, share: float = 0.15) -> np.ndarray:
        return np.where(rng.random(values.shape) < share, np.nan, values)

    def some(names: tuple[str, ...], share: float) -> frozenset[str]:
        return frozenset(name for name in names if rng.random() < share)

    cards = tuple(
        ModelCard(
            id=str(uuid.UUID(int=int(number + 1))),
            name=f"m{number}",
            version="1.0.0",
            platform=str(rng.choice(PLATFORMS)),
            status=str(rng.choice(STATUSES, p=(0.8, 0.1, 0.1))),
            capabilities=some(CAPABILITIES, 0.7),
            tags=some(TAGS, 0.6),
            call=b'{"model_id":"%d"}' % number,
        )
        for number in range(models)
    )
    targets = {"": 0, "category:qa": 1, "category:code": 2, "benchmark:a": 3, "benchmark:b": 4, "use_case:chat": 5}
    shape = (len(targets), models)
    quality = gappy(rng.uniform(0, 1, shape))
    return Snapshot(
        version="random",
        read_at=NOW,
        models=cards,
        targets=targets,
        quality=quality,
        quality_sd=np.where(np.isnan(quality), np.nan, rng.uniform(0, 0.1, shape)),
        quality_n=np.where(np.isnan(quality) | (rng.random(shape) < 0.2), 0.0, rng.uniform(1, 1000, shape)),
        cost=gappy(rng.lognormal(-7, 1.5, models)),
        cost_per_1k=gappy(rng.lognormal(-6, 1, models)),
        latency=gappy(np.sort(rng.lognormal(6, 1, (3, models)), axis=0)),
        error_rate=gappy(rng.beta(1, 20, models)),
        outcomes=rng.integers(0, 200, models).astype(float),
        newest=gappy(NOW - rng.exponential(1e6, models)),
        breakers=tuple(rng.choice(["closed", "open", "half-open"], models, p=(0.9, 0.07, 0.03))),
    )


def a_request(rng: np.random.Generator, models: int) -> SelectionRequest:
    """Every kind of constraint, each now and then."""

    def maybe(value: object, share: float = 0.35) -> object | None:
        return value if rng.random() < share else None

    def some(names: tuple[str, ...], most: int) -> list[str]:
        return [str(name) for name in rng.choice(names, int(rng.integers(1, most + 1)), replace=False)]

    own = tuple(f"m{number}" for number in range(models))
    confidence = float(rng.uniform(0.5, 0.99))
    place = ({}, {"benchmark": "a"}, {"benchmark": "never measured"}, {"category": "qa"})[int(rng.integers(4))]
    constraints = {
        "max_cost": maybe(float(rng.lognormal(-6.5, 1))),
        "max_cost_per_1k_tokens": maybe(float(rng.lognormal(-5.5, 1)), 0.2),
        "max_p95_latency_ms": maybe(float(rng.lognormal(7, 0.7))),
        "max_error_rate": maybe(float(rng.uniform(0, 0.2))),
        "min_quality": maybe({**place, "value": float(rng.uniform(0, 0.8)), "confidence": confidence}),
        "max_evidence_age_seconds": maybe(float(rng.exponential(2e6)) + 1, 0.2),
        "platforms": maybe(some(PLATFORMS, 2), 0.2),
        "tags": maybe(some(TAGS, 2), 0.2),
        "models": maybe(some(own, models), 0.15),
        "exclude": maybe(some(own, max(1, models // 2)), 0.2),
        "statuses": some(STATUSES, 3) if rng.random() < 0.2 else ["active"],
    }
    return SelectionRequest.model_validate(
        {
            "required_capabilities": some(CAPABILITIES, 2) if rng.random() < 0.5 else [],
            "constraints": {name: value for name, value in constraints.items() if value is not None},
            "use_case": str(rng.choice(["", "qa", "chat", "a", "unknown"])),
        }
    )


def two_models(cost: tuple[float, float]) -> Snapshot:
    """A fair model and a better one; everything is known of both."""
    cards = tuple(
        ModelCard(str(uuid.UUID(int=number + 1)), name, "1.0.0", "openai", "active", frozenset(), frozenset(), b"{}")
        for number, name in enumerate(("fair", "better"))
    )
    known = np.ones(2)
    return Snapshot(
        version="two",
        read_at=NOW,
        models=cards,
        targets={"": 0},
        quality=np.array([[0.7, 0.9]]),
        quality_sd=np.array([[0.01, 0.01]]),
        quality_n=np.array([[500.0, 500.0]]),
        cost=np.array(cost),
        cost_per_1k=np.array(cost),
        latency=np.array([known, 2 * known, 3 * known]) * 100,
        error_rate=0.01 * known,
        outcomes=100 * known,
        newest=NOW * known,
        breakers=("closed", "closed"),
    )

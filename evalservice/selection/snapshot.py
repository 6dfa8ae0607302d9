"""An organization's evidence at one moment, as arrays that never change: what a decision is made from.

Every array is over the M models, in one order; rows of `quality` are targets, by name:

    ""                  overall
    "category:qa"       the benchmarks of a category
    "benchmark:gsm8k"   one benchmark
    "use_case:support"  what outcomes of that use case have taught, beside the evaluations

NaN: no evidence. A decision reads one snapshot; a new one takes its place whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OVERALL = ""
REMEMBERED_FILTERS = 256


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What does not change with evidence: which model it is, how it is called, what it declares.

    `call` is what a caller needs to reach it, as JSON: ids, platform, address, default configuration; never a key.
    """

    id: str
    name: str
    version: str
    platform: str
    status: str
    capabilities: frozenset[str]
    tags: frozenset[str]
    call: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The evidence. `version` is new at each change; `read_at` is when Postgres was last asked (seconds of the epoch).

    quality, quality_sd, quality_n: [targets, M] in [0, 1], with the effective number of test cases or outcomes that
    are direct evidence of that target. cost: expected US dollars per request; cost_per_1k: per thousand tokens, both
    measured or from declared prices. latency: [3, M] milliseconds, p50, p95, p99. error_rate: share
    of failed requests; outcomes: the (discounted) number of outcomes behind it. newest: when the newest evidence was
    measured, seconds of the epoch. breakers: `closed`, `open` or `half-open`, per model; an open one lets nothing pass.
    """

    version: str
    read_at: float
    models: tuple[ModelCard, ...]
    targets: Mapping[str, int]
    quality: Array
    quality_sd: Array
    quality_n: Array
    cost: Array
    cost_per_1k: Array
    latency: Array
    error_rate: Array
    outcomes: Array
    newest: Array
    breakers: tuple[str, ...]
    unavailable: Array = field(init=False)
    all_available: bool = field(init=False)
    names: tuple[str, ...] = field(init=False)
    ids: tuple[str, ...] = field(init=False)
    _filters: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        unavailable = np.array([float(state == "open") for state in self.breakers])
        object.__setattr__(self, "unavailable", unavailable)
        object.__setattr__(self, "all_available", not unavailable.any())
        object.__setattr__(self, "names", tuple(f"{card.name}@{card.version}" for card in self.models))
        object.__setattr__(self, "ids", tuple(card.id for card in self.models))

    def __len__(self) -> int:
        return len(self.models)

    def target_of(self, use_case: str) -> str:
        """The most fitting row for a use case: its own outcomes, a benchmark or category of that name, else overall."""
        if use_case:
            for kind in ("use_case", "benchmark", "category"):
                name = f"{kind}:{use_case}"
                if name in self.targets:
                    return name
        return OVERALL

    def remembered(self, key: Any, made: Any) -> Any:
        """Keep what was computed from this snapshot alone for the next request that asks the same; bounded."""
        if len(self._filters) >= REMEMBERED_FILTERS:
            self._filters.clear()
        self._filters[key] = made
        return made

    def found(self, key: Any) -> Any:
        """What `remembered` kept, or None."""
        return self._filters.get(key)

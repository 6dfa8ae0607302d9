"""What the workers of a run need to know, decided once by the driver. Frozen and picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from actors.limiter import UNLIMITED, Limits
from evalservice.catalog.model_config import ENGINES
from evalservice.pricing import Price
from evalservice.records import JSON, CacheUse

MAX_BLOCK_ROWS = 256
MOST_BLOCKS = 10_000


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run: where its test cases are, how the model is asked, how answers are scored.

    criteria: the benchmark's validated `evaluation_criteria`. config: the effective model configuration.
    concurrency: requests in flight over all `actors` (hosted platforms). total: the run's test cases.
    private_addresses: whether the model may live on loopback and private networks. trusted: engine options that the
    operator lets models set. credential: the key under which the cluster's limiter knows who shares the provider's
    limits. budgeted: the driver hands out the money. cache: which stored completions are used again.
    """

    run_id: str
    title: str
    snapshot_uri: str
    criteria: Mapping[str, JSON]
    platform: str
    model_id: str
    concurrency: int
    base_url: str = ""
    api_key: SecretStr | None = None
    price: Price | None = None
    config: Mapping[str, JSON] = field(default_factory=dict)
    seed: int | None = None
    total: int = 0
    actors: int = 1
    private_addresses: bool = True
    credential: str = ""
    credential_limits: Limits = UNLIMITED
    model_limits: Limits = UNLIMITED
    budgeted: bool = False
    model_version: str = ""
    cache: CacheUse = "off"
    trusted: tuple[str, ...] = ()

    @property
    def self_hosted(self) -> bool:
        """Whether the model's weights are loaded by our own actors."""
        return self.platform in ENGINES

    @property
    def block_rows(self) -> int:
        """Test cases a block: small enough that a slow item holds back little, and that little is lost in a crash;
        large enough that a run has at most some ten thousand blocks."""
        if self.self_hosted:
            return MAX_BLOCK_ROWS
        return max(1, min(MAX_BLOCK_ROWS, max(self.concurrency // 4, self.total // MOST_BLOCKS)))

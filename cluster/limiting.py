"""The cluster's limiter as a named Ray actor: one for all runs, jobs and nodes."""

from __future__ import annotations

from typing import Any

import ray

from actors.limiter import Limiter

NAME = "evalservice-limiter-1"
"""The number is raised when what holders and limiter say to each other changes: during a redeploy both may be there."""
NAMESPACE = "evalservice"


def find_limiter() -> Any:
    """The cluster's limiter, started if it is not there. It outlives who started it, and Ray restarts it."""
    return (
        ray.remote(Limiter)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=100_000,
        )
        .remote()
    )

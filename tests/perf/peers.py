"""What routers of others take for a decision; run by the Python of an environment that has them, at fixed versions.

python peers.py 50   ->   {"litellm": [seconds, …], "paretobandit": [seconds, …]}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each call."""
    call()
    found = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def litellm(deployments: int) -> list[float]:
    """LiteLLM's Router, latency-based: which deployment next?"""
    from litellm import Router

    models = [
        {
            "model_name": "any",
            "litellm_params": {"model": f"openai/m{i}", "api_key": "x", "api_base": f"http://h{i}/v1"},
        }
        for i in range(deployments)
    ]
    router = Router(model_list=models, routing_strategy="latency-based-routing")
    messages = [{"role": "user", "content": "hello"}]
    return timed(lambda: router.get_available_deployment(model="any", messages=messages), 500)


def paretobandit(arms: int) -> list[float]:
    """ParetoBandit's `route` with ready features."""
    import numpy as np
    from pareto_bandit import BanditRouter

    registry = {f"m{i}": {"input_cost_per_m": 0.1 + i / 100, "output_cost_per_m": 0.4 + i / 50} for i in range(arms)}
    router = BanditRouter.create(model_registry=registry, priors="none")
    features = np.random.default_rng(0).normal(size=router.feature_dim if hasattr(router, "feature_dim") else 26)
    return timed(lambda: router.route(features), 2000)


if __name__ == "__main__":
    size = int(sys.argv[1])
    print(json.dumps({"litellm": litellm(size), "paretobandit": paretobandit(size)}))

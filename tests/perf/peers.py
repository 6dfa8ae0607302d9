"""What routers of others take for a decision; run by the Python of an environment that has them, at fixed versions.

python peers.py 50   ->   {"litellm": [seconds, …], "paretobandit": [seconds, …]}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

VERSIONS = ("litellm==1.110.0", "paretobandit==0.1.1")


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
    return timed(lambda: router.get_available_deployment(model="any", messages=messages), 400)


def paretobandit(arms: int) -> list[float]:
    """ParetoBandit's `route` with ready features."""
    import numpy as np
    from pareto_bandit import BanditRouter, FeatureService

    registry = {
        f"m{i}": {"input_cost_per_m": 0.1 + i / 100, "output_cost_per_m": 0.4 + i / 50, "initial_quality": 0.5}
        for i in range(arms)
    }
    size = 26
    router = BanditRouter.create(
        model_registry=registry, priors="none", feature_service=FeatureService.for_precomputed(size)
    )
    features = np.random.default_rng(0).normal(size=size)
    return timed(lambda: router.route(features), 1500)


if __name__ == "__main__":
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    count = int(sys.argv[1])
    print(json.dumps({"litellm": litellm(count), "paretobandit": paretobandit(count)}))

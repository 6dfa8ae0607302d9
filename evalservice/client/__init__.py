"""The API from Python: `Router` for applications that ask for a model, `Client` for everything else.

    with Router("https://evals.example.com", "evs_…", local="fallback") as router:
        with router.choose(use_case="qa", constraints={"max_cost": 0.002}) as choice:
            answer = call(choice.selected.base_url, choice.selected.platform_model_id, prompt)

    with Client("https://evals.example.com", SecretStr("evs_…")) as client:
        run = client.post("/v1/evaluation-runs", {"model": "mini", "benchmark": "gsm8k"})
        for event, data in client.events(f"/v1/evaluation-runs/{run['id']}/events"):
            ...

What goes wrong is raised as an error of `evalservice.errors`; the two that an application handles are here too.
"""

from evalservice.client.async_router import AsyncRouter
from evalservice.client.choice import Choice, ModelToCall
from evalservice.client.http import Client, path_of
from evalservice.client.router import Router
from evalservice.errors import NothingEligible, ServiceUnreachable

__all__ = [
    "AsyncRouter",
    "Choice",
    "Client",
    "ModelToCall",
    "NothingEligible",
    "Router",
    "ServiceUnreachable",
    "path_of",
]

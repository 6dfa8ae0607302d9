"""Ray Serve: the API's replicas, and a supervisor of runs beside them, as one application.

    serve run cluster.serving:application        # what `evalservice up` and a RayService deploy

Both read the environment of the node that they start on. Neither reserves a CPU: on a small machine the runs need them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from actors.providers import hosted_platforms
from cluster.launch import check_new_run
from cluster.observability import log_as_json
from cluster.runtime import Platform, open_platform, read_service_settings
from cluster.supervisor import Supervisor
from evalservice.api import create_app
from evalservice.catalog.model_config import ENGINES
from evalservice.catalog.uploads import sweep_uploads
from evalservice.database import tenant_transaction, transaction
from evalservice.metrics.rollups import due_organizations, roll_up
from evalservice.organizations.members import sweep
from evalservice.web.context import Wiring

ROLL_UP_SECONDS = 10.0
SWEEP_SECONDS = 600.0
POOL_SIZE = 20
GRACE_SECONDS = 20.0

log = logging.getLogger(__name__)


@serve.deployment(
    name="api",
    ray_actor_options={"num_cpus": 0},
    max_ongoing_requests=200,
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32},
    graceful_shutdown_timeout_s=GRACE_SECONDS,
    health_check_period_s=10,
)
@serve.ingress()
class Api:
    """A replica of the API. `supervisor` is deployed with it; nothing is asked of it."""

    def __init__(self, supervisor: Any) -> None:
        log_as_json()
        self._opened = contextlib.ExitStack()
        self._platform = self._opened.enter_context(open_platform(read_service_settings(), pool_size=POOL_SIZE))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, made on the replica: nothing in it is sent over the network."""
        return create_app(wiring_of(self._platform))

    def __del__(self) -> None:
        self._opened.close()


@serve.deployment(
    name="supervisor",
    ray_actor_options={"num_cpus": 0},
    num_replicas=1,
    graceful_shutdown_timeout_s=GRACE_SECONDS,
    health_check_period_s=10,
)
class RunSupervisor:
    """A supervisor of runs, kept alive by Serve. It answers no requests."""

    def __init__(self) -> None:
        log_as_json()
        self._opened = contextlib.ExitStack()
        platform = self._opened.enter_context(open_platform(read_service_settings()))
        self._supervisor = Supervisor(platform)
        self._supervisor.every(ROLL_UP_SECONDS, lambda: roll_up_due(platform))
        self._supervisor.every(SWEEP_SECONDS, lambda: sweep_all(platform))
        self._supervisor.start()

    def check_health(self) -> None:
        """Raises ClusterUnavailable when the loop is dead: Serve then starts another."""
        self._supervisor.check()

    def __del__(self) -> None:
        self._supervisor.stop(timeout=5)
        self._opened.close()


application: serve.Application = Api.bind(RunSupervisor.bind())  # type: ignore[attr-defined]
"""What Serve runs, by `evalservice up` and by its own configuration files."""


def wiring_of(platform: Platform) -> Wiring:
    """The application's parts, over an open platform."""
    return Wiring(
        engine=platform.engine,
        box=platform.box,
        data_root=platform.settings.data_root_uri,
        platforms=(*hosted_platforms(), *ENGINES),
        check_run=lambda model, benchmark, config: check_new_run(platform.settings, model, benchmark, config),
        readiness=_readiness,
        private_addresses=platform.settings.private_addresses is not False,
    )


def _readiness() -> Mapping[str, str]:
    try:
        alive = sum(1 for node in ray.nodes() if node["Alive"])
    except Exception as error:
        return {"ray": f"does not answer: {type(error).__name__}"}
    return {"ray": "" if alive else "has no node"}


def roll_up_due(platform: Platform) -> None:
    """Bring the kept aggregates up to date, one organization after the other."""
    with transaction(platform.engine) as session:
        due = due_organizations(session)
    for organization_id in due:
        with tenant_transaction(platform.engine, organization_id) as session:
            done = roll_up(session, organization_id)
        log.info("rolled_up organization=%s hours=%d", organization_id, done)


def sweep_all(platform: Platform) -> None:
    """Forget what was kept for a day: idempotency keys, files that nobody registered."""
    with transaction(platform.engine) as session:
        keys = sweep(session)
    files = sweep_uploads(platform.settings.data_root_uri)
    log.info("swept idempotency_keys=%d uploads=%d", keys, files)

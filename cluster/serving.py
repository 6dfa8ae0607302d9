"""Ray Serve: the API's replicas, and a supervisor of runs beside them, as one application.

    serve deploy deploy/serve.yaml        # on a cluster; `evalservice up` deploys the same with the options below

Both read the environment of the node that they start on. Neither reserves a CPU: on a small machine the runs need them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import orjson
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve._private.constants import RAY_SERVE_HAPROXY_CONFIG_FILE_LOC

from cluster import gauges
from cluster.application import platform_wiring
from cluster.metrics import (
    DECISIONS_LOST,
    DECISIONS_WAITING,
    EVIDENCE_AGE,
    REQUEST_SECONDS,
    REQUESTS,
    Meters,
)
from cluster.observability import log_as_json
from cluster.outcomes import APPLY_SECONDS, apply_waiting
from cluster.periodic import Periodic
from cluster.regressions import CHECK_SECONDS, check_due
from cluster.runtime import Platform, open_platform, read_service_settings, schema_problem
from cluster.supervisor import Supervisor
from cluster.turns import TURN_SECONDS, take_turns
from cluster.webhooks import SEND_SECONDS, send_due
from evalservice.api import create_app
from evalservice.catalog.uploads import sweep_uploads
from evalservice.database import tenant_transaction, transaction
from evalservice.errors import Unavailable
from evalservice.metrics.rollups import due_organizations, roll_up
from evalservice.organizations.members import sweep
from evalservice.selection.selector import Selector
from evalservice.web.context import OnRequest, Wiring
from evalservice.web.middleware import request_fields
from evalservice.web.problems import CONTENT_TYPE

ROLL_UP_SECONDS = 10.0
SWEEP_SECONDS = 600.0
POOL_SIZE = 20
THREADS = 2 * POOL_SIZE
HEALTH: dict[str, float] = {"health_check_period_s": 10.0, "health_check_timeout_s": 30.0}
COLLECTED = (20_000, 20, 20)
"""Python looks for cycles after so many new objects; by default after 700, of which a decision makes a hundred."""
REPLACED: dict[str, Any] = {"max_surge_percent": 100, "graceful_shutdown_wait_loop_s": 1.0}
"""A redeploy starts new replicas before it stops old ones. With Serve's default, 0, everybody waits when a single one
is replaced: 12 s on two CPUs, where it is now 0.6 s."""
GRACE_SECONDS = 35.0
"""How long a replica that stops may take to finish what it has. Behind HAProxy Serve makes it no less than this."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@serve.deployment(
    name="api",
    ray_actor_options={"num_cpus": 0},
    max_ongoing_requests=200,
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32},
    graceful_shutdown_timeout_s=GRACE_SECONDS,
    **HEALTH,
    **REPLACED,
)
@serve.ingress()
class Api:
    """A replica of the API. `supervisor` is deployed with it; nothing is asked of it.

    It takes requests once Postgres has answered it. Its health is that its event loop turns, and no more: while
    Postgres is away another replica would do no better, and `/readyz` says so to whoever sends the requests.
    """

    def __init__(self, supervisor: Any) -> None:
        log_as_json(request_fields)
        explain_proxy_errors()
        self._opened = contextlib.ExitStack()
        self._platform = self._opened.enter_context(open_platform(read_service_settings(), pool_size=POOL_SIZE))
        self._requests = RequestMeters(Meters())
        self._application = create_app(served_wiring(self._platform, self._requests))
        routing = self._application.state.routing
        routing.start()
        self._opened.callback(routing.close)
        self._gauges = Periodic()
        self._gauges.add(gauges.SECONDS, functools.partial(tell_of_decisions, routing.selector, Meters()))
        self._gauges.add(1.0, self._requests.tell)
        self._gauges.start()
        self._opened.callback(self._gauges.stop)
        gc.collect()
        gc.freeze()  # what is here now stays: half a million objects that no collection need look at again
        gc.set_threshold(*COLLECTED)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application, made on the replica: nothing in it is sent over the network."""
        return self._application

    def __del__(self) -> None:
        self._opened.close()


@serve.deployment(
    name="supervisor",
    ray_actor_options={"num_cpus": 0},
    num_replicas=1,
    graceful_shutdown_timeout_s=GRACE_SECONDS,
    **HEALTH,
    **REPLACED,
)
class RunSupervisor:
    """A supervisor of runs, kept alive by Serve. It answers no requests."""

    def __init__(self) -> None:
        log_as_json()
        self._opened = contextlib.ExitStack()
        platform = self._opened.enter_context(open_platform(read_service_settings()))
        self._supervisor = Supervisor(platform)
        self._supervisor.every(gauges.SECONDS, gauges.ServiceGauges(platform.engine).tell)
        self._supervisor.every(ROLL_UP_SECONDS, lambda: roll_up_due(platform))
        self._supervisor.every(SWEEP_SECONDS, lambda: sweep_all(platform))
        self._supervisor.start()
        self._chores = []  # each in a thread of its own: they hold up nothing else
        for seconds, chore in (
            (TURN_SECONDS, take_turns),
            (CHECK_SECONDS, check_due),
            (SEND_SECONDS, send_due),
            (APPLY_SECONDS, apply_waiting),
        ):
            periodic = Periodic()
            periodic.add(seconds, functools.partial(chore, platform))
            periodic.start()
            self._chores.append(periodic)

    def check_health(self) -> None:
        """Raises ClusterUnavailable when the loop is dead: Serve then starts another."""
        self._supervisor.check()

    def __del__(self) -> None:
        for periodic in self._chores:
            periodic.stop()
        self._supervisor.stop(timeout=5)
        self._opened.close()


application: serve.Application = Api.bind(RunSupervisor.bind())  # type: ignore[attr-defined]
"""What Serve runs, by `evalservice up` and by its own configuration files."""


def explain_proxy_errors() -> None:
    """What HAProxy answers by itself, when no replica can be reached, becomes a problem as all our errors are.

    Serve has no setting for it: its proxy writes the answer (500, text/plain) beside HAProxy's configuration when it
    starts, and HAProxy reads it whenever that changes, as it does when this replica is made known to it.
    """
    file = Path(RAY_SERVE_HAPROXY_CONFIG_FILE_LOC).parent / ray.get_runtime_context().get_node_id() / "500.http"
    body = orjson.dumps(Unavailable("no replica of the service can be reached; try again").problem())
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"Content-Type: {CONTENT_TYPE}",
        "Retry-After: 1",
        f"Content-Length: {len(body)}",
    )
    with contextlib.suppress(OSError):  # no HAProxy on this node, or another user's
        if file.read_bytes().startswith(b"HTTP/1.1 500"):
            new = file.with_name(f"{file.name}.{os.getpid()}")
            new.write_bytes("\r\n".join((*head, "", "")).encode() + body)
            new.replace(file)


def tell_of_decisions(selector: Selector, meters: Meters) -> None:
    """The gauges of a replica that decides."""
    meters.set(DECISIONS_WAITING, selector.log.waiting)
    meters.set(EVIDENCE_AGE, max(selector.keeper.ages().values(), default=0.0))


class RequestMeters:
    """Counts what is answered, and tells Ray of it now and then: to tell takes as long as to answer."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._seen: deque[tuple[str, str, int, float]] = deque()

    def __call__(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered, which began after so many seconds."""
        self._seen.append((method, route, status, seconds))

    def tell(self) -> None:
        """Tell of all that was answered since."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for _ in range(len(self._seen)):
            method, route, status, seconds = self._seen.popleft()
            counts[method, route, str(status)] += 1
            self._meters.observe(REQUEST_SECONDS, seconds, method, route)
        for labels, count in counts.items():
            self._meters.count(REQUESTS, count, *labels)


def served_wiring(platform: Platform, on_request: OnRequest) -> Wiring:
    """The application's parts in a replica: it says whether Ray is there, and counts what it answers."""
    return platform_wiring(
        platform,
        readiness=lambda: {"migrations": schema_problem(platform.engine), **_ray_readiness()},
        on_request=on_request,
        in_thread=Threads().run,
        selector=Selector(platform.engine, on_lost=functools.partial(Meters().count, DECISIONS_LOST)),
    )


class Threads:
    """Threads that routes run in, `THREADS` at most, kept as long as the replica lives.

    FastAPI's own, those of anyio, live as long as the event loop's first task. In a replica of Serve there is none, so
    each request would start a thread and end it: a third of what a small read costs.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    async def run(self, call: Callable[..., T], *given: Any) -> T:
        """What `call(*given)` gives. Cancelled, it still waits for the call, which goes on."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, call, *given)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


def _ray_readiness() -> Mapping[str, str]:
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
        log.info("rolled_up", extra={"organization_id": organization_id, "hours": done})


def sweep_all(platform: Platform) -> None:
    """Forget what was kept for a day: idempotency keys, files that nobody registered."""
    with transaction(platform.engine) as session:
        keys = sweep(session)
    files = sweep_uploads(platform.settings.data_root_uri)
    log.info("swept", extra={"idempotency_keys": keys, "uploads": files})

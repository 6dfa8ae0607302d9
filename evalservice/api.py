"""The application: every feature's routes under `/v1`, errors as problems, health. Who wires it decides where it runs.

    create_app(Wiring(engine=engine, box=box, data_root="/data", platforms={"openai": OPENAI_URL}, check_run=check))

The same application is served by Ray Serve and mounted by the command line in its own process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import orjson
from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi

from evalservice.catalog import routes as catalog
from evalservice.comparisons import regression_routes, webhook_routes
from evalservice.comparisons import routes as comparisons
from evalservice.database import is_ready
from evalservice.interchange import routes as interchange
from evalservice.metrics import routes as metrics
from evalservice.organizations import routes as organizations
from evalservice.runs import routes as runs
from evalservice.selection import local_routes, policy_routes, selecting
from evalservice.selection import routes as selection
from evalservice.web.context import Wiring
from evalservice.web.middleware import BodyLimit, Compressed, RequestLog
from evalservice.web.problems import RESPONSES, Problem, add_handlers, internal_problem

MAX_BODY_BYTES = 32 << 20
ROUTERS = (
    selecting.router,  # first: the others are looked through for every request before it is found
    catalog.models,
    catalog.capabilities,
    catalog.datasets,
    catalog.dataset_files,
    catalog.benchmarks,
    runs.runs,
    interchange.imports,
    metrics.metrics,
    metrics.metric_aggregations,
    metrics.leaderboards,
    comparisons.comparisons,
    comparisons.ab_tests,
    comparisons.experiments,
    comparisons.experiment_templates,
    regression_routes.regression_alerts,
    webhook_routes.webhooks,
    local_routes.local,  # before `/selections/{selection_id}`
    selection.selections,
    policy_routes.selection_policies,
    organizations.organizations,
    organizations.api_keys,
    organizations.credentials,
)

VERSIONED = APIRouter()
"""The routes of all of them, made once: to read what a route takes from its endpoint costs two milliseconds."""
for router in ROUTERS:
    VERSIONED.include_router(router, prefix="/v1", responses=RESPONSES)


def create_app(wiring: Wiring, *, raise_faults: bool = False) -> FastAPI:
    """The application over these parts. raise_faults: a fault of ours is raised to the server and not answered."""
    app = FastAPI(
        title="evalservice",
        version="1",
        description="Measure language models once, honestly and at cluster speed; every number with its uncertainty.",
        docs_url="/docs",
        redoc_url=None,
        separate_input_output_schemas=False,
        lifespan=_decisions_stored,
    )
    app.state.wiring = wiring
    app.state.routing = selecting.Routing.of(wiring)
    add_handlers(app)
    app.include_router(_health(wiring))
    app.router.routes.extend(VERSIONED.routes)
    app.add_middleware(Compressed, minimum_size=2048, compresslevel=1)
    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES, unlimited=("/v1/dataset-files/",))
    app.add_middleware(RequestLog, on_fault=_raised if raise_faults else internal_problem, on_request=wiring.on_request)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _decisions_stored(app: FastAPI) -> AsyncIterator[None]:
    """A server that stops stores what was decided before it ends."""
    yield
    await anyio.to_thread.run_sync(app.state.routing.close)


def _raised(fault: Exception) -> Response:
    raise fault


def _document(app: FastAPI) -> dict[str, object]:
    """The OpenAPI document, with the one form that all errors have."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def _health(wiring: Wiring) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Response:
        """Alive: this process answers. It touches nothing else."""
        return Response(b'{"status":"alive"}', media_type="application/json")

    @router.get("/readyz", responses={503: {"description": "Not ready: the parts say why."}})
    async def readyz() -> Response:
        """Ready: Postgres, its schema and Ray are asked now. 503 and the reasons when one is not."""
        found = await wiring.in_thread(lambda: {"postgres": is_ready(wiring.engine), **wiring.readiness()})
        ready = not any(found.values())
        body = {"status": "ready" if ready else "not ready", "parts": {k: v or "ok" for k, v in found.items()}}
        return Response(orjson.dumps(body), 200 if ready else 503, media_type="application/json")

    return router

"""`evalservice up`: Postgres, Ray and Serve on this machine or on the cluster at RAY_ADDRESS, until Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.common import Json, platform
from cluster.cli.output import note, print_json_line, say
from evalservice.errors import ClusterUnavailable, InvalidInput

if TYPE_CHECKING:
    from cluster.runtime import Platform

READY_SECONDS = 120.0


def up(
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="Where the API listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535)] = 8000,
    json: Json = False,
) -> int:
    """Serve the API and run what is asked of it: Postgres, Ray and Serve, until Ctrl-C.

    At the first start the key of the first organization's owner is printed, once. With --json one line tells when all
    is ready: {"url", "api_key", "dashboard_url"}; api_key is null after the first start.
    """
    _check_address(host, port)
    # Ray reads these when it starts. HAProxy answers five times as fast as the plain proxy.
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
    os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
    # So long a replica that stops waits for balancers in front of HAProxy to notice; here are none. 30 by default.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    os.environ.setdefault("EVALSERVICE_PRIVATE_ADDRESSES", str(_is_loopback(host)).lower())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with platform() as opened:
        try:
            dashboard = _start(opened, host, port)
            url = _url(host, port)
            if _wait_until_ready(url, stopped):
                _announce(opened, url, dashboard, json)
                stopped.wait()
            note("stopping")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
            _stop()
    return 0


def _check_address(host: str, port: int) -> None:
    import socket

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InvalidInput("--port", port, f"a free port on an address of this machine ({error.strerror})") from None


def _url(host: str, port: int) -> str:
    """Where a program on this machine reaches the service."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _start(opened: Platform, host: str, port: int) -> str:
    from cluster.runtime import start_ray_for_service

    dashboard = start_ray_for_service(opened.settings)
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from cluster.serving import application

    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": port},
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),  # the application logs its requests
    )
    serve.run(application, name="evalservice", route_prefix="/", blocking=False)
    return dashboard


def _wait_until_ready(url: str, stopped: threading.Event) -> bool:
    import httpx

    deadline = time.monotonic() + READY_SECONDS
    last = "no answer"
    while not stopped.is_set():
        try:
            answer = httpx.get(f"{url}/readyz", timeout=5)
            if answer.status_code == 200:
                return True
            last = answer.text[:500]
        except httpx.HTTPError as error:
            last = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"the service is not ready after {READY_SECONDS:.0f} s: {last}")
        stopped.wait(0.2)
    return False


def _announce(opened: Platform, url: str, dashboard: str, json: bool) -> None:
    from evalservice.organizations.members import FIRST_KEY, first_key

    with opened.transaction() as session:
        key = first_key(session, opened.organization_id, opened.user_id, FIRST_KEY)
    if json:
        print_json_line({"url": url, "api_key": key, "dashboard_url": dashboard})
        return
    say(f"evalservice    {url}    (documentation: {url}/docs)")
    say(f"Ray dashboard  {dashboard}")
    if key is not None:
        say(f"API key        {key}    (the owner's; it is not shown again)")
    note("the replicas' own ports (from 30000) listen on all interfaces; they ask for a key like everything else")
    note("Ctrl-C stops it")


def _stop() -> None:
    import ray
    from ray import serve

    from cluster.runtime import stop_ray

    with contextlib.redirect_stdout(io.StringIO()):  # Ray would print there that its controller is killed, as it is
        if ray.is_initialized():
            serve.shutdown()
        stop_ray()

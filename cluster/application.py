"""The application's parts over an open platform, the same for a replica of the service and for a command."""

from __future__ import annotations

from typing import Any

from actors.providers import hosted_platforms
from cluster.planning import check_new_run
from cluster.runtime import Platform
from evalservice.catalog.model_config import ENGINES
from evalservice.web.context import Wiring


def platform_wiring(platform: Platform, **own: Any) -> Wiring:
    """own: the parts that depend on who runs the application, see `Wiring`."""
    return Wiring(
        engine=platform.engine,
        box=platform.box,
        data_root=platform.settings.data_root_uri,
        platforms=(*hosted_platforms(), *ENGINES),
        check_run=lambda model, benchmark, config: check_new_run(platform.settings, model, benchmark, config),
        private_addresses=platform.settings.private_addresses is not False,
        **own,
    )

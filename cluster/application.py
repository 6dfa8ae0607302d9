"""The application's parts over an open platform, the same for a replica of the service and for a command."""

from __future__ import annotations

from typing import Any

from cluster.planning import check_new_model, check_new_run, default_base_urls
from cluster.runtime import Platform
from evalservice.web.context import Wiring


def platform_wiring(platform: Platform, **own: Any) -> Wiring:
    """own: the parts that depend on who runs the application, see `Wiring`."""
    return Wiring(
        engine=platform.engine,
        box=platform.box,
        data_root=platform.settings.data_root_uri,
        platforms=default_base_urls(),
        check_model=check_new_model,
        check_run=lambda model, benchmark, config: check_new_run(platform.settings, model, benchmark, config),
        private_addresses=platform.settings.private_addresses is not False,
        **own,
    )

"""The API in a process of its own, without Ray, for tests that kill it.

python -m tests.serving PORT        # its home and its database are those of the environment
"""

from __future__ import annotations

import sys

import uvicorn

from cluster.application import platform_wiring
from cluster.runtime import open_platform, read_settings
from evalservice.api import create_app


def main() -> None:
    """Serve until it is stopped."""
    with open_platform(read_settings(), pool_size=10) as platform:
        app = create_app(platform_wiring(platform))
        app.state.routing.start()
        uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)


if __name__ == "__main__":
    main()

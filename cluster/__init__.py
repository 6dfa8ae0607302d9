"""Where evalservice becomes a distributed system: the composition root."""

import os
from pathlib import Path

# Ray reads both at its import.
# A thread that still iterates when a command has shut Ray down would start another Ray cluster, which nobody stops.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# A cluster that `ray start` made asks for a token by default, and a client that was told nothing does not send the one
# that it has.
if os.environ.get("RAY_ADDRESS") and (os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray/auth_token").exists()):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

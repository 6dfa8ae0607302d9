"""Where evalservice becomes a distributed system: the composition root."""

import os

# Ray reads this at its import. Without it, a thread that still iterates when a command has shut Ray down would start
# another Ray cluster, which nobody would ever stop.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

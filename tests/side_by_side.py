"""Which of the processes that run the tests side by side runs which: one process has all tests of a file, which share
fixtures, and all files that start Ray on the ports that it chooses.

    python -m pytest --numprocesses 2
"""

from __future__ import annotations

from typing import Any

import pytest

RAYS_PORTS = (
    "tests/api/test_up.py",
    "tests/cluster/test_commands.py",
    "tests/cluster/test_embedded.py",
    "tests/cluster/test_faults.py",
    "tests/gpu/test_run.py",
)
"""Who starts Ray, and not by `tests.ray_head`: `evalservice up` refuses to where another Ray's agent has the port."""


def turn(nodeid: str) -> int:
    """What takes longest comes first, so that no process waits for another at the end."""
    file = nodeid.partition("::")[0]
    if file in RAYS_PORTS:
        return 0
    return 1 if file.startswith("tests/cluster/") else 2 if file.startswith("tests/api/") else 3


def scheduler(config: pytest.Config, log: Any) -> Any:
    """What gives the tests to pytest-xdist's workers, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "Ray's ports" if file in RAYS_PORTS else file

        def remove_node(self, node: Any) -> Any:
            """A worker has died: the test that killed it has failed, and is not tried on the others, too."""
            for tests in self.assigned_work[node].values():
                for nodeid, ended in tests.items():
                    if not ended:
                        tests[nodeid] = True
                        super().remove_node(node)
                        return nodeid
            return super().remove_node(node)

    config.option.loadscopereorder = False
    return Files(config, log)

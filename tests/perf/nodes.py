"""A latency-bound run on one worker node and on four: how much of one node's time do four take?

python -m tests.perf.nodes

All nodes are of this one machine, a head without CPUs and workers that have as many requests in flight as one
generation actor has at most. A request takes so long that the machine's processors are not what the run waits for.
"""

from __future__ import annotations

import contextlib

from tests.perf.bench import bench, server, table
from tests.ray_head import ray_head, worker_node

IN_FLIGHT = 1024
CASES = 36 * IN_FLIGHT
LATENCY = 10.0
NODES = 4


def main() -> None:
    """Print the table."""
    seconds: dict[int, float] = {}
    with bench() as opened, server(LATENCY) as port:
        opened.sums("sums", CASES)
        model = opened.model(port)
        for nodes in (1, NODES):
            with contextlib.ExitStack() as cluster:
                head = cluster.enter_context(ray_head(opened.home, opened.environment, "--num-cpus=0"))
                for _ in range(nodes):
                    cluster.enter_context(worker_node(head))
                in_flight = str(nodes * IN_FLIGHT)
                run = opened.cli(
                    *("run", "--model", model, "--benchmark", "sums", "--max-concurrency", in_flight),
                    **head.environment,
                )
            assert run["completed_test_cases"] == CASES
            seconds[nodes] = run["duration_seconds"]
    table(
        f"{CASES} test cases of {LATENCY:.0f} s, {IN_FLIGHT} in flight a node",
        ["worker nodes", "seconds", "of one node's time"],
        [[nodes, f"{taken:.0f}", f"{taken / seconds[1]:.2f} (goal 0.30)"] for nodes, taken in seconds.items()],
    )


if __name__ == "__main__":
    main()

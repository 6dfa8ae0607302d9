"""A latency-bound run on one worker node and on four: how much of one node's time do four take?

python -m tests.perf.nodes

All nodes are of this one machine, each with as many requests in flight as one generation actor has at most. Requests
take so long that the machine's processors are not what the run waits for.
"""

from __future__ import annotations

from tests.perf.bench import bench, server, table

IN_FLIGHT = 1024
CASES = 16 * IN_FLIGHT
LATENCY = 10.0
NODES = 4


def main() -> None:
    """Print the table."""
    from ray.cluster_utils import Cluster

    seconds: dict[int, float] = {}
    with bench() as opened, server(LATENCY) as port:
        opened.sums("sums", CASES)
        model = opened.model(port)
        for nodes in (1, NODES):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            try:
                for _ in range(nodes):
                    cluster.add_node(num_cpus=1)
                run = opened.cli(
                    *("run", "--model", model, "--benchmark", "sums", "--max-concurrency", str(nodes * IN_FLIGHT)),
                    RAY_ADDRESS=cluster.address,
                )
            finally:
                cluster.shutdown()
            assert run["completed_test_cases"] == CASES
            seconds[nodes] = run["duration_seconds"]
    table(
        f"{CASES} test cases of {LATENCY:.0f} s, {IN_FLIGHT} in flight a node",
        ["worker nodes", "seconds", "of one node's time"],
        [[nodes, f"{taken:.0f}", f"{taken / seconds[1]:.2f} (goal 0.30)"] for nodes, taken in seconds.items()],
    )


if __name__ == "__main__":
    main()

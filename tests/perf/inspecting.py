"""Inspect AI's rate on the same server; run by the Python of an environment that has it, at a fixed version.

python inspecting.py URL CASES   ->   {"samples": 2000, "seconds": 31.2}
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

VERSIONS = ("inspect-ai==0.3.285", "openai>=3.4,<4")
CONNECTIONS = 1000


def main() -> None:
    """Evaluate short questions with as many connections as it makes good use of."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    url, count = sys.argv[1], int(sys.argv[2])
    samples = [Sample(input=f"Case {i}: what is {i} plus {i}?", target=str(2 * i)) for i in range(count)]
    task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
    model = get_model("openai-api/lean/m", base_url=url, api_key="x")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        [log] = eval(
            task,
            model=model,
            max_connections=CONNECTIONS,
            max_samples=CONNECTIONS,
            log_dir=folder,
            display="none",
        )
        seconds = time.perf_counter() - started
    assert log.status == "success", log.error
    print(json.dumps({"samples": count, "seconds": seconds}))


if __name__ == "__main__":
    main()

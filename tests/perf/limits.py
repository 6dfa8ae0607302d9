"""A provider's limit per minute: how much of it is used, and how often it refuses.

python -m tests.perf.limits [announced]

Three minutes at 600 requests a minute; the provider counts any 60 seconds. With `announced` nothing is configured, and
the limit is learned from the headers of the answers.
"""

from __future__ import annotations

import json
import sys

from tests.perf.bench import bench, table
from tests.provider import running_provider

LIMIT = 600
CASES = 3 * LIMIT


def main(arguments: list[str]) -> None:
    """Print the table."""
    announced = arguments[:1] == ["announced"]
    with bench() as opened, running_provider() as provider:
        provider.control(requests_per_minute=LIMIT, announced=announced, latency=0.3, jitter=0.5)
        opened.sums("sums", CASES)
        config = "{}" if announced else json.dumps({"requests_per_minute": LIMIT})
        opened.cli(
            "models",
            "add",
            "m",
            "--platform",
            "openai",
            "--model-id",
            "m",
            "--base-url",
            provider.url,
            "--config",
            config,
        )
        run = opened.cli("run", "--model", "m", "--benchmark", "sums", "--max-concurrency", "256")
        [(seconds,)] = opened.query(
            "SELECT extract(epoch FROM max(executed_at) - min(executed_at)) FROM evaluation_results"
        )
        stats = provider.stats()
    rate = (CASES - 1) / float(seconds) * 60
    table(
        f"A provider that allows {LIMIT} requests a minute ({'announced' if announced else 'configured'})",
        ["what", "measured", "goal"],
        [
            ["requests a minute", f"{rate:.0f}", f"{0.95 * LIMIT:.0f}"],
            ["of the limit", f"{rate / LIMIT:.3f}", "0.95"],
            ["answered 429", f"{stats['refused'] / stats['requests']:.4f}", "0.01"],
            ["completed", str(run["completed_test_cases"]), str(CASES)],
        ],
    )


if __name__ == "__main__":
    main(sys.argv[1:])

"""`make perf`: every benchmark of our own speed, one after the other."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.perf import (
    comparing,
    hosted,
    limits,
    nearest,
    nodes,
    paging,
    rollups,
    selecting,
    service,
    summaries,
    writing,
)

writing.main()
rollups.main()
paging.main()
summaries.main()
comparing.main([])
nearest.main([])
selecting.main()
hosted.main()
limits.main([])
limits.main(["announced"])
nodes.main()
service.main([])
if importlib.util.find_spec("vllm") is None:
    print("\nself-hosted: vLLM is not installed")
else:
    script = Path(__file__).with_name("self_hosted.py")
    few_shot = ["--random-llama", "10m", "--few-shot", "5", "--prompts", "8", "--rounds", "2"]
    for options in ([], few_shot, ["--server", "--prompts", "500"]):
        command = [sys.executable, str(script), *options]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)

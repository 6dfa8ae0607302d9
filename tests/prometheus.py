"""The metrics of a Ray node as Prometheus reads them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import defaultdict
from pathlib import Path

SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scraped(*targets: str) -> Samples:
    """What these nodes (HOST:PORT) tell: {series: [(labels, value)]}."""
    found: Samples = defaultdict(list)
    for target in targets:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if sample := SAMPLE.match(line):
                    found[sample[1]].append((dict(LABEL.findall(sample[2])), float(sample[3])))
    return found


def discovered(folder: Path) -> list[str]:
    """The targets that a Ray cluster, whose files are below this folder, names for Prometheus."""
    path = folder / "prom_metrics_service_discovery.json"
    return [target for group in json.loads(path.read_text()) for target in group["targets"]] if path.exists() else []


def total(samples: Samples, series: str, **labels: str) -> float:
    """The sum of a series over all processes, of the samples that have these labels."""
    return sum(value for found, value in samples.get(series, []) if found.items() >= labels.items())

"""Logs that are sent to the application over HTTP, as the command line sends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from evalservice.interchange.records import LogFiles
from tests.api.conftest import created, unique
from tests.logs import (
    QUESTIONS,
    lm_eval_log,
    lm_eval_rows,
    the_log,
)


class Service:
    """The application over HTTP, as the command line uses it."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def sent(self, log: LogFiles) -> list[dict[str, str]]:
        """Upload a log's files; its main file first."""
        files = []
        for name in [log.main, *sorted(set(log.paths) - {log.main})]:
            upload = unique("upload")
            answer = self.client.put(f"/v1/dataset-files/{upload}", content=log.paths[name].read_bytes())
            assert answer.status_code == 201, answer.text
            files.append({"name": name, "file_path": upload})
        return files

    def asked(self, path: Path, **options: Any) -> httpx.Response:
        """Import a log."""
        return self.client.post("/v1/imports", json={"files": self.sent(the_log(path)), **options})

    def imported(self, path: Path, **options: Any) -> list[dict[str, Any]]:
        """Import a log that must be new."""
        answer = self.asked(path, **options)
        assert answer.status_code == 201, answer.text
        runs: list[dict[str, Any]] = answer.json()["runs"]
        return runs

    def refused(self, path: Path, **options: Any) -> tuple[int, str]:
        """Import a log that must not be."""
        answer = self.asked(path, **options)
        return answer.status_code, answer.json()["detail"]

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's results."""
        items: list[dict[str, Any]] = self.client.get(f"/v1/evaluation-runs/{run}/results").json()["items"]
        return items


def a_log(folder: Path, strict: tuple[float, ...] = (1, 0, 1, 0), **options: Any) -> Path:
    """An lm-eval log of a task and a model that no other test has."""
    task = options.pop("task", None) or unique("sums").replace("-", "_")
    results = {task: {"exact_match,strict": sum(strict) / 4, "exact_match,loose": 0.75}}
    questions = options.pop("questions", None) or unique("q")
    rows = [
        {**row, "doc": {**row["doc"], "question": f"{questions} {row['doc']['question']}"}}
        for row in lm_eval_rows(strict=strict)
    ]
    return lm_eval_log(folder, {task: rows}, results, **{"model": unique("org/large"), **options})


def own_benchmark(
    service: Service,
    order: tuple[int, ...] = (0, 1, 2, 3),
    prefix: str = "",
    scorers: tuple[str, ...] = ("numeric_match",),
) -> dict[str, Any]:
    """A dataset of ours and a benchmark with a scorer of ours over it."""
    cases = [{"id": f"q-{n}", "input": f"{prefix}{QUESTIONS[n]}", "expected_output": str(2 * (n + 1))} for n in order]
    dataset = created(service.client, "/v1/datasets", {"name": unique("d"), "test_cases": cases})
    body = {
        "name": unique("b"),
        "dataset": dataset["name"],
        "category": "qa",
        "evaluation_criteria": {"scorers": list(scorers)},
    }
    return created(service.client, "/v1/benchmarks", body)


def exported(service: Service, run: str, file_format: str) -> bytes:
    answer = service.client.get(f"/v1/evaluation-runs/{run}/export", params={"format": file_format})
    assert answer.status_code == 200, answer.text
    return answer.content

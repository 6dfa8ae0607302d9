"""What every reader of a log gives: runs with their items, whatever the tool. Frozen, and without a database.

    LogRun(task="tiny_qa", model="toyorg/toy-large", tool="lm-eval", metrics=(Metric("exact_match,strict-match", …),),
           stated={"exact_match,strict-match": 0.3}, items=<called for each pass over the log>, …)

    LogItem(id="q-apples", input="Tom has 3 apples …", expected_output=7, output=" #### 7",
            scores={"imported": ItemScore("scored", {"exact_match,strict-match": 1.0})}, …)

`items` reads the log anew at each call, item by item and in an order that depends on the items alone, so that two logs
of the same items have the same order and no log must fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from evalservice.records import JSON, ErrorKind
from evalservice.scoring import ItemScore, Metric


@dataclass(frozen=True, slots=True)
class LogFiles:
    """One log: its main file, and the files that belong to it, each under the name that its tool gave it."""

    main: str
    paths: Mapping[str, Path]

    @property
    def path(self) -> Path:
        """Where the main file is."""
        return self.paths[self.main]


@dataclass(frozen=True, slots=True)
class LogItem:
    """One test case with everything that the model made of it.

    index: the test case's position in its dataset, where the log knows one. prompt: what was sent, as `input_data`
    holds it. output: the completion, or a list of them (epochs, repeats).
    info: `completion_info`. error: why there is no completion at all.
    """

    id: str
    input: str | Mapping[str, JSON]
    output: JSON
    scores: Mapping[str, ItemScore]
    expected_output: JSON = None
    choices: tuple[str, ...] | None = None
    index: int | None = None
    cluster: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    prompt: JSON = None
    error: str | None = None
    error_kind: ErrorKind = "logged_error"
    latency_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cost: Decimal | None = None
    executed_at: datetime | None = None
    info: Mapping[str, JSON] = field(default_factory=dict)

    def record(self) -> dict[str, JSON]:
        """The test case as a dataset's file would have it."""
        return {
            "id": self.id,
            "input": self.input,
            "expected_output": self.expected_output,
            "choices": None if self.choices is None else list(self.choices),
            "cluster": self.cluster,
            "metadata": dict(self.metadata) or None,
        }


@dataclass(frozen=True, slots=True)
class LogRun:
    """One model on one task, as a log has it.

    measure: tool, task and the task's version: what two values must share to be compared.
    stated: the log's own aggregates, by our names of the metrics. contradictions: what a reader has found already.
    config: how the model was asked, by our names. settings: the rest, for the record. notes: what was left out.
    content_hash: of the dataset, where the log knows it. order_seed: of a run of ours that asked a random sample.
    criteria: how our own runs are scored, where the log is one of ours; else the metrics stand for themselves.
    """

    task: str
    model: str
    tool: str
    tool_version: str
    measure: str
    metrics: tuple[Metric, ...]
    items: Callable[[], Iterator[LogItem]]
    stated: Mapping[str, float] = field(default_factory=dict)
    contradictions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dataset: str = ""
    content_hash: str = ""
    order_seed: int | None = None
    epochs: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, JSON] = field(default_factory=dict)
    criteria: Mapping[str, JSON] | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None

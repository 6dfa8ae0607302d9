"""`imported`: the values that came with a log of another tool. They are looked at, aggregated and compared like any
other, and never computed: there is nothing here that could score a completion again.

    {"name": "imported", "params": {"measure": "lm-eval tiny_qa 1.0",
     "metrics": [{"name": "exact_match,strict-match", "kind": "binary", "scale": [0, 1], "higher_is_better": true}]}}
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from evalservice.records import Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters

NAME = "imported"
MAX_METRICS = 1000


class ImportedMetric(BaseModel):
    """A metric as the log has it. A run's value is the mean over its test cases, whatever the kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    kind: Literal["binary", "continuous"] = "continuous"
    scale: tuple[float | None, float | None] = (None, None)
    higher_is_better: bool = True


class Imported(Scorer["Imported.Parameters"]):
    """Stands for the tool that scored."""

    class Parameters(ScorerParameters):
        """measure: tool, task and the task's version; values of different measures are never compared."""

        measure: str = Field(min_length=1, max_length=500)
        metrics: tuple[ImportedMetric, ...] = Field(min_length=1, max_length=MAX_METRICS)

    name = NAME

    def own_metrics(self) -> tuple[Metric, ...]:
        """Those that the log had."""
        return tuple(Metric(m.name, m.kind, m.scale, m.higher_is_better) for m in self.parameters.metrics)

    @property
    def version(self) -> str:
        """The measure alone: which other metrics a log had, and whether one was always 0 or 1, changes no value."""
        return f"{self.name}:{self.revision}|{self.parameters.measure}"

    def score_item(self, item: Item) -> Score:
        """Never: `ItemFailed`."""
        raise ItemFailed("these scores came with an imported log: no completion can be scored again by them")

"""What the API takes and gives about imports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from evalservice.runs.schemas import RunRead
from evalservice.web.fields import Reference

FileName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]*$")
]
"""The name of a file without its folder."""


class LogFileBody(BaseModel):
    """One file of a log: the name that its tool gave it, and what it was uploaded as."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: FileName
    file_path: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    """The name of an uploaded file (`PUT /v1/dataset-files/NAME`)."""


class ImportBody(BaseModel):
    """A log to import. The first file is the log itself, the others belong to it: the samples files of lm-eval, the
    rows of Every Eval Ever."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"files": [{"name": "2026-11-24_toy-qa.eval", "file_path": "toy-qa.eval"}], "model": "mini"},
                {
                    "files": [
                        {"name": "results_2026-11-24T17-21-26.565075.json", "file_path": "results.json"},
                        {"name": "samples_gsm8k_2026-11-24T17-21-26.565075.jsonl", "file_path": "samples.jsonl"},
                    ],
                    "format": "lm-eval",
                },
            ]
        },
    )

    files: Annotated[tuple[LogFileBody, ...], Field(min_length=1, max_length=1000)]
    format: Literal["auto", "lm-eval", "inspect", "every-eval-ever", "parquet", "jsonl"] = "auto"
    model: Reference | None = None
    """Instead of the log's own name: a registered model, or what a new one shall be called."""
    benchmark: Reference | None = None
    """Likewise. Under a registered benchmark with scorers of its own the completions are scored by these, too."""
    dataset: Reference | None = None
    """Likewise. Items must be those of a registered dataset."""
    force: bool = False
    """Import the rows of a log that contradicts its own aggregates."""


class ImportRead(BaseModel):
    """The runs of a log."""

    runs: list[RunRead]
    already_imported: bool
    """Whether the log had been imported before; then nothing was written."""
    notes: list[str]
    """What of the log was left out, and why."""

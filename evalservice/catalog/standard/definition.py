"""What a standard benchmark's YAML file says, and finding the files.

    name: gsm8k
    version: 1.0.0
    category: qa
    source: {repository: openai/gsm8k, revision: cc7b047b…, config: main, split: test, url: …, licence: MIT, …}
    test_cases: 1319
    layouts:
      - name: JSON Lines of the authors' repository
        files: [test.jsonl]
        fields: {question: text, answer: text}
        test_case: {input: question, expected_output: {after: "####", of: answer}}
    evaluation_criteria: {…, scorers: [numeric_match], primary_metric: numeric_match}

Another way to measure the same data is a file that names the first, and what is different: `variant_of: hellaswag`.

A file's reader is by default the one of its format (JSON, JSON Lines, CSV, Parquet; see `readers` for the others). The
first layout that a file fits is how it is read. `fields` are what a record must have, by which layouts are told apart.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import Field, model_validator

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.criteria_parts import StrictModel
from evalservice.catalog.definitions import Category, validated, yaml_mapping
from evalservice.catalog.standard.expressions import compile_expression
from evalservice.errors import NotFound

FIELD_TYPES: Final = ("text", "integer", "boolean", "list", "object", "null")
CASE_PARTS: Final = ("input", "expected_output", "id", "choices", "cluster")
HUB: Final = "https://huggingface.co/datasets"
Reader = Literal["records", "table", "squad", "drop", "drop-records", "parallel-text"]


class Source(StrictModel):
    """Where a data set comes from. `revision` is a commit where one is known, else a tag or branch."""

    repository: str
    host: Literal["huggingface", "github"] = "huggingface"
    revision: str
    config: str | None = None
    split: str
    url: str
    licence: str
    citation: str

    @property
    def address(self) -> str:
        """The page to fetch the data from."""
        if self.host == "github":
            return self.url
        return f"{HUB}/{self.repository}/tree/{quote(self.revision, safe='')}"


class Layout(StrictModel):
    """How a data set's files lie and what their records are.

    files: patterns, of which the first that fits counts; several files are read in the order of their names.
    columns: of a table without a header. example: what a worked example answers, an expression like the others.
    """

    name: str
    reader: Reader = "records"
    files: tuple[str, ...] = Field(min_length=1)
    few_shot_files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    fields: dict[str, str] = Field(min_length=1)
    test_case: dict[str, Any]
    example: Any = None

    @model_validator(mode="after")
    def _compiles(self) -> Layout:
        for name, types in self.fields.items():
            if unknown := set(types.split(" or ")) - set(FIELD_TYPES):
                raise ValueError(f"fields.{name}: {unknown.pop()} is none of {', '.join(FIELD_TYPES)}")
        if unknown := self.test_case.keys() - {*CASE_PARTS, "metadata"}:
            raise ValueError(f"test_case: {unknown.pop()} is none of {', '.join(CASE_PARTS)}, metadata")
        for part in CASE_PARTS:
            if part in self.test_case:
                compile_expression(self.test_case[part], part)
        for name, written in self.test_case.get("metadata", {}).items():
            compile_expression(written, f"metadata.{name}")
        return self


class FewShotPlan(StrictModel):
    """Worked examples out of a split of the data set: the first `count`, or the first `count` of each group."""

    count: int = Field(ge=1, le=100)
    split: str
    by: str | None = None
    style: Literal["turns", "inline"] = "turns"


class StandardBenchmark(StrictModel):
    """A standard benchmark as this package ships it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,80}$")
    variant_of: str | None = None
    title: str
    description: str
    version: str = Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    category: Category
    source: Source
    test_cases: tuple[int, ...]
    """How many there are, in the releases that are around."""
    layouts: tuple[Layout, ...] = Field(min_length=1)
    few_shot: FewShotPlan | None = None
    choice_order: Literal["given", "hashed"] = "given"
    """hashed: in the order of a hash of question and choice, where the data set always has the answer first."""
    evaluation_criteria: EvaluationCriteria
    methodology: str
    reported: str
    """What others report under this name, how they measure it, and how this differs."""
    tags: tuple[str, ...] = ()

    @property
    def primary_metric(self) -> str:
        """The metric that a leaderboard of it goes by."""
        return str(self.evaluation_criteria.primary_metric)

    def patterns(self) -> str:
        """What files may be called, for errors."""
        return "; ".join(f"{layout.name}: {layout.files[0]} with {', '.join(layout.fields)}" for layout in self.layouts)


@cache
def standard_benchmarks() -> dict[str, StandardBenchmark]:
    """Every definition of the package by its name, in the order of names."""
    written = {
        file.name.removesuffix(".yaml"): yaml_mapping(file.read_bytes(), file.name, "name and evaluation_criteria")
        for file in files(__package__).iterdir()
        if file.name.endswith(".yaml")
    }
    found = {}
    for name, (value, node) in sorted(written.items()):
        first, _ = written.get(str(value.get("variant_of")), ({}, None))
        found[name] = validated(StandardBenchmark, {**first, **value}, node, f"{name}.yaml")
    return found


def standard_benchmark(name: str) -> StandardBenchmark:
    """A definition by its name. Raises `NotFound` that says which there are."""
    found = standard_benchmarks().get(name)
    if found is None:
        raise NotFound("benchmark", name, f"the catalog has {', '.join(standard_benchmarks())}")
    return found

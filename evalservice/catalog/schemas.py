"""What the catalog takes: new models, datasets and benchmarks, validated field by field."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from evalservice.catalog.criteria import EvaluationCriteria, invalid_input
from evalservice.catalog.criteria_parts import abridged
from evalservice.catalog.mapping import FieldMapping
from evalservice.catalog.model_config import ModelConfig
from evalservice.errors import InvalidInput
from evalservice.records import TestCase
from evalservice.tables import BenchmarkSuite, EvaluationDataset, Model, ModelCapability
from evalservice.web.fields import Dollars, JsonObject, Line, ModelId, Name, Reference, Tag, Text, Version, columns

M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], values: Mapping[str, Any]) -> M:
    """Validate; the first problem becomes InvalidInput that names the field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = invalid_input(error, kind)
        first = error.errors()[0]
        if first["type"] == "string_pattern_mismatch":
            pattern = str(first["ctx"]["pattern"])
            excluding = pattern.startswith("^[^")
            accepted = (
                "printable characters, in a name or version without @" if excluding else f"it must match {pattern}"
            )
            problem = InvalidInput(problem.field, problem.value, accepted)
        raise problem from None


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


InputPrice = Annotated[Dollars | None, Field(validation_alias=AliasChoices("input_price", "input_price_per_million"))]
OutputPrice = Annotated[
    Dollars | None, Field(validation_alias=AliasChoices("output_price", "output_price_per_million"))
]


class NewModel(_Input):
    """A model to register. Prices in US dollars per million tokens; `parent` names another model.

    What a model is read with (`platform_model_id`, `input_price_per_million`) it may be written with too.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "mini",
                    "platform": "openai",
                    "model_id": "gpt-4o-mini",
                    "base_url": "http://localhost:11434/v1",
                    "input_price": "0.15",
                    "output_price": "0.60",
                    "config": {"temperature": 0, "max_tokens": 256},
                }
            ]
        }
    )

    name: Name
    platform: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    model_id: Annotated[ModelId, Field(validation_alias=AliasChoices("model_id", "platform_model_id"))]
    display_name: Line = ""
    description: Text = ""
    version: Version = "1.0.0"
    parent: Reference | None = None
    base_url: Annotated[str, StringConstraints(max_length=2000)] = ""
    api_key: SecretStr | None = None
    """Stored encrypted for the origin of `base_url`; or name a stored one with `credential_id`."""
    credential_id: uuid.UUID | None = None
    capabilities: tuple[str, ...] = ()
    input_price: InputPrice = None
    output_price: OutputPrice = None
    config: ModelConfig = ModelConfig()
    tags: tuple[Tag, ...] = ()


class ModelChanges(_Input):
    """What may change about a model. What a result depends on may not: register another version."""

    display_name: Line | None = None
    description: Text | None = None
    status: Literal["active", "deprecated", "experimental", "archived"] | None = None
    tags: tuple[Tag, ...] | None = None
    metadata: JsonObject | None = None
    credential_id: uuid.UUID | None = None
    input_price: InputPrice = None
    output_price: OutputPrice = None


class ModelRead(BaseModel):
    """A model. Keys are never shown: `has_credential` says whether there is one."""

    id: uuid.UUID
    name: str
    display_name: str
    description: str
    platform: str
    platform_model_id: str
    version: str
    is_latest: bool
    parent: uuid.UUID | None
    status: str
    deprecated_at: datetime | None
    base_url: str
    has_credential: bool
    credential_id: uuid.UUID | None
    input_price_per_million: Decimal | None
    output_price_per_million: Decimal | None
    capabilities: list[str]
    default_config: dict[str, Any]
    supported_configs: list[Any]
    tags: list[Any]
    metadata: dict[str, Any]
    total_evaluations: int
    avg_accuracy: float | None
    avg_latency_ms: float | None
    avg_cost_per_1k_tokens: float | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Model) -> Self:
        """From the table."""
        return cls(
            **columns(row, cls, "parent", "has_credential", "capabilities", "metadata"),
            parent=row.parent_model_id,
            has_credential=row.credential_id is not None,
            capabilities=row.capability_names,
            metadata=row.metadata_,
        )


class CapabilityRead(BaseModel):
    """A capability that models may declare."""

    id: uuid.UUID
    name: str
    display_name: str
    description: str
    category: str

    @classmethod
    def of(cls, row: ModelCapability) -> Self:
        """From the table."""
        return cls(**columns(row, cls))


class NewDataset(_Input):
    """A dataset to register, without its records."""

    name: Name
    description: Text = ""
    tags: tuple[Tag, ...] = ()
    mapping: FieldMapping = FieldMapping()
    input_schema: JsonObject = {}
    output_schema: JsonObject = {}


class DatasetBody(NewDataset):
    """A dataset to register: its `test_cases`, or the `file_path` of a file that was uploaded before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "sums", "test_cases": [{"input": "What is 17 + 25?", "expected_output": "42"}]},
                {"name": "gsm8k", "file_path": "test.jsonl", "mapping": {"input": "question", "expected": "answer"}},
            ]
        }
    )

    test_cases: list[Any] | None = None
    file_path: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """The name of an uploaded file (`PUT /v1/dataset-files/NAME`)."""
    file_format: Literal["json", "jsonl", "csv", "parquet"] | None = None
    """By the name's suffix when it is not given."""
    source: Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")] = ""
    """Where the file came from, for the record."""


class DatasetChanges(_Input):
    """What may change about a dataset. Its records may not: register another one."""

    description: Text | None = None
    tags: tuple[Tag, ...] | None = None


class DatasetRead(BaseModel):
    """A dataset without its records."""

    id: uuid.UUID
    name: str
    description: str
    file_path: str
    file_format: str
    total_test_cases: int
    has_ground_truth: bool
    content_hash: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    tags: list[Any]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    @classmethod
    def of(cls, row: EvaluationDataset) -> Self:
        """From the table."""
        return cls(**columns(row, cls, "metadata"), metadata=row.metadata_)


class TestCaseRead(BaseModel):
    """One record of a dataset's snapshot."""

    index: int
    id: str
    input: Any
    expected_output: Any
    choices: list[str] | None
    cluster: str | None
    metadata: dict[str, Any]

    @classmethod
    def of(cls, case: TestCase) -> Self:
        """From a snapshot."""
        return cls(
            index=case.index,
            id=case.id,
            input=case.input,
            expected_output=case.expected_output,
            choices=None if case.choices is None else list(case.choices),
            cluster=case.cluster,
            metadata=dict(case.metadata),
        )


class UploadRead(BaseModel):
    """An uploaded file: register it within a day."""

    name: str
    bytes: int


class NewBenchmark(_Input):
    """A benchmark to register; `dataset` is the name or id of a registered dataset."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "gsm8k",
                    "dataset": "gsm8k",
                    "category": "qa",
                    "evaluation_criteria": {"scorers": ["numeric_match"], "sampling": {"temperature": 0}},
                }
            ]
        }
    )

    name: Name
    dataset: Reference
    category: Annotated[str, StringConstraints(max_length=50)]
    criteria: EvaluationCriteria = Field(validation_alias=AliasChoices("evaluation_criteria", "criteria"))
    description: Text = ""
    version: Version = "1.0.0"
    scoring_methodology: Text = ""
    metadata: JsonObject = {}
    tags: tuple[Tag, ...] = ()


class BenchmarkChanges(_Input):
    """What may change about a benchmark. How it measures may not: register another version."""

    description: Text | None = None
    scoring_methodology: Text | None = None
    metadata: JsonObject | None = None
    tags: tuple[Tag, ...] | None = None


class BenchmarkRead(BaseModel):
    """A benchmark: a dataset, a prompt, scorers."""

    id: uuid.UUID
    name: str
    description: str
    version: str
    category: str
    is_standard: bool
    is_public: bool
    dataset: str
    dataset_id: uuid.UUID
    evaluation_criteria: dict[str, Any]
    scoring_methodology: str
    tags: list[Any]
    metadata: dict[str, Any]
    total_evaluations: int
    last_used_at: datetime | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    @classmethod
    def of(cls, row: BenchmarkSuite) -> Self:
        """From the table."""
        return cls(
            **columns(row, cls, "is_public", "dataset", "metadata"),
            is_public=row.is_standard and row.organization_id is None,
            dataset=row.dataset.name,
            metadata=row.metadata_,
        )

    @classmethod
    def in_list(cls, row: BenchmarkSuite) -> Self:
        """As lists show it, without its groups of examples."""
        found = cls.of(row)
        return found.model_copy(update={"evaluation_criteria": abridged(found.evaluation_criteria)})

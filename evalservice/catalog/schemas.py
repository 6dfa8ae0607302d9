"""What the catalog takes: new models, datasets and benchmarks, validated field by field."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from evalservice.catalog.criteria import EvaluationCriteria, invalid_input
from evalservice.catalog.mapping import FieldMapping
from evalservice.catalog.model_config import ModelConfig
from evalservice.errors import InvalidInput

_PLAIN = r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""The beginning of a character class without control and direction characters, which would garble a terminal."""


def _no_uuid(name: str) -> str:
    try:
        uuid.UUID(name)
    except ValueError:
        return name
    raise ValueError("a name that does not look like an id")


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=f"^{_PLAIN}@]+$"),
    AfterValidator(_no_uuid),
]
"""What people refer to by name, or by name@version: so neither has an @ in it, and a name is no UUID."""
ModelId = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=f"^{_PLAIN}]+$")
]
Text = Annotated[str, StringConstraints(max_length=20_000, pattern=r"^[^\x00]*$")]
Version = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=f"^{_PLAIN}@]+$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=f"^{_PLAIN}]+$")]
Dollars = Annotated[Decimal, Field(ge=0, lt=Decimal(10) ** 10, decimal_places=10, allow_inf_nan=False)]


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], values: Mapping[str, Any]) -> M:
    """Validate; the first problem becomes InvalidInput that names the field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = invalid_input(error, kind)
        if error.errors()[0]["type"] == "string_pattern_mismatch":
            problem = InvalidInput(problem.field, problem.value, "printable characters, in a name or version without @")
        raise problem from None


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class NewModel(_Input):
    """A model to register. Prices in US dollars per million tokens; `parent` names another model."""

    name: Name
    platform: Annotated[str, StringConstraints(min_length=1, max_length=50)]
    model_id: ModelId
    display_name: Annotated[str, StringConstraints(max_length=200)] = ""
    description: Text = ""
    version: Version = "1.0.0"
    parent: str | None = None
    base_url: str = ""
    api_key: SecretStr | None = None
    capabilities: tuple[str, ...] = ()
    input_price: Dollars | None = None
    output_price: Dollars | None = None
    config: ModelConfig = ModelConfig()
    tags: tuple[Tag, ...] = ()


class NewDataset(_Input):
    """A dataset to register, without its records."""

    name: Name
    description: Text = ""
    tags: tuple[Tag, ...] = ()
    mapping: FieldMapping = FieldMapping()
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}


class NewBenchmark(_Input):
    """A benchmark to register; `dataset` is the name or id of a registered dataset."""

    name: Name
    dataset: str
    category: str
    criteria: EvaluationCriteria
    description: Text = ""
    version: Version = "1.0.0"
    scoring_methodology: Text = ""
    metadata: dict[str, Any] = {}
    tags: tuple[Tag, ...] = ()

"""A benchmark as a YAML file, for `evalservice benchmarks add FILE.yaml`.

    name: arithmetic
    dataset: sums
    category: qa
    evaluation_criteria:
      prompt_template: "{{ input }}"
      scorers: [exact_match]

Of YAML, the part that says the same everywhere: no tags, no merge keys, no repeated keys, dates stay text; aliases are
few and what they expand to is bounded. Errors name the file, the line and the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.criteria_parts import StrictModel, field_path, invalid_input
from evalservice.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 100_000
MAX_ALIASES: Final = 100

Category = Literal[
    "text-generation", "code-generation", "qa", "summarization", "classification", "translation", "custom"
]


class BenchmarkDefinition(StrictModel):
    """A benchmark before it has an owner."""

    name: str = Field(min_length=1, max_length=200)
    dataset: str = Field(min_length=1, max_length=200)
    category: Category
    description: str = ""
    version: str = Field(default="1.0.0", min_length=1, max_length=50)
    scoring_methodology: str = ""
    tags: tuple[str, ...] = Field(default=(), max_length=100)
    metadata: dict[str, Any] = Field(default_factory=dict)
    criteria: EvaluationCriteria = Field(
        alias="evaluation_criteria", validation_alias=AliasChoices("evaluation_criteria", "criteria")
    )


def load_benchmark_yaml(path: str | Path) -> BenchmarkDefinition:
    """The benchmark that a file defines. Raises `InvalidInput` that names file, line and field."""
    path = Path(path)
    try:
        if not path.is_file():
            raise InvalidInput("file", str(path), "a YAML file" if path.exists() else "a file that exists")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput("file", str(path), f"a readable file ({reason})") from None
    if len(text) > MAX_BYTES:
        raise InvalidInput("file", str(path), f"at most {MAX_BYTES >> 20} MiB of YAML")
    return parse_benchmark_yaml(text, str(path))


def parse_benchmark_yaml(text: bytes | str, source: str) -> BenchmarkDefinition:
    """The benchmark that a YAML text defines; `source` names the text in errors."""
    value, node = yaml_mapping(text, source, "name, dataset, category and evaluation_criteria")
    return validated(BenchmarkDefinition, value, node, source)


def yaml_mapping(text: bytes | str, source: str, keys: str) -> tuple[dict[str, Any], yaml.Node]:
    """A YAML text as a mapping, and where its parts stand. Raises `InvalidInput` that names source and line."""
    wanted = f"a YAML mapping with {keys}"
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise InvalidInput("file", source, wanted)
        if sum(1 for _ in _expanded(node)) > MAX_NODES:
            raise InvalidInput("file", source, f"YAML whose aliases expand to at most {MAX_NODES:,} values")
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise InvalidInput("file", source + where, f"YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "file", source, f"YAML in UTF-8 ({(str(error).splitlines() or ['unreadable'])[0]})"
        ) from None
    except RecursionError:
        raise InvalidInput("file", source, "YAML that is nested less deeply") from None
    except (ValueError, OverflowError) as error:
        raise InvalidInput("file", source, f"YAML with plain values ({(str(error).splitlines() or [''])[0]})") from None
    if not isinstance(value, dict):
        raise InvalidInput("file", source, wanted)
    if isinstance(value.get("version"), int | float):
        value["version"] = _find(node, ("version",)).value
    return value, node


def validated(kind: type[M], value: dict[str, Any], node: yaml.Node, source: str) -> M:
    """A model of what a YAML text says. Raises `InvalidInput` that names source, line and field."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        line = _find(node, field_path(error.errors()[0]["loc"])).start_mark.line + 1
        found = invalid_input(error, kind)
        raise InvalidInput(f"{source}, line {line}: {found.field}", found.value, found.accepted) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML with the surprises taken out."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0] not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_ALIASES} aliases", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key.start_mark)
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} comes twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _expanded(node: yaml.Node) -> Iterator[yaml.Node]:
    """The nodes of a document, counted as often as aliases repeat them; one more than allowed at most."""
    waiting, count = [node], 0
    while waiting and count <= MAX_NODES:
        current = waiting.pop()
        count += 1
        yield current
        if isinstance(current, yaml.SequenceNode):
            waiting.extend(current.value)
        elif isinstance(current, yaml.MappingNode):
            waiting.extend(part for pair in current.value for part in pair)


def _find(node: yaml.Node, path: tuple[int | str, ...]) -> yaml.Node:
    """The node at a path, or the last one on the way to it."""
    for step in path:
        if isinstance(node, yaml.MappingNode):
            following = next((value for key, value in node.value if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            following = node.value[step]
        else:
            following = None
        if following is None:
            return node
        node = following
    return node

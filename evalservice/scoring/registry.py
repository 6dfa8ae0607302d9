"""From a benchmark's list of scorers to scorers, ours by name and other packages' by entry point.

    ["exact_match", {"name": "numeric_match", "params": {"rel_tol": 0.01}, "as": "loose"}]

"as" names the scorer within the run and prefixes its metrics (`loose_numeric_match`), so that one scorer can be used
with several parameters. Another package adds scorers in its `pyproject.toml`:

    [project.entry-points."evalservice.scorers"]
    sentiment = "my_package.scorers:Sentiment"

They are loaded when a benchmark names them, never before, and cannot take a built-in name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from evalservice.errors import InvalidInput
from evalservice.scoring.base import AnyScorer, Scorer, ScorerParameters
from evalservice.scoring.invalid import invalid_parameters

GROUP = "evalservice.scorers"

BUILTIN: Mapping[str, str] = {
    "exact_match": "evalservice.scoring.exact:ExactMatch",
    "includes": "evalservice.scoring.exact:Includes",
    "regex_match": "evalservice.scoring.patterns:RegexMatch",
    "numeric_match": "evalservice.scoring.numeric:NumericMatch",
    "multiple_choice": "evalservice.scoring.choices:MultipleChoice",
    "token_f1": "evalservice.scoring.tokens:TokenF1",
    "drop_f1": "evalservice.scoring.drop:DropF1",
    "math_match": "evalservice.scoring.mathematics:MathMatch",
    "bleu": "evalservice.scoring.corpus:Bleu",
    "chrf": "evalservice.scoring.corpus:Chrf",
    "ter": "evalservice.scoring.corpus:Ter",
    "rouge": "evalservice.scoring.rouge:Rouge",
    "json_schema": "evalservice.scoring.structured:JsonSchema",
}
"""Name -> where the class is; imported when named (sacrebleu and rouge-score take a second to import)."""
_OWN: Mapping[str, str] = {**BUILTIN, "imported": "evalservice.scoring.imported:Imported"}
"""With what no benchmark of a user's names."""

_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def scorer_names() -> list[str]:
    """Every name that a benchmark can give, built-in first; plug-ins are not loaded for it."""
    return [*BUILTIN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILTIN))]


def scorer_class(name: str, field: str = "scorer") -> type[AnyScorer]:
    """The class behind a name. Raises `InvalidInput` for an unknown name or a plug-in that does not load."""
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        built_in: type[AnyScorer] = getattr(import_module(module), attribute)
        return built_in
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise InvalidInput(field, name, f"one of: {', '.join(scorer_names())}")
    if len({point.value for point in points}) > 1:
        raise InvalidInput(field, name, f"it is claimed by several plug-ins: {', '.join(map(_origin, points))}")
    return _plugin(points[0], field)


def build_scorers(specifications: Sequence[Any], field: str = "scorers") -> tuple[AnyScorer, ...]:
    """The scorers of a benchmark's criteria, in order. Raises `InvalidInput`: field, value and what is accepted."""
    if isinstance(specifications, str | Mapping) or not isinstance(specifications, Sequence) or not specifications:
        raise InvalidInput(field, specifications, "a list of at least one scorer, each a name or {name, params, as}")
    scorers: list[AnyScorer] = []
    taken: dict[str, str] = {}
    for position, specification in enumerate(specifications):
        where = f"{field}[{position}]"
        scorer = _build(specification, where)
        for name in {scorer.key, *(metric.name for metric in scorer.metrics)}:
            if name in taken:
                raise InvalidInput(where, name, f'a name that {taken[name]} does not have: give it an "as"')
            taken[name] = where
        scorers.append(scorer)
    return tuple(scorers)


def _build(specification: Any, where: str) -> AnyScorer:
    if isinstance(specification, str):
        specification = {"name": specification}
    if not isinstance(specification, Mapping) or not isinstance(specification.get("name"), str):
        raise InvalidInput(where, specification, "a scorer's name or {name, params, as}")
    if unknown := specification.keys() - {"name", "params", "as"}:
        raise InvalidInput(f"{where}.{min(unknown)}", specification[min(unknown)], "the keys are name, params and as")
    alias = specification.get("as")
    if alias is not None and not (isinstance(alias, str) and _ALIAS.fullmatch(alias)):
        raise InvalidInput(f"{where}.as", alias, "a letter, then letters, digits, _ or -")
    params = specification.get("params")
    if params is not None and not isinstance(params, Mapping):
        raise InvalidInput(f"{where}.params", params, "an object")
    kind = scorer_class(specification["name"], f"{where}.name")
    try:
        parameters = kind.Parameters.model_validate(dict(params or {}))
    except ValidationError as error:
        raise invalid_parameters(f"{where}.params", kind.Parameters, error) from None
    try:
        return kind(parameters, alias)
    except InvalidInput as error:
        raise InvalidInput(f"{where}.params.{error.field}", error.value, error.accepted) from None
    except Exception as error:
        if specification["name"] in _OWN:
            raise
        accepted = f"a plug-in that can be built: {type(error).__name__}: {error}"
        raise InvalidInput(f"{where}.name", specification["name"], accepted) from error


def _plugin(point: EntryPoint, field: str) -> type[AnyScorer]:
    try:
        kind: Any = point.load()
    except Exception as error:
        accepted = f"the plug-in {_origin(point)} does not load: {type(error).__name__}: {error}"
        raise InvalidInput(field, point.name, accepted) from error
    whole = isinstance(kind, type) and issubclass(kind, Scorer)
    parameters = getattr(kind, "Parameters", None)
    if not whole or not isinstance(parameters, type) or not issubclass(parameters, ScorerParameters):
        accepted = f"the plug-in {_origin(point)} is no subclass of Scorer with Parameters of ScorerParameters"
        raise InvalidInput(field, point.name, accepted)
    found: type[AnyScorer] = kind
    if (own := getattr(found, "name", None)) != point.name:
        raise InvalidInput(field, point.name, f"the plug-in {_origin(point)} calls itself {own!r}")
    return found


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"{point.value} of {package}"

"""A benchmark's `evaluation_criteria`: how its test cases are asked, and how answers are scored.

{"prompt_template": "{{ input }}\\nAnswer with a number.", "system_prompt": "You are careful.",
 "few_shot": [{"input": "1 + 1", "output": "2"}],
 "output_extraction": [{"regex": "-?\\\\d+"}],
 "scorers": ["exact_match", {"name": "numeric_match", "params": {"rel_tol": 0.01}, "as": "loose"}],
 "primary_metric": "loose_numeric_match", "epochs": 1, "sampling": {"temperature": 0, "max_tokens": 64}, "seed": 7}
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from pydantic import BeforeValidator, Field, ValidationError

from evalservice.catalog.criteria_parts import (
    Example,
    FewShot,
    Sampling,
    ScorerSpec,
    StrictModel,
    few_shot_from,
    invalid_input,
    one_or_more,
    scorer_from,
)
from evalservice.catalog.sandbox import MAX_TEMPLATE_CHARS
from evalservice.errors import InvalidInput
from evalservice.records import JSON

if TYPE_CHECKING:
    from evalservice.scoring.likelihood import Likelihood

__all__ = [
    "EvaluationCriteria",
    "Example",
    "FewShot",
    "Sampling",
    "ScorerSpec",
    "invalid_input",
    "parse_criteria",
]

TEMPLATE_REVISION: Final = "1"
"""Raised when the same criteria would render other prompts than before."""

DEFAULT_TEMPLATE: Final = "{{ input }}"
DEFAULT_CHOICE_TEMPLATE: Final = """\
{{ input }}

{% for choice in choices %}
{{ letters[loop.index0] }}. {{ choice }}
{% endfor %}

Answer with the letter of the correct choice only."""

TemplateText = Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE_CHARS)]


class EvaluationCriteria(StrictModel):
    """How the test cases of a benchmark are asked and scored.

    output_extraction and scorers are checked by whoever builds them; here they have their shape.
    seed: of every completion, plus its number among the epochs; nothing where a platform has no seeds (Anthropic).
    """

    prompt_template: TemplateText | None = None
    system_prompt: TemplateText | None = None
    few_shot: Annotated[FewShot, BeforeValidator(few_shot_from)] = FewShot()
    output_extraction: Annotated[tuple[dict[str, Any], ...], BeforeValidator(one_or_more)] = ()
    scorers: Annotated[
        tuple[Annotated[ScorerSpec, BeforeValidator(scorer_from)], ...],
        BeforeValidator(one_or_more),
        Field(min_length=1, max_length=50),
    ]
    primary_metric: str | None = Field(default=None, min_length=1, max_length=200)
    epochs: int = Field(default=1, ge=1, le=100)
    sampling: Sampling = Sampling()
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    def as_json(self) -> dict[str, JSON]:
        """The criteria as they are stored: JSON values, every field spelt out, `sampling` only what was set."""
        return {**self.model_dump(mode="json", by_alias=True), "sampling": self.sampling.set_values()}

    def canonical_json(self) -> bytes:
        """The same bytes for the same criteria, for a run's configuration hash."""
        return orjson.dumps(self.as_json(), option=orjson.OPT_SORT_KEYS)

    @property
    def likelihood(self) -> Likelihood | None:
        """How choices are asked for by likelihood, None where answers are. Raises InvalidInput for both at once."""
        if not any(_by_likelihood(spec) for spec in self.scorers):
            return None
        from evalservice.scoring.choices import MultipleChoice

        ways = {MultipleChoice.Parameters(**spec.params).likelihood for spec in self.scorers if _by_likelihood(spec)}
        if len(ways) > 1 or not all(_by_likelihood(spec) for spec in self.scorers):
            names = [spec.name for spec in self.scorers]
            accepted = "scorers that all take the likelihood of the same continuations: a benchmark asks in one way"
            raise InvalidInput("scorers", names, accepted)
        if self.epochs > 1:
            raise InvalidInput("epochs", self.epochs, "1: a likelihood is the same every time")
        if self.output_extraction:
            raise InvalidInput("output_extraction", self.output_extraction[0], "none: a likelihood is not read")
        return ways.pop()

    @property
    def default_choice_template(self) -> str:
        """The prompt of a test case with choices where the benchmark has none of its own."""
        way = self.likelihood
        return DEFAULT_TEMPLATE if way is not None and way.continuation == "choice" else DEFAULT_CHOICE_TEMPLATE

    def template_hash(self) -> str:
        """The SHA-256 of all that makes the prompts: templates, examples, and the revision of the rendering."""
        way = self.likelihood
        parts = {
            "revision": TEMPLATE_REVISION,
            "prompt_template": self.prompt_template or [DEFAULT_TEMPLATE, self.default_choice_template],
            "system_prompt": self.system_prompt,
            "few_shot": self.few_shot.model_dump(mode="json"),
            **({"likelihood": asdict(way)} if way else {}),
        }
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _by_likelihood(spec: ScorerSpec) -> bool:
    return spec.name == "multiple_choice" and spec.params.get("mode") == "likelihood"


def parse_criteria(value: object, where: str = "evaluation_criteria") -> EvaluationCriteria:
    """Criteria from JSON. Raises `InvalidInput` that names the field, its value and what is accepted."""
    try:
        criteria = EvaluationCriteria.model_validate(value)
        criteria.canonical_json()
    except ValidationError as error:
        raise invalid_input(error, EvaluationCriteria, where) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(where, "…", f"JSON values only ({(str(error).splitlines() or ['too deep'])[0]})") from None
    return criteria

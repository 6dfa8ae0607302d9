"""From a test case to the chat messages that a model is asked with.

    PromptRenderer(criteria).render(TestCase(0, "What is 17 + 25?"))
    -> ({"role": "system", "content": "You are careful."}, {"role": "user", "content": "What is 17 + 25?"})

Variables of a template: `input`, `choices`, `letters` (A, B, ... for the choices), `metadata`, `id`, `index`; then the
keys of an input that is an object, then the keys of the metadata. The expected output is not among them. An input
with `messages` is passed on as it is, after the system prompt and the examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalservice.catalog.content import SYSTEM_ROLES, MessagesError, check_messages
from evalservice.catalog.criteria import DEFAULT_TEMPLATE, EvaluationCriteria, Example
from evalservice.catalog.mapping import letter
from evalservice.catalog.sandbox import PromptError, Template, compile_template
from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON, TestCase

__all__ = ["PromptError", "PromptRenderer", "template_variables"]

Message = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class _Shots:
    """Worked examples, ready: as turns, or as the text before the question."""

    turns: tuple[Message, ...] = ()
    inline: str = ""


class PromptRenderer:
    """A benchmark's prompts, compiled once. Made anew where it is unpickled."""

    def __init__(self, criteria: EvaluationCriteria) -> None:
        self.criteria = criteria
        given = criteria.prompt_template
        self._plain = compile_template(given or DEFAULT_TEMPLATE, "prompt_template")
        self._choices = self._plain if given else compile_template(criteria.default_choice_template, "prompt_template")
        system = criteria.system_prompt
        self._system = compile_template(system, "system_prompt") if system else None
        few_shot = criteria.few_shot
        self._shots = self._prepared(few_shot.examples, few_shot.style, "few_shot.examples")
        self._groups = {
            name: self._prepared(examples, few_shot.style, f"few_shot.groups.{name}")
            for name, examples in few_shot.groups.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return PromptRenderer, (self.criteria,)

    def render(self, case: TestCase) -> tuple[Message, ...]:
        """The messages for one test case. Raises `PromptError`, which is this item's error."""
        variables = template_variables(case)
        messages: list[Message] = []
        if self._system:
            messages.append({"role": "system", "content": self._system.render(variables)})
        shots = self._group_of(variables) if self._groups else self._shots
        messages += shots.turns
        if isinstance(case.input, Mapping) and "messages" in case.input:
            own = case.input["messages"]
            check_messages(own)
            return (*messages, *own)
        text = shots.inline + self._template(case).render(variables)
        return (*messages, {"role": "user", "content": text})

    def template_hash(self) -> str:
        """The hash of all that makes the prompts."""
        return self.criteria.template_hash()

    @property
    def has_system_prompt(self) -> bool:
        """Whether test cases are asked with a system prompt, the criteria's or a few-shot example's."""
        turns = [turn for shots in (self._shots, *self._groups.values()) for turn in shots.turns]
        return self._system is not None or any(turn.get("role") in SYSTEM_ROLES for turn in turns)

    def check_against(self, sample: TestCase) -> None:
        """Renders a real test case; raises `InvalidInput` that names the template and what fails in it."""
        try:
            [*_, asked] = self.render(sample)
            if isinstance(asked.get("content"), str) and not str(asked["content"]).strip():
                raise PromptError("prompt_template, it renders to nothing")
        except MessagesError:
            return  # the test case's own fault, which a run shows as its error
        except PromptError as error:
            field, _, problem = error.message.partition(", ")
            template = self.criteria.system_prompt if field == "system_prompt" else self.criteria.prompt_template
            accepted = f"a template that renders test case {sample.id or sample.index}: {problem or error.message}"
            raise InvalidInput(field, template or "the default template", accepted) from error

    def _template(self, case: TestCase) -> Template:
        return self._choices if case.choices else self._plain

    def _group_of(self, variables: Mapping[str, Any]) -> _Shots:
        by = self.criteria.few_shot.by
        found = self._groups.get(str(variables.get(by or "")))
        if found is None:
            raise PromptError(
                f"few_shot.by, {by} is {shown(variables.get(by or ''), 60)}: no examples are given for it"
            )
        return found

    def _prepared(self, examples: tuple[Example, ...], style: str, field: str) -> _Shots:
        turns: list[Message] = []
        inline = ""
        for number, example in enumerate(examples):
            case = TestCase(
                number, example.input, f"example-{number + 1}", choices=example.choices, metadata=example.metadata
            )
            try:
                prompt = self._example_messages(case)
            except PromptError as error:
                raise InvalidInput(f"{field}.{number}", example.input, error.message) from error
            if style == "turns":
                turns += [*prompt, {"role": "assistant", "content": example.output}]
            elif len(prompt) == 1 and isinstance(prompt[0].get("content"), str):
                inline += f"{prompt[0]['content']}\n{example.output}\n\n"
            else:
                raise InvalidInput(
                    f"{field}.{number}.input", example.input, 'one text; messages need the style "turns"'
                )
        return _Shots(tuple(turns), inline)

    def _example_messages(self, case: TestCase) -> list[Message]:
        if isinstance(case.input, Mapping) and "messages" in case.input:
            messages = case.input["messages"]
            if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
                raise PromptError("messages: a list of objects with role and content is expected")
            check_messages(messages)
            return list(messages)
        return [{"role": "user", "content": self._template(case).render(template_variables(case))}]


def template_variables(case: TestCase) -> dict[str, Any]:
    """What a template sees of a test case."""
    own: dict[str, Any] = {
        "input": case.input,
        "choices": case.choices,
        "letters": tuple(letter(position) for position in range(len(case.choices or ()))),
        "metadata": case.metadata,
        "id": case.id,
        "index": case.index,
    }
    for more in (case.input, case.metadata):
        if isinstance(more, Mapping):
            for name, value in more.items():
                own.setdefault(name, value)
    return own

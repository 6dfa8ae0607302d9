"""Multiple choice by likelihood: which choice the model finds likeliest after the prompt, without an answer to read.

    {"name": "multiple_choice", "params": {"mode": "likelihood", "continuation": "letter"}}

As lm-evaluation-harness 0.4 has it (`ConfigurableTask.process_results`, `TemplateLM._encode_pair`): a choice's value is
the sum of the log probabilities of its tokens given the prompt; `acc` takes the greatest, `acc_norm` the greatest after
division by the length of the choice's text in characters, delimiter excluded. The first of equals wins.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evalservice.errors import InvalidInput
from evalservice.records import JSON, ChatRequest

Continuation = Literal["choice", "letter"]
PromptForm = Literal["plain", "chat"]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How continuations are asked for: what stands after the prompt, and how the prompt is written."""

    continuation: Continuation = "choice"
    prompt: PromptForm = "plain"
    delimiter: str = " "
    letters: str = string.ascii_uppercase

    def request(self, messages: Sequence[Mapping[str, JSON]], choices: Sequence[str] | None) -> ChatRequest:
        """What is asked of an engine, e.g. continuations (" Paris", " Rome").

        Raises InvalidInput for choices that are missing or too many, and for contents that are no text.
        """
        if not choices:
            raise InvalidInput("choices", choices, "the texts to compare: this test case has none")
        if len(choices) > len(self.letters):
            raise InvalidInput("choices", choices, f"at most {len(self.letters)}: there are {len(choices)}")
        texts = self.letters[: len(choices)] if self.continuation == "letter" else choices
        asked: tuple[Mapping[str, JSON], ...] = tuple(messages)
        if self.prompt == "plain":
            asked = ({"role": "user", "content": plain_text(messages, self.delimiter)},)
        return ChatRequest(asked, continuations=tuple(self.delimiter + t for t in texts), prompt=self.prompt)


def likeliest(logprobs: Sequence[float]) -> int:
    """The position of the greatest, the first of equals: lm-evaluation-harness' `acc`."""
    return max(range(len(logprobs)), key=lambda position: (logprobs[position], -position))


def likeliest_by_length(logprobs: Sequence[float], texts: Sequence[str]) -> int:
    """The position of the greatest per character of its text: lm-evaluation-harness' `acc_norm`.

    A text of no characters counts as infinitely unlikely, as its division by 0 does there.
    """
    return likeliest([p / len(text) if text else -math.inf for p, text in zip(logprobs, texts, strict=True)])


def plain_text(messages: Sequence[Mapping[str, JSON]], delimiter: str = " ") -> str:
    """Messages as one text without a chat template: blank lines between them, answers after the delimiter.

    Raises InvalidInput for contents that are no text.

    [user "2 + 2 =", assistant "4", user "1 + 1 ="] -> "2 + 2 = 4\\n\\n1 + 1 ="
    """
    text = ""
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise InvalidInput("messages", content, "text: a plain prompt has no parts")
        if text:
            text += delimiter if message.get("role") == "assistant" else "\n\n"
        text += content
    return text

"""From a request to token ids: chat template or plain text, and prompts with continuations whose likelihood is asked.

A request that has none becomes a failed completion that says why, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.engines.common import failed, one_line, too_long
from evalservice.errors import InvalidInput, shown
from evalservice.records import JSON, ChatRequest, Completion
from evalservice.scoring.likelihood import likeliest


@dataclass(frozen=True, slots=True)
class Continued:
    """Token ids of a prompt with one continuation, which begins at `start`."""

    tokens: list[int]
    start: int

    @property
    def continuation(self) -> list[int]:
        return self.tokens[self.start :]


@dataclass(slots=True)
class Prompter:
    """A model's tokenizer, with the chat template that is used: the given one, else the tokenizer's own.

    context: tokens that prompt and answer may have together. model: its name in errors.
    """

    tokenizer: Any
    model: str
    context: int
    chat_template: str | None = None

    def prompt(self, request: ChatRequest) -> list[int] | Completion:
        """Token ids that leave room for an answer."""
        text = self._text(request)
        if isinstance(text, Completion):
            return text
        tokens = text if isinstance(text, list) else self._encoded(text, request)
        if not tokens:
            return failed(self.model, "bad_request", "the prompt is empty")
        return too_long(self.model, len(tokens), self.context) if len(tokens) >= self.context else tokens

    def continued(self, request: ChatRequest) -> list[Continued] | Completion:
        """The prompt with each of the request's continuations.

        As `TemplateLM._encode_pair` of lm-evaluation-harness 0.4: both are encoded together and split where the prompt
        alone ends, blanks at the prompt's end going to the continuation. A plain prompt has the special tokens that the
        tokenizer adds (BOS), a chat template's has those that it writes.
        """
        text = self._text(request)
        if isinstance(text, Completion):
            return text
        if isinstance(text, list):
            return failed(self.model, "bad_request", "this tokenizer renders no text that a continuation could follow")
        if not text.strip():
            return failed(self.model, "bad_request", "the prompt is empty")
        prompt = text.rstrip()
        before = self._encoded(prompt, request)
        rows = []
        for continuation in request.continuations:
            after = self._encoded(text + continuation, request)[len(before) :]
            if not after:
                problem = f"the continuation {shown(continuation)} has no token of its own after this prompt"
                return failed(self.model, "bad_request", problem)
            rows.append(Continued(before + after, len(before)))
        longest = max(len(row.tokens) for row in rows)
        return too_long(self.model, longest, self.context) if longest >= self.context else rows

    def _text(self, request: ChatRequest) -> str | list[int] | Completion:
        """The prompt as text; as token ids where a tokenizer renders nothing else."""
        try:
            plain = flattened(request.messages)
        except InvalidInput as error:
            return failed(self.model, "bad_request", error.message)
        if not self._templated(request):
            return "\n\n".join(str(message["content"]) for message in plain)
        given = {} if self.chat_template is None else {"chat_template": self.chat_template}
        try:
            text = self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, **given)
        except Exception as error:  # chat templates are the model's own code: whatever they raise is this item's
            return failed(self.model, "bad_request", f"the chat template refused the messages: {one_line(error)}")
        return list(text) if isinstance(text, list) else str(text)

    def _templated(self, request: ChatRequest) -> bool:
        own = getattr(self.tokenizer, "chat_template", None) is not None or hasattr(self.tokenizer, "mistral")
        return request.prompt == "chat" and (own or self.chat_template is not None)

    def _encoded(self, text: str, request: ChatRequest) -> list[int]:
        if self._templated(request):
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(text))


def flattened(messages: Sequence[Mapping[str, JSON]]) -> list[dict[str, JSON]]:
    """Messages with text content only, the OpenAI list form joined; InvalidInput for images, audio and files."""
    plain = []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
                raise InvalidInput(f"messages[{number}].content", content, "self-hosted engines take text parts only")
            content = "".join(str(part.get("text", "")) for part in content)
        plain.append({**message, "content": content if content is not None else ""})
    return plain


def likelihood_of(model: str, request: ChatRequest, rows: Sequence[Continued], logprobs: Sequence[float]) -> Completion:
    """The completion of a request with continuations: `logprobs` are those of its rows, in order."""
    best = likeliest(logprobs)
    return Completion(
        text=request.continuations[best].strip(),
        input_tokens=rows[0].start + sum(len(row.continuation) for row in rows),
        output_tokens=0,
        model=model,
        log_likelihoods=tuple(logprobs),
    )

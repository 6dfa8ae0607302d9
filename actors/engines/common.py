"""What the self-hosted engines share: sampling parameters, prompts, engine options and one-line errors.

Nothing here imports an engine, so that options can be checked where none is installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalservice.errors import EngineUnavailable, InvalidInput, shown
from evalservice.records import JSON, Completion, ErrorKind, ItemError

LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is sampled, by the OpenAI names. Temperature 0 is greedy.

    What a request leaves unset comes from the model's generation_config.json, and from these defaults where that says
    nothing. `max_tokens` None: as much as the context leaves.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


ALIASES = {"max_completion_tokens": "max_tokens", "max_new_tokens": "max_tokens"}
RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 100.0, "a number from 0 (greedy) to 100"),
    "top_p": (1e-9, 1.0, "a number above 0, at most 1"),
    "min_p": (0.0, 1.0, "a number from 0 to 1"),
    "presence_penalty": (-2.0, 2.0, "a number from -2 to 2"),
    "frequency_penalty": (-2.0, 2.0, "a number from -2 to 2"),
    "repetition_penalty": (1e-9, 100.0, "a number above 0"),
}
INTEGERS: dict[str, tuple[int, str]] = {
    "top_k": (-1, "an integer, 0 or -1 for no limit"),
    "max_tokens": (1, "an integer, at least 1"),
    "min_tokens": (0, "an integer, at least 0"),
    "seed": (0, "an integer from 0 to 2^63 - 1"),
}
STOP_ACCEPTED = "a non-empty string or up to 64 of them"


def sampling_from(given: Mapping[str, JSON], defaults: Sampling | None = None) -> Sampling:
    """Effective sampling parameters, or InvalidInput naming the one that a self-hosted engine cannot honour."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = ALIASES.get(key, key)
        if value is None or (name == "n" and value == 1):
            continue
        values[name] = _checked(name, value)
    return replace(defaults or Sampling(), **values)


def model_defaults(generation_config: Mapping[str, JSON]) -> Sampling:
    """Defaults that a model's generation_config.json sets, as vLLM reads it: do_sample says nothing."""
    wanted = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "max_new_tokens"}
    return sampling_from({k: v for k, v in generation_config.items() if k in wanted})


def _checked(name: str, value: JSON) -> Any:
    field = f"sampling.{name}"
    if name in RANGES:
        low, high, accepted = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InvalidInput(field, value, accepted)
        return float(value)
    if name in INTEGERS:
        least, accepted = INTEGERS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise InvalidInput(field, value, accepted)
        return max(value, 0)
    if name == "stop":
        stops = (value,) if isinstance(value, str) else value
        if not isinstance(stops, list | tuple) or len(stops) > 64 or not all(isinstance(s, str) and s for s in stops):
            raise InvalidInput(field, value, STOP_ACCEPTED)
        return tuple(stops)
    known = [*RANGES, *INTEGERS, "stop"]
    raise InvalidInput(field, value, f"self-hosted engines take {', '.join(known)}")


def check_keys(engine: Mapping[str, Any], accepted: Collection[str], denied: Collection[str] = ()) -> None:
    """Refuse an engine option that does not exist or that a model's configuration may not set."""
    for name, value in engine.items():
        if name in denied:
            raise InvalidInput(f"engine.{name}", value, "this option is the operator's and cannot be set per model")
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"accepted are {', '.join(sorted(accepted)[:20])}"
            raise InvalidInput(f"engine.{name}", value, f"the engine has no such option; {hint}")


def check_model_path(model: str) -> None:
    """Say at once that a folder does not exist, instead of asking a hub for it."""
    path = Path(model).expanduser()
    if model.startswith(("/", "./", "../", "~")) and not (path / "config.json").is_file():
        problem = "has no config.json" if path.is_dir() else "is not a folder"
        raise EngineUnavailable(f"model {shown(model)} {problem}: give a Hugging Face checkpoint's folder or hub name")


def not_loaded(engine: str, model: str, error: BaseException) -> EngineUnavailable | InvalidInput:
    """A failure to start as one line: about the option that is wrong if one is, else naming the model."""
    for problem in error.errors() if hasattr(error, "errors") else ():
        if problem["loc"]:
            return InvalidInput(f"engine.{problem['loc'][0]}", problem["input"], problem["msg"])
        error = ValueError(problem["msg"].removeprefix("Value error, "))
    hint = "; the device is too small for this model and context" if is_out_of_memory(error) else ""
    return EngineUnavailable(f"{engine} cannot load model {shown(model)}: {one_line(error)}{hint}")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def one_line(error: BaseException) -> str:
    """The error's type and the first line that says something, bounded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines)}" if lines else type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


def failed(model: str, kind: ErrorKind, message: str, *, retryable: bool = False) -> Completion:
    return Completion(model=model, error=ItemError(kind, message, retryable))


def too_long(model: str, tokens: int, context: int) -> Completion:
    message = f"the prompt has {tokens} tokens; the model's context of {context} leaves no room for an answer"
    return replace(failed(model, "context_length", message), input_tokens=tokens)


def engine_failed(model: str, error: BaseException) -> Completion:
    """Out of memory may pass; any other failure of one prompt alone will come again."""
    return failed(model, "engine_error", one_line(error), retryable=is_out_of_memory(error))


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


def prompt_tokens(tokenizer: Any, messages: Sequence[Mapping[str, JSON]]) -> list[int]:
    """The prompt's token ids: by the model's chat template; a model without one continues the contents' plain text."""
    plain = flattened(messages)
    if getattr(tokenizer, "chat_template", None) is None and not hasattr(tokenizer, "mistral"):
        return list(tokenizer.encode("\n\n".join(str(message["content"]) for message in plain)))
    rendered = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    return list(rendered if isinstance(rendered, list) else tokenizer.encode(rendered, add_special_tokens=False))


def rendered(
    tokenizer: Any, model: str, messages: Sequence[Mapping[str, JSON]], context: int
) -> list[int] | Completion:
    """Token ids that fit the context, or the failed completion that says why there are none."""
    try:
        tokens = prompt_tokens(tokenizer, messages)
    except InvalidInput as error:
        return failed(model, "bad_request", error.message)
    except Exception as error:  # chat templates are the model's own code: whatever they raise is this item's
        return failed(model, "bad_request", f"the model's chat template refused the messages: {one_line(error)}")
    if not tokens:
        return failed(model, "bad_request", "the prompt is empty")
    return too_long(model, len(tokens), context) if len(tokens) >= context else tokens

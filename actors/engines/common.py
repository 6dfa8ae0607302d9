"""What the self-hosted engines share: sampling parameters, engine options and one-line errors.

Nothing here imports an engine, so that options can be checked where none is installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, TemplateSyntaxError

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


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an option takes: in words, and as a check of a JSON value."""

    text: str
    check: Callable[[Any], bool]


def integer(least: int) -> Accepts:
    """Integers from `least`."""
    return Accepts(
        f"an integer, at least {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def number(above: float, most: float) -> Accepts:
    """Numbers above one bound, up to the other."""
    return Accepts(
        f"a number above {above:g}, at most {most:g}",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and above < value <= most,
    )


def text(most: int = 1_000) -> Accepts:
    """A text that says something."""
    return Accepts("a non-empty text", lambda value: isinstance(value, str) and 0 < len(value) <= most)


def one_of(*values: Any) -> Accepts:
    """One of some values; 1 is not true."""
    shown_values = ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return Accepts(
        f"one of {shown_values}", lambda value: any(value == each and type(value) is type(each) for each in values)
    )


MAX_TEMPLATE_CHARS = 64_000
LORA = Accepts("the folder of a LoRA adapter", text().check)
CHAT_TEMPLATE = Accepts(
    f"a Jinja template of at most {MAX_TEMPLATE_CHARS:,} characters", text(MAX_TEMPLATE_CHARS).check
)


def check_values(engine: Mapping[str, Any], known: Mapping[str, Accepts]) -> None:
    """Refuse a value that its option does not take; null is as if it were not there. Raises InvalidInput."""
    for name, value in engine.items():
        if value is not None and name in known and not known[name].check(value):
            raise InvalidInput(f"engine.{name}", value, known[name].text)
    if known is not None and "chat_template" in known and engine.get("chat_template"):
        check_template(engine["chat_template"])


def check_template(template: str) -> None:
    """Refuse a chat template that is no Jinja."""
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        if "unknown tag 'generation'" in str(error).lower():  # transformers' own tag
            return
        raise InvalidInput("engine.chat_template", template, f"Jinja: line {error.lineno}: {error.message}") from None


def not_loaded(engine: str, model: str, error: BaseException) -> EngineUnavailable | InvalidInput:
    """A failure to start as one line: about the option that is wrong if one is, else naming the model.

    What is too large for the device names the options that make it smaller.
    """
    for problem in error.errors() if hasattr(error, "errors") else ():
        if problem["loc"]:
            return InvalidInput(f"engine.{problem['loc'][0]}", problem["input"], problem["msg"])
        error = ValueError(problem["msg"].removeprefix("Value error, "))
    hint = TOO_SMALL if is_out_of_memory(error) or any(words in str(error) for words in NO_ROOM) else ""
    return EngineUnavailable(f"{engine} cannot load model {shown(model)}: {one_line(error)}{hint}")


TOO_SMALL = (
    "; the device is too small for this model and context: lower engine.max_model_len, "
    "engine.kv_cache_memory_bytes (VLLM_CPU_KVCACHE_SPACE on a CPU) or engine.gpu_memory_utilization"
)
NO_ROOM = ("less than requested memory", "No available memory", "available KV cache memory", "less than desired GPU")
"""How vLLM says that something does not fit, when it does not say "out of memory"."""


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

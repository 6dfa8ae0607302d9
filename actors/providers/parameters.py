"""Which sampling parameters a platform takes: what it does not know is refused by name, never left out in silence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from evalservice.errors import InvalidInput
from evalservice.records import JSON


def check_known(platform: str, sampling: Mapping[str, JSON], accepted: Collection[str]) -> None:
    """Raises InvalidInput that names a parameter that the platform does not have, and those that it has."""
    for name, value in sampling.items():
        if name not in accepted:
            raise InvalidInput(
                f"config.{name}", value, f"platform {platform!r} has no such parameter; it takes {', '.join(accepted)}"
            )


def check_range(platform: str, sampling: Mapping[str, JSON], name: str, low: float, high: float) -> None:
    """Raises InvalidInput when a number is not what the platform takes. Both ends are taken."""
    value = sampling.get(name)
    if value is not None and not low <= value <= high:
        limit = f"{low:g} to {high:g}" if high < float("inf") else f"{low:g} or more"
        raise InvalidInput(f"config.{name}", value, f"platform {platform!r} takes {limit}")


def check_extra_body(sampling: Mapping[str, JSON], fixed: Collection[str]) -> None:
    """Raises InvalidInput for further keys of a request that decide who is asked what, and how many answers are paid.

    fixed: dotted paths of such keys. A key in snake_case is the same one as in camelCase.
    """
    for path in fixed:
        for value in _values_at(sampling.get("extra_body"), path.split(".")):
            raise InvalidInput(
                f"config.extra_body.{path}", value, "this key is set for each request and cannot be given"
            )


def _values_at(value: JSON, steps: Sequence[str]) -> Iterator[JSON]:
    if not steps:
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if camel(key) == camel(steps[0]):
                yield from _values_at(inner, steps[1:])


def check_logprobs(sampling: Mapping[str, JSON]) -> None:
    """Raises InvalidInput for alternatives of tokens whose own log probabilities are not asked for."""
    if sampling.get("top_logprobs") and not sampling.get("logprobs"):
        raise InvalidInput("config.top_logprobs", sampling["top_logprobs"], "it needs logprobs: true")


def answer_limit(sampling: Mapping[str, JSON]) -> int | None:
    """The most tokens that an answer may have, under either of the OpenAI names. Raises InvalidInput for both."""
    names = [name for name in ("max_completion_tokens", "max_tokens") if sampling.get(name) is not None]
    if len(names) > 1:
        raise InvalidInput("config.max_tokens", sampling["max_tokens"], "either max_tokens or max_completion_tokens")
    return int(sampling[names[0]]) if names else None


def merged(body: Mapping[str, JSON], extra: Mapping[str, JSON]) -> dict[str, JSON]:
    """`body` with the keys of `extra`; where both have an object under a key, the objects are merged."""
    result = dict(body)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def camel(key: str) -> str:
    """`generation_config` as `generationConfig`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), key)

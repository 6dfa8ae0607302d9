"""A selection's request and its tries: what every router shares, without anything that talks."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import httpx
import orjson

from evalservice.client.choice import Choice, choice_of
from evalservice.client.http import document_of
from evalservice.errors import EvalserviceError, InvalidInput, Unavailable

PATH = "/v1/selections"
TIMEOUT = 2.0
TRIES = 4
PAUSES = (0.0, 0.05, 0.2)
"""Seconds before a further try: at once over a new connection, then for a replica that starts."""

Local = Literal["never", "fallback", "always"]


class SelectionOptions(TypedDict, total=False):
    """What may be asked; all of it is optional.

    required_capabilities: what the model must declare. constraints: hard limits by name, e.g. `{"max_cost": 0.002,
    "min_quality": {"category": "qa", "value": 0.7}}`. policy: a stored policy (NAME or NAME@VERSION) or an algorithm.
    weights, parameters: the algorithm's. text: the request's, for policies that read it; stored with `store_text` only.
    seed: of the draw, for a decision that can be repeated. durable: answered once the decision is stored.
    """

    required_capabilities: Sequence[str]
    constraints: Mapping[str, Any]
    use_case: str
    policy: str
    weights: Mapping[str, float]
    parameters: Mapping[str, Any]
    text: str
    store_text: bool
    seed: int
    durable: bool


_KNOWN = frozenset(SelectionOptions.__annotations__)


def body_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request; what is None is left to its default. Raises TypeError, as for any unknown argument."""
    for name in options:
        if name not in _KNOWN:
            raise TypeError(
                f"select() got an unexpected keyword argument {name!r}: there are {', '.join(sorted(_KNOWN))}"
            )
    return {name: value for name, value in options.items() if value is not None}


def encoded(body: Mapping[str, Any]) -> bytes:
    """As it is sent. Raises InvalidInput."""
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError as error:
        raise InvalidInput("selection", dict(body), f"values that JSON has ({error})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} is none")


def headers_of(body: Mapping[str, Any]) -> dict[str, str]:
    """A durable decision that is asked for twice is made once; else a second one is logged, which nothing follows."""
    own = {"Content-Type": "application/json"}
    return {**own, "Idempotency-Key": uuid.uuid4().hex} if body.get("durable") else own


def choice_in(answer: httpx.Response) -> Choice:
    """Raises what the service answered instead."""
    return choice_of(document_of(answer))


class Tries:
    """How often, and how long in all, one selection is tried.

    A connection that breaks or a gateway that reaches nobody is tried again, over a new connection: whatever the
    service had decided by then is only a row in its log that no outcome follows.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._until = clock, clock() + seconds
        self.count = 0

    def timeout(self) -> httpx.Timeout:
        """Of the next try; connecting may take half of what is left, so that another address can be tried."""
        left = max(self._until - self._clock(), 0.001)
        return httpx.Timeout(left, connect=left / 2)

    def pause(self, failure: EvalserviceError, jitter: Callable[[], float] = random.random) -> float:
        """Seconds to wait before trying again. Raises the failure where that is pointless."""
        self.count += 1
        if not isinstance(failure, Unavailable) or self.count >= TRIES:
            raise failure
        pause = PAUSES[self.count - 1] * (0.5 + jitter())
        if self._clock() + pause >= self._until:
            raise failure
        return pause


def _own(value: Any) -> Any:
    """A number of numpy's, or whatever else has `item`, as Python's own."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def outcome_of(parts: Mapping[str, Any]) -> bytes:
    """An outcome's body; what is None is left out. Raises InvalidInput: it is sent later, when nobody could hear."""
    given = {name: _own(value) for name, value in parts.items() if value is not None}
    if not given:
        raise InvalidInput("outcome", {}, "at least one part, e.g. success=True")
    for name in ("latency_ms", "cost", "input_tokens", "output_tokens"):
        if name in given and not 0 <= given[name] < float("inf"):
            raise InvalidInput(name, given[name], "a number of at least 0")
    if given.get("cost", 0) >= 10**10:
        raise InvalidInput("cost", given["cost"], "US dollars below 10,000,000,000")
    moment = given.get("occurred_at")
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput("occurred_at", str(moment), "a time with its zone, e.g. datetime.now(UTC)")
    if "quality" in given and not 0 <= given["quality"] <= 1:
        raise InvalidInput("quality", given["quality"], "a number from 0 to 1")
    if "error_kind" in given:
        given["error_kind"] = str(given["error_kind"])[:30]
    if "cost" in given:
        given["cost"] = f"{given['cost']:.10f}"
    return orjson.dumps(given)

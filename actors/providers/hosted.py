"""Ask a hosted provider over HTTP: bounded concurrency, time limits, retries with full jitter, exact cost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import orjson
from pydantic import SecretStr
from pyreqwest.exceptions import RequestError, RequestTimeoutError
from pyreqwest.response import Response

from actors.gate import Gate, Need
from actors.limiter import Limits, Membership
from actors.providers.connection import Connection, could_not_connect, reason
from actors.providers.estimate import Estimate, worst_cost
from actors.providers.lanes import Lanes
from actors.providers.retry import Backoff, is_worth_retrying, retry_after_seconds
from actors.providers.wire import WireFormat
from actors.purse import UNIT_DIGITS
from evalservice.errors import InvalidInput
from evalservice.pricing import Price
from evalservice.records import ChatRequest, Completion, ItemError

MAX_ANSWER_BYTES = 64 * 2**20
DEFAULT_TIMEOUT = 120.0
LEARN_SECONDS = 1.0
BILLED_PERHAPS = frozenset({"malformed_response", "empty_response", "content_filter"})
"""What is no use to us, but was generated."""

N = TypeVar("N", int, Decimal)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a hosted model is and how it is asked. Times in seconds; `concurrency` requests in flight at most."""

    base_url: str
    model_id: str
    api_key: SecretStr | None = None
    price: Price | None = None
    concurrency: int = 64
    timeout: float = DEFAULT_TIMEOUT
    stop_grace: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)
    private_addresses: bool = True


@dataclass(slots=True)
class _Attempt:
    """lost: it was sent, and nothing tells what it used."""

    completion: Completion
    retry_after: float | None = None
    again: bool = False
    lost: bool = False


class HostedBackend:
    """The backend of every hosted provider; the provider itself is its `WireFormat`.

    gate: what requests have to pass before they are sent; by default only the endpoint's concurrency. go: nothing is
    sent while it is not set; whoever sets `stop` sets it, too.
    """

    def __init__(
        self,
        wire: WireFormat,
        endpoint: Endpoint,
        seed: int | None = None,
        gate: Gate | None = None,
        go: asyncio.Event | None = None,
    ) -> None:
        self._wire, self._endpoint = wire, endpoint
        self._url = wire.url(endpoint.base_url, endpoint.model_id)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "evalservice",
            **wire.headers(endpoint.api_key.get_secret_value() if endpoint.api_key else None),
        }
        self._connection = Connection(self._url, headers, endpoint.timeout, private=endpoint.private_addresses)
        self._lanes = Lanes(endpoint.concurrency, self._with_retries, endpoint.stop_grace)
        self._rng = random.Random(seed)
        self._gate = gate or Gate(Membership(self._url, endpoint.model_id, "", endpoint.concurrency))
        self._estimate = Estimate()
        self._learn_at = 0.0
        self._go = go or asyncio.Event()
        if go is None:
            self._go.set()

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """See `Backend.complete`. After `stop`, requests under way have `stop_grace` seconds to be answered."""
        answers = await self._lanes.answers(requests, stop)
        await self._gate.rest()
        return answers

    async def aclose(self) -> None:
        await self._gate.aclose()
        await self._connection.aclose()

    async def _with_retries(self, request: ChatRequest, stop: asyncio.Event) -> Completion | None:
        try:
            body = orjson.dumps(self._wire.body(self._endpoint.model_id, request))
        except InvalidInput as error:
            return Completion(error=ItemError("bad_request", error.message, retryable=False))
        except (TypeError, ValueError) as error:
            return Completion(error=ItemError("bad_request", f"the request is not JSON: {error}", retryable=False))
        backoff = self._endpoint.backoff
        before = Completion()
        for attempt in range(1, backoff.attempts + 1):
            if not self._go.is_set():
                await self._go.wait()
            if stop.is_set():
                return None
            outcome = await self._admitted(request, body, stop)
            if outcome is None:
                return None
            too_long = (outcome.retry_after or 0.0) > backoff.longest_retry_after
            if not outcome.again or attempt == backoff.attempts or too_long:
                if attempt == 1:
                    return outcome.completion
                return replace(_spent(before, outcome.completion), attempts=attempt)
            before = _spent(before, outcome.completion)
            delay = backoff.delay(attempt, outcome.retry_after, self._rng)
            if await _stopped_within(stop, delay):
                return None
        raise AssertionError("unreachable")

    async def _admitted(self, request: ChatRequest, body: bytes, stop: asyncio.Event) -> _Attempt | None:
        """One attempt, as soon as the gate lets it through; None when `stop` was set before."""
        need = Need(
            self._estimate.tokens(body, request.sampling),
            worst_cost(self._endpoint.price, body, request) if self._gate.budgeted and self._endpoint.price else 0,
        )
        if not await self._gate.enter(need, stop):
            return None
        used, refused, answered = need, False, False
        try:
            outcome = await self._attempt(body)
            completion = outcome.completion
            refused = completion.error is not None and completion.error.kind == "rate_limited"
            answered = completion.error is None
            used = self._used(need, outcome)
            if answered:
                self._estimate.learn(body, completion.input_tokens, completion.output_tokens)
            if refused and outcome.retry_after and outcome.retry_after <= self._endpoint.backoff.longest_retry_after:
                self._gate.hold(outcome.retry_after)
            return outcome
        finally:  # one that was cut off, too, may have been answered and paid for
            self._gate.leave(need, used, refused=refused, answered=answered)

    def _used(self, need: Need, outcome: _Attempt) -> Need:
        """What an attempt took of the limits and of the budget; all that it needed where nothing tells."""
        completion = outcome.completion
        if outcome.lost:
            return need
        inputs, outputs = completion.input_tokens, completion.output_tokens
        if inputs is None or outputs is None:
            return Need(0, 0) if completion.error is not None and inputs is outputs else need
        money = need.money if completion.cost is None else int(completion.cost.scaleb(UNIT_DIGITS))
        return Need(inputs + outputs, money)

    def _learn(self, headers: Mapping[str, str], now: float) -> None:
        """What an answer's headers say of limits per minute, looked at once a second."""
        if now >= self._learn_at:
            self._learn_at = now + LEARN_SECONDS
            found = self._wire.limits(headers)
            self._gate.learn(
                Limits(
                    _per_minute(found.requests_limit, found.requests_reset),
                    _per_minute(found.tokens_limit, found.tokens_reset),
                )
            )

    async def _attempt(self, body: bytes) -> _Attempt:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            client = await self._connection.client()
        except OSError as error:
            return _failed("connection", str(error))
        except ValueError as error:
            return _failed("bad_request", f"base_url: {error}", again=False)
        try:
            async with client.post(self._url).body_bytes(body).build_streamed() as answer:
                data = await _bounded_body(answer)
                status, headers, content_type = answer.status, answer.headers, answer.get_header("Content-Type")
        except RequestError as error:
            if could_not_connect(error):
                self._connection.refused(client)
                return _failed("connection", reason(error))
            if isinstance(error, RequestTimeoutError):
                return _failed("timeout", f"no answer within {self._endpoint.timeout:g} s", lost=True)
            return _failed("connection", reason(error), lost=True)
        except _AnswerTooLargeError:
            return _failed(
                "malformed_response", f"the answer is larger than {MAX_ANSWER_BYTES} bytes", again=False, lost=True
            )
        ended = loop.time()
        latency_ms = (ended - started) * 1000.0
        self._learn(headers, ended)
        if status != 200:
            problem = self._wire.error(status, _parsed(data), headers)
            again = is_worth_retrying(status) and problem.kind in ("rate_limited", "server_error")
            return _Attempt(
                Completion(error=problem, latency_ms=latency_ms, executed_at=datetime.now(UTC)),
                retry_after_seconds(headers, datetime.now(UTC)) if problem.retry_after is None else problem.retry_after,
                again,
            )
        return self._answered(data, content_type or "no content type", latency_ms)

    def _answered(self, data: bytes, content_type: str, latency_ms: float) -> _Attempt:
        if "json" not in content_type:
            return _failed("malformed_response", f"expected application/json, got {content_type}", lost=True)
        try:
            payload = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return _failed("malformed_response", f"the answer is not JSON: {error}", lost=True)
        completion = self._wire.completion(payload)
        price = self._endpoint.price
        used = completion.input_tokens, completion.output_tokens, completion.cache_write_tokens
        cost = price.cost(*used) if price else None
        completion = replace(completion, latency_ms=latency_ms, cost=cost, executed_at=datetime.now(UTC))
        problem = completion.error
        unknown = completion.input_tokens is None and completion.output_tokens is None
        return _Attempt(
            completion,
            again=problem is not None and problem.retryable,
            lost=problem is not None and problem.kind in BILLED_PERHAPS and unknown,
        )


class _AnswerTooLargeError(Exception):
    pass


def _per_minute(limit: int | None, reset: float | None) -> int | None:
    """A limit, unless it is of a window that takes longer than a minute to be whole again, as a daily one does."""
    return limit if limit and (reset is None or reset <= 60.0) else None


def _spent(before: Completion, after: Completion) -> Completion:
    """`after`, with the tokens and the cost of the attempts before it: an answer that was no use was billed too."""
    return replace(
        after,
        input_tokens=_sum(before.input_tokens, after.input_tokens),
        output_tokens=_sum(before.output_tokens, after.output_tokens),
        cost=_sum(before.cost, after.cost),
    )


def _sum(one: N | None, other: N | None) -> N | None:
    return one + other if one is not None and other is not None else one if other is None else other


async def _bounded_body(answer: Response) -> bytes:
    length = answer.get_header("Content-Length")  # not there when the answer is compressed: it is checked unpacked
    most = MAX_ANSWER_BYTES if length is None or not length.isdigit() else int(length)
    if most > MAX_ANSWER_BYTES:
        raise _AnswerTooLargeError
    body = await answer.body_reader.read(most + 1)
    if body is None:
        return b""
    if len(body) > most:
        raise _AnswerTooLargeError
    return bytes(body)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _failed(kind: Any, message: str, *, again: bool = True, lost: bool = False) -> _Attempt:
    error = ItemError(kind, message, retryable=again)
    return _Attempt(Completion(error=error, executed_at=datetime.now(UTC)), again=again, lost=lost)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep, but no longer than until `stop` is set; whether it was."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True

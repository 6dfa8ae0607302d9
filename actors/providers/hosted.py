"""Ask a hosted provider over HTTP: bounded concurrency, time limits, retries with full jitter, exact cost."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from aiohttp.abc import ResolveResult
from pydantic import SecretStr

from actors.providers.lanes import Lanes
from actors.providers.retry import Backoff, is_worth_retrying, retry_after_seconds
from actors.providers.wire import WireFormat
from evalservice.addresses import is_refused
from evalservice.pricing import Price
from evalservice.records import ChatRequest, Completion, ItemError

MAX_ANSWER_BYTES = 64 * 2**20
DEFAULT_TIMEOUT = 120.0

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
    completion: Completion
    retry_after: float | None = None
    again: bool = False


class HostedBackend:
    """The backend of every hosted provider; the provider itself is its `WireFormat`."""

    def __init__(self, wire: WireFormat, endpoint: Endpoint, seed: int | None = None) -> None:
        self._wire, self._endpoint = wire, endpoint
        self._url = wire.url(endpoint.base_url, endpoint.model_id)
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "evalservice",
            **wire.headers(endpoint.api_key.get_secret_value() if endpoint.api_key else None),
        }
        self._lanes = Lanes(endpoint.concurrency, self._with_retries, endpoint.stop_grace)
        self._rng = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, requests: Sequence[ChatRequest], stop: asyncio.Event) -> list[Completion | None]:
        """See `Backend.complete`. After `stop`, requests under way have `stop_grace` seconds to be answered."""
        return await self._lanes.answers(requests, stop)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _with_retries(self, request: ChatRequest, stop: asyncio.Event) -> Completion | None:
        try:
            body = orjson.dumps(self._wire.body(self._endpoint.model_id, request))
        except (TypeError, ValueError) as error:
            return Completion(error=ItemError("bad_request", f"the request is not JSON: {error}", retryable=False))
        backoff = self._endpoint.backoff
        before = Completion()
        for attempt in range(1, backoff.attempts + 1):
            if stop.is_set():
                return None
            outcome = await self._attempt(body)
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

    async def _attempt(self, body: bytes) -> _Attempt:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._connected().post(self._url, data=body, allow_redirects=False) as answer:
                data = await _bounded_body(answer)
                status, headers, content_type = answer.status, answer.headers, answer.content_type
        except TimeoutError:
            seconds = f"{self._endpoint.timeout:g}"
            return _failed("timeout", f"no answer within {seconds} s")
        except aiohttp.ClientError as error:
            return _failed("connection", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        except _AnswerTooLargeError:
            return _failed("malformed_response", f"the answer is larger than {MAX_ANSWER_BYTES} bytes", again=False)
        latency_ms = (loop.time() - started) * 1000.0
        if status != 200:
            problem = self._wire.error(status, _parsed(data), headers)
            again = is_worth_retrying(status) and problem.kind in ("rate_limited", "server_error")
            return _Attempt(
                Completion(error=problem, latency_ms=latency_ms, executed_at=datetime.now(UTC)),
                retry_after_seconds(headers, datetime.now(UTC)),
                again,
            )
        return self._answered(data, content_type, latency_ms)

    def _answered(self, data: bytes, content_type: str, latency_ms: float) -> _Attempt:
        if "json" not in content_type:
            return _failed("malformed_response", f"expected application/json, got {content_type}")
        try:
            payload = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return _failed("malformed_response", f"the answer is not JSON: {error}")
        completion = self._wire.completion(payload)
        price = self._endpoint.price
        cost = price.cost(completion.input_tokens, completion.output_tokens) if price else None
        completion = replace(completion, latency_ms=latency_ms, cost=cost, executed_at=datetime.now(UTC))
        return _Attempt(completion, again=completion.error is not None and completion.error.retryable)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._endpoint.concurrency,
                    ttl_dns_cache=300,
                    resolver=_GuardedResolver(private=self._endpoint.private_addresses),
                ),
                timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout, sock_connect=10.0),
                proxy=environment_proxy(self._url),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _GuardedResolver(aiohttp.ThreadedResolver):
    """Resolves names, but not to addresses that must not be reached (link-local, metadata services).

    private: loopback and private networks may be.
    """

    def __init__(self, *, private: bool) -> None:
        super().__init__()
        self._private = private

    async def resolve(self, *arguments: Any, **options: Any) -> list[ResolveResult]:
        entries = await super().resolve(*arguments, **options)
        found = [entry for entry in entries if not is_refused(entry["host"], private=self._private)]
        if not found:
            raise OSError(
                errno.EHOSTUNREACH, "it resolves only to addresses that are not reached (link-local, metadata, private)"
            )
        return found


def environment_proxy(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for a URL.

    Found once: a client that trusts the environment looks there, and for a .netrc file, at every request.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


class _AnswerTooLargeError(Exception):
    pass


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


async def _bounded_body(answer: aiohttp.ClientResponse) -> bytes:
    length = answer.content_length
    if length is not None:
        if length > MAX_ANSWER_BYTES:
            raise _AnswerTooLargeError
        if "Content-Encoding" not in answer.headers:
            return await answer.read()
    pieces: list[bytes] = []
    size = 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise _AnswerTooLargeError
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _failed(kind: Any, message: str, *, again: bool = True) -> _Attempt:
    error = ItemError(kind, message, retryable=again)
    return _Attempt(Completion(error=error, executed_at=datetime.now(UTC)), again=again)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep, but no longer than until `stop` is set; whether it was."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True

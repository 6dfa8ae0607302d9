"""A hosted backend against a real server that fails in every way that servers fail."""

from __future__ import annotations

import asyncio
import socket
import time
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from actors.providers.hosted import Endpoint, HostedBackend
from actors.providers.openai import OpenAIChat
from actors.providers.retry import Backoff
from evalservice.pricing import Price
from evalservice.records import ChatRequest, Completion
from tests.provider import TRANSIENT, RunningProvider

QUICK = Backoff(attempts=4, base=0.01, cap=0.05)


def asked(prompt: str) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": prompt},))


def backend(url: str, **values: Any) -> HostedBackend:
    return HostedBackend(OpenAIChat(), Endpoint(url, "m", **{"backoff": QUICK, "timeout": 5.0, **values}), seed=1)


def answers(url: str, *prompts: str, **values: Any) -> list[Completion]:
    """The completions of these prompts, asked at once."""

    async def ask() -> list[Completion | None]:
        asking = backend(url, **values)
        try:
            return await asking.complete([asked(prompt) for prompt in prompts], asyncio.Event())
        finally:
            await asking.aclose()

    completions = asyncio.run(ask())
    assert None not in completions
    return [completion for completion in completions if completion is not None]


def failure(completion: Completion) -> tuple[str, bool]:
    assert completion.error is not None, completion
    return completion.error.kind, completion.error.retryable


def test_answers_come_back_in_order_with_usage_latency_and_time(provider: RunningProvider) -> None:
    provider.control(latency=0.02, jitter=1.0)
    completions = answers(provider.url, *(f"What is {n} + 1?" for n in range(100)))
    assert [completion.text for completion in completions] == [f"{n} + 1 = {n + 1}" for n in range(100)]
    first = completions[0]
    assert (first.input_tokens, first.output_tokens, first.finish_reason, first.attempts) == (5, 5, "stop", 1)
    assert first.latency_ms is not None
    assert first.executed_at is not None


@pytest.mark.parametrize("fault", [*TRANSIENT, "rate_limited_date", "error_200", "request_timeout", "conflict"])
def test_what_passes_is_asked_again_until_it_has_passed(provider: RunningProvider, fault: str) -> None:
    prompt = f"What is 2 + 2? <<{fault}*2>>"
    [completion] = answers(provider.url, prompt)
    assert (completion.text, completion.error, completion.attempts) == ("2 + 2 = 4", None, 3)
    assert provider.sent("m") == {prompt: 3}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("rate_limited", "rate_limited"),
        ("html_500", "server_error"),
        ("json_503", "server_error"),
        ("too_early", "server_error"),
        ("error_200", "server_error"),
        ("reset", "connection"),
        ("truncated", "connection"),
        ("malformed_json", "malformed_response"),
        ("json_list", "malformed_response"),
        ("no_choices", "malformed_response"),
        ("wrong_content_type", "malformed_response"),
        ("empty_choices", "empty_response"),
        ("null_content", "empty_response"),
    ],
)
def test_what_does_not_pass_is_a_retryable_failure_after_every_attempt(
    provider: RunningProvider, fault: str, kind: str
) -> None:
    prompt = f"<<{fault}>>"
    [completion] = answers(provider.url, prompt)
    assert failure(completion) == (kind, True)
    assert completion.attempts == provider.sent("m")[prompt] == QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "kind", "retryable"),
    [
        ("unauthorized", "authentication", True),
        ("forbidden", "authentication", True),
        ("no_quota", "authentication", True),
        ("unknown_model", "not_found", True),
        ("context_length", "context_length", False),
        ("context_length_vllm", "context_length", False),
        ("unprocessable", "bad_request", False),
        ("content_filter", "content_filter", False),
        ("content_filter_400", "content_filter", False),
        ("tool_call", "empty_response", False),
        ("huge", "malformed_response", False),
        ("rate_limited_for_hours", "rate_limited", True),
    ],
)
def test_what_would_fail_again_is_asked_once(provider: RunningProvider, fault: str, kind: str, retryable: bool) -> None:
    prompt = f"<<{fault}>>"
    [completion] = answers(provider.url, prompt)
    assert failure(completion) == (kind, retryable)
    assert provider.sent("m") == {prompt: 1}


def test_answers_that_are_odd_are_answers(provider: RunningProvider) -> None:
    refused, cut, thought, parts, peculiar = answers(
        provider.url, "<<refusal>>", "<<length>>", "<<all_thinking>>", "<<content_parts>>", "<<peculiar_text>>"
    )
    assert (refused.refused, refused.text) == (True, "I can't help with that.")
    assert (cut.finish_reason, cut.text) == ("length", "The answer is 4")
    assert (thought.finish_reason, thought.text) == ("length", "")
    assert parts.text == "The answer is 4"
    assert peculiar.text.startswith("NUL \x00, emoji 🦆")


def test_a_stall_ends_at_the_time_limit_as_a_timeout(provider: RunningProvider) -> None:
    started = time.monotonic()
    [completion] = answers(provider.url, "<<stall>>", timeout=0.2, backoff=Backoff(attempts=2, base=0.01))
    assert failure(completion) == ("timeout", True)
    assert provider.sent("m") == {"<<stall>>": 2}
    assert time.monotonic() - started < 5.0


def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        [completion] = answers(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "Hello")
    assert failure(completion) == ("connection", True)


@pytest.mark.parametrize(("fault", "least"), [("rate_limited_seconds", 1.0), ("rate_limited_date", 1.0)])
def test_a_server_that_names_a_wait_is_left_alone_for_so_long(
    provider: RunningProvider, fault: str, least: float
) -> None:
    provider.control(retry_after=least)
    started = time.monotonic()
    [completion] = answers(provider.url, f"What is 1 + 1? <<{fault}*1>>")
    waited = time.monotonic() - started
    assert completion.attempts == 2
    assert least <= waited < least + 2.0


def test_a_storm_of_429_is_sat_out(provider: RunningProvider) -> None:
    provider.control(storm_seconds=0.5, retry_after=0.3)
    completions = answers(provider.url, *(f"What is {n} + 1?" for n in range(50)), concurrency=50)
    assert [completion.error for completion in completions] == [None] * 50
    assert all(2 <= completion.attempts <= 4 for completion in completions)


def test_no_more_requests_are_in_flight_than_allowed_and_no_fewer_than_possible(provider: RunningProvider) -> None:
    provider.control(latency=0.05, faults=0.2, kinds=["json_503", "rate_limited"])
    answers(provider.url, *(f"What is {n} + 1?" for n in range(200)), concurrency=16)
    assert provider.stats()["peak"] == 16


def test_after_stop_nothing_is_sent_and_what_is_under_way_is_answered(
    provider: RunningProvider, eventually: Any
) -> None:
    provider.control(latency=0.5)

    async def stopped() -> list[Completion | None]:
        asking, stop = backend(provider.url, concurrency=8), asyncio.Event()
        requests = [asked(f"What is {n} + 1?") for n in range(40)]
        answering = asyncio.ensure_future(asking.complete(requests, stop))
        await asyncio.to_thread(eventually, lambda: provider.stats()["in_flight"] == 8)
        stop.set()
        completions = await answering
        assert await asking.complete(requests[:1], stop) == [None]
        await asking.aclose()
        return completions

    completions = asyncio.run(stopped())
    assert [completion.text for completion in completions if completion] == [f"{n} + 1 = {n + 1}" for n in range(8)]
    assert provider.stats()["requests"] == 8


def test_a_stop_cuts_a_wait_short(provider: RunningProvider, eventually: Any) -> None:
    async def stopped() -> list[Completion | None]:
        asking, stop = backend(provider.url, backoff=Backoff(attempts=8)), asyncio.Event()
        answering = asyncio.ensure_future(asking.complete([asked("<<rate_limited_seconds>>")], stop))
        await asyncio.to_thread(eventually, lambda: provider.stats()["requests"] == 1)
        stop.set()
        completions = await asyncio.wait_for(answering, 2.0)
        await asking.aclose()
        return completions

    provider.control(retry_after=60.0)
    assert asyncio.run(stopped()) == [None]
    assert provider.stats()["requests"] == 1


def test_what_hangs_after_a_stop_is_given_up_when_the_grace_is_over(provider: RunningProvider, eventually: Any) -> None:
    async def stopped() -> list[Completion | None]:
        asking, stop = backend(provider.url, timeout=30.0, stop_grace=0.2), asyncio.Event()
        answering = asyncio.ensure_future(asking.complete([asked("<<stall>>"), asked("What is 1 + 1?")], stop))
        await asyncio.to_thread(eventually, lambda: provider.stats()["in_flight"] == 1)
        stop.set()
        completions = await asyncio.wait_for(answering, 5.0)
        await asking.aclose()
        return completions

    hanging, answered = asyncio.run(stopped())
    assert hanging is None
    assert answered is not None


def test_cost_is_exact_to_the_tenth_decimal(provider: RunningProvider) -> None:
    price = Price(Decimal("0.15"), Decimal("0.6000001"))
    [completion] = answers(provider.url, "What is 2 + 2?", price=price)
    assert (completion.input_tokens, completion.output_tokens) == (5, 5)
    assert completion.cost == Decimal("0.0000037500")


def test_without_usage_there_is_no_cost(provider: RunningProvider) -> None:
    [completion] = answers(provider.url, "<<without_usage>>", price=Price(Decimal(1), Decimal(1)))
    assert (completion.text, completion.cost) == ("4", None)


def test_a_key_never_reaches_a_failures_message(provider: RunningProvider) -> None:
    secret = "sk-very-secret"
    [completion] = answers(provider.url, "<<unauthorized>>", api_key=SecretStr(secret))
    assert secret not in repr(completion)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names, and the addresses that they shall resolve to."""
    names: dict[str, list[str]] = {}
    resolve = socket.getaddrinfo

    def answer(host: str, port: int, *rest: Any, **options: Any) -> list[Any]:
        addresses = names.get(host, [host])
        return [entry for address in addresses for entry in resolve(address, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return names


def test_a_name_that_resolves_to_a_metadata_address_is_not_connected_to(name_server: dict[str, list[str]]) -> None:
    name_server["innocent.example"] = ["169.254.169.254"]
    [completion] = answers("http://innocent.example/v1", "Hello", backoff=Backoff(attempts=1))
    assert completion.error is not None
    assert "not reached" in completion.error.message


@pytest.mark.parametrize(("host", "name"), [("bücher.example", "xn--bcher-kva.example"), ("loc%61lhost", "localhost")])
def test_a_name_is_resolved_and_refused_as_the_client_reads_it(
    provider: RunningProvider, name_server: dict[str, list[str]], host: str, name: str
) -> None:
    url = provider.url.replace("127.0.0.1", host)
    name_server[name] = ["127.0.0.1"]
    [reached] = answers(url, "What is 1 + 1?")
    [refused] = answers(url, "What is 1 + 1?", private_addresses=False, backoff=Backoff(attempts=1))
    assert reached.text == "1 + 1 = 2"
    assert refused.error is not None
    assert "not reached" in refused.error.message


def test_what_follows_a_backslash_is_no_part_of_the_host(name_server: dict[str, list[str]]) -> None:
    name_server["169.254.169.254\\.example.com"] = ["93.184.215.14"]
    [completion] = answers("http://169.254.169.254\\.example.com/v1", "Hello", backoff=Backoff(attempts=1))
    assert completion.error is not None
    assert "not reached" in completion.error.message


def test_what_is_no_url_is_the_failure_of_its_item() -> None:
    [completion] = answers("http://a b/v1", "Hello")
    assert failure(completion) == ("bad_request", False)


def test_a_name_that_does_not_resolve_is_looked_up_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    completions = answers("http://nowhere.example/v1", *("Hello",) * 20, backoff=Backoff(attempts=1))
    assert {failure(completion)[0] for completion in completions} == {"connection"}
    assert asked == ["nowhere.example"]


def test_a_name_with_a_dead_address_is_reached_at_its_next(
    provider: RunningProvider, name_server: dict[str, list[str]]
) -> None:
    name_server["twice.example"] = ["127.0.0.9", "127.0.0.1"]  # nobody listens at the first
    url = provider.url.replace("127.0.0.1", "twice.example")
    completions = answers(url, *(f"What is {n} + 1?" for n in range(5)), concurrency=1)
    assert [(completion.text, completion.attempts) for completion in completions] == [
        (f"{n} + 1 = {n + 1}", 1) for n in range(5)
    ]


def test_a_name_of_this_machine_is_not_connected_to_where_private_addresses_are_refused(
    provider: RunningProvider,
) -> None:
    url = provider.url.replace("127.0.0.1", "localhost")
    [reached] = answers(url, "What is 1 plus 1?", private_addresses=True)
    [refused] = answers(url, "What is 1 plus 1?", private_addresses=False, backoff=Backoff(attempts=1))
    assert reached.error is None
    assert refused.error is not None
    assert "not reached" in refused.error.message


def test_a_proxy_of_the_environment_is_asked_and_resolves_the_name(
    provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", provider.url.removesuffix("/v1"))
    [completion] = answers("http://only-the-proxy-knows.example/v1", "What is 1 + 1?")
    assert completion.text == "1 + 1 = 2"

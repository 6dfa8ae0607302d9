"""A provider that answers, and fails, on command: a real server speaking OpenAI's, Anthropic's and Google's formats.

    python tests/provider.py --answers recorded.jsonl --latency 0.02 --jitter 0.5 --faults 0.15 --seed 7

prints `{"url": "http://127.0.0.1:40123/v1"}` when it listens. Answers come from the recording (lines
`{"key": text of the prompt, "model": id, "text": completion}`); prompts that no recording knows are calculated
("What is 17 + 25?" -> "17 + 25 = 42", wrong for the share `--wrong` of the prompts, always the same ones) or echoed.

Faults (`FAULTS`) strike a share of the requests at random from the seed, or the prompt that asks for them: one with
`<<html_500>>` in it always fails so, one with `<<html_500*2>>` the first two times.

    POST /control {"latency": 0.3, "faults": 0.15, "kinds": ["reset"], "storm_seconds": 1}   any field of `Control`
    POST /reset                                              default control, counters at zero
    GET  /stats {"requests": 9, "in_flight": 0, "peak": 4, "prompts": {"MODEL": {"PROMPT": {"sent": 2, "answered": 1}}}}
    GET  /last  {"path": "/v1/messages", "headers": {"x-api-key": "k", …}, "body": {…}}      the last request
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from aiohttp import web

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.vendors import ANTHROPIC, GOOGLE, OPENAI, Format, openai_answer

TRANSIENT = (
    "rate_limited",
    "rate_limited_seconds",
    "html_500",
    "json_503",
    "reset",
    "truncated",
    "malformed_json",
    "empty_choices",
)
"""Faults that pass when the same request is sent again."""

UNBILLED = frozenset({"rate_limited", "rate_limited_seconds", "html_500", "json_503", "conflict", "too_early"})
"""Faults that strike before a completion is generated; after all others it is charged for."""

DIRECTIVE = re.compile(r"<<(\w+)(?:\*(\d+))?>>")
SUM = re.compile(r"(-?\d+) ([+*-]) (-?\d+)")


@dataclass(slots=True)
class Control:
    """What can be switched at run time.

    latency: seconds an answer takes, give or take the share `jitter` of it. faults: share of the requests that fail,
    each by one of `kinds`. retry_after: seconds that a 429 names. stall_seconds: how long a stalled answer takes.
    storm_seconds: for so long from now on every request is a 429. wrong: share of the sums that are answered wrongly.
    requests_per_minute: more than so many in any 60 seconds are answered 429; 0 is no limit. announced: whether good
    answers name that limit in their headers.
    """

    latency: float = 0.0
    jitter: float = 0.0
    faults: float = 0.0
    kinds: Sequence[str] = TRANSIENT
    retry_after: float = 0.2
    stall_seconds: float = 30.0
    storm_seconds: float = 0.0
    wrong: float = 0.0
    requests_per_minute: int = 0
    announced: bool = False
    seed: int = 1


@dataclass(slots=True)
class Count:
    """How often a prompt was sent here, and how often a whole completion went back."""

    sent: int = 0
    answered: int = 0


@dataclass(slots=True)
class Provider:
    """The server's state; one process, one event loop."""

    book: dict[str, dict[str, str]] = field(default_factory=dict)
    initial: Control = field(default_factory=Control)
    control: Control = field(default_factory=Control)
    rng: random.Random = field(default_factory=random.Random)
    storm_until: float = 0.0
    in_flight: int = 0
    peak: int = 0
    requests: int = 0
    refused: int = 0
    billed: Counter[str] = field(default_factory=Counter)
    accepted: deque[float] = field(default_factory=deque)
    prompts: dict[str, dict[str, Count]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    def apply(self, changes: dict[str, Any]) -> None:
        """Switch what is named, and begin the random sequence anew."""
        unknown = changes.keys() - {each.name for each in fields(Control)}
        unknown |= set(changes.get("kinds", ())) - FAULTS.keys()
        if unknown:
            raise web.HTTPBadRequest(text=f"unknown: {', '.join(sorted(unknown))}\n")
        for name, value in changes.items():
            setattr(self.control, name, value)
        self.rng.seed(self.control.seed)
        self.storm_until = time.monotonic() + self.control.storm_seconds

    def reset(self) -> None:
        """As at the start."""
        self.control = Control()
        self.apply({each.name: getattr(self.initial, each.name) for each in fields(Control)})
        self.peak, self.requests, self.prompts = self.in_flight, 0, {}
        self.refused, self.billed = 0, Counter()
        self.accepted.clear()

    def stats(self) -> dict[str, Any]:
        """What GET /stats shows."""
        prompts = {
            model: {prompt: {"sent": count.sent, "answered": count.answered} for prompt, count in counts.items()}
            for model, counts in self.prompts.items()
        }
        counts = {"requests": self.requests, "in_flight": self.in_flight, "peak": self.peak, "refused": self.refused}
        return {**counts, "billed": dict(self.billed), "prompts": prompts}

    def speaking(self, form: Format) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of a format's requests."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            try:
                return await self._answer(request, form)
            finally:
                self.in_flight -= 1

        return handle

    async def _answer(self, request: web.Request, form: Format) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.last = {"path": request.path_qs, "headers": headers, "body": body}
        model, prompt = form.read(request, body)
        call = Call(self, request, form, model, prompt)
        refused = form.refused(request, body)
        if refused is not None:
            return call.failure(400, refused)
        count = self.prompts.setdefault(model, {}).setdefault(prompt, Count())
        count.sent += 1
        if not self._within_limit():
            return await rate_limited_seconds(call)
        fault = self._fault(prompt, count.sent, form)
        if fault not in UNBILLED:
            self._bill(model, prompt)
        if self.control.latency:
            spread = self.control.latency * self.control.jitter
            await asyncio.sleep(self.control.latency + self.rng.uniform(-spread, spread))
        if fault in form.faults:
            status, answer = form.faults[fault](model, prompt)
            return web.json_response(answer, status=status)
        if fault is not None:
            return await FAULTS[fault](call)
        count.answered += 1
        return web.json_response(call.good(), headers=self._limits())

    def _within_limit(self) -> bool:
        now, most = time.monotonic(), self.control.requests_per_minute
        while self.accepted and self.accepted[0] <= now - 60.0:
            self.accepted.popleft()
        if most and len(self.accepted) >= most:
            self.refused += 1
            return False
        self.accepted.append(now)
        return True

    def _limits(self) -> dict[str, str]:
        most = self.control.requests_per_minute
        if not most or not self.control.announced:
            return {}
        left = str(most - len(self.accepted))
        return {"x-ratelimit-limit-requests": str(most), "x-ratelimit-remaining-requests": left}

    def _bill(self, model: str, prompt: str) -> None:
        self.billed["input_tokens"] += len(prompt.split())
        self.billed["output_tokens"] += len(self.text(model, prompt).split())

    def _fault(self, prompt: str, sent: int, form: Format) -> str | None:
        asked = DIRECTIVE.search(prompt)
        if asked and (asked[1] in FAULTS or asked[1] in form.faults) and (asked[2] is None or sent <= int(asked[2])):
            return asked[1]
        if time.monotonic() < self.storm_until:
            return "rate_limited_seconds"
        if self.rng.random() < self.control.faults:
            return self.rng.choice(list(self.control.kinds))
        return None

    def text(self, model: str, prompt: str) -> str:
        """The completion of a prompt: recorded, calculated, or the prompt itself."""
        recorded = self.book.get(model)
        if recorded is not None:
            if prompt.strip() in recorded:
                return recorded[prompt.strip()]
            return next((text for key, text in recorded.items() if key in prompt), prompt)
        found = SUM.search(prompt)
        if found is None:
            return prompt
        a, b = int(found[1]), int(found[3])
        result = {"+": a + b, "-": a - b, "*": a * b}[found[2]]
        share = int.from_bytes(hashlib.blake2b(found[0].encode(), digest_size=4).digest()) / 2**32
        return f"{found[0]} = {result + (share < self.control.wrong)}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a fault sees it."""

    provider: Provider
    request: web.Request
    form: Format
    model: str
    prompt: str

    def completion(self, text: str | None, **message: Any) -> dict[str, Any]:
        """An OpenAI answer. `finish_reason` is the choice's, other fields are the message's."""
        return openai_answer(self.model, self.prompt, text, **message)

    def good(self) -> dict[str, Any]:
        """The answer that this request deserves."""
        return self.form.good(self.model, self.prompt, self.provider.text(self.model, self.prompt))

    def failure(self, status: int, message: str, code: str | None = None, **headers: str) -> web.Response:
        """An error body as the vendor writes it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(self.form.failure(status, message, code), status=status, headers=named)


Fault = Callable[[Call], Awaitable[web.StreamResponse]]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """Register a fault under its function's name."""
    FAULTS[function.__name__] = function
    return function


@fault
async def rate_limited(call: Call) -> web.StreamResponse:
    return call.failure(429, "Rate limit reached", "rate_limit_exceeded")


@fault
async def rate_limited_seconds(call: Call) -> web.StreamResponse:
    return call.failure(429, "Rate limit reached", Retry_After=f"{call.provider.control.retry_after:g}")


@fault
async def rate_limited_date(call: Call) -> web.StreamResponse:
    # An HTTP date has whole seconds: the wait is what is asked for or up to a second more.
    moment = datetime.now(UTC) + timedelta(seconds=call.provider.control.retry_after + 1)
    return call.failure(
        429, "Rate limit reached", Retry_After=format_datetime(moment.replace(microsecond=0), usegmt=True)
    )


@fault
async def rate_limited_for_hours(call: Call) -> web.StreamResponse:
    return call.failure(429, "Rate limit reached", Retry_After="7200")


@fault
async def no_quota(call: Call) -> web.StreamResponse:
    return call.failure(429, "You exceeded your current quota", "insufficient_quota")


@fault
async def request_timeout(call: Call) -> web.StreamResponse:
    return call.failure(408, "Request timeout")


@fault
async def conflict(call: Call) -> web.StreamResponse:
    return call.failure(409, "Conflict")


@fault
async def too_early(call: Call) -> web.StreamResponse:
    return call.failure(425, "Too early")


@fault
async def html_500(call: Call) -> web.StreamResponse:
    return web.Response(status=500, text="<html><h1>Internal Server Error</h1></html>", content_type="text/html")


@fault
async def json_503(call: Call) -> web.StreamResponse:
    return call.failure(503, "The engine is overloaded")


@fault
async def reset(call: Call) -> web.StreamResponse:
    assert call.request.transport is not None
    call.request.transport.abort()
    return web.Response()


@fault
async def stall(call: Call) -> web.StreamResponse:
    await asyncio.sleep(call.provider.control.stall_seconds)
    return web.json_response(call.good())


@fault
async def truncated(call: Call) -> web.StreamResponse:
    body = json.dumps(call.good()).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(call.request)
    await response.write(body[: len(body) // 2])
    assert call.request.transport is not None
    call.request.transport.close()
    return response


@fault
async def malformed_json(call: Call) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "4', content_type="application/json")


@fault
async def json_list(call: Call) -> web.StreamResponse:
    return web.json_response([call.good()])


@fault
async def no_choices(call: Call) -> web.StreamResponse:
    return web.json_response({"object": "chat.completion"})


@fault
async def empty_choices(call: Call) -> web.StreamResponse:
    return web.json_response({**call.good(), "choices": []})


@fault
async def null_content(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion(None))


@fault
async def wrong_content_type(call: Call) -> web.StreamResponse:
    return web.Response(text="<html>Welcome to the hotel's network</html>", content_type="text/html")


@fault
async def unauthorized(call: Call) -> web.StreamResponse:
    return call.failure(401, "Incorrect API key provided", "invalid_api_key")


@fault
async def forbidden(call: Call) -> web.StreamResponse:
    return call.failure(403, "This key may not use the model")


@fault
async def unknown_model(call: Call) -> web.StreamResponse:
    return web.json_response({"error": f"model {call.model!r} not found, try pulling it first"}, status=404)


@fault
async def context_length(call: Call) -> web.StreamResponse:
    return call.failure(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded")


@fault
async def context_length_vllm(call: Call) -> web.StreamResponse:
    message = "This model's maximum context length is 512 tokens. However, you requested 9000 tokens."
    body = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    return web.json_response(body, status=400)


@fault
async def unprocessable(call: Call) -> web.StreamResponse:
    return web.json_response({"detail": [{"loc": ["body", "stop"], "msg": "bad"}]}, status=422)


@fault
async def content_filter(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion(None, finish_reason="content_filter"))


@fault
async def content_filter_400(call: Call) -> web.StreamResponse:
    return call.failure(400, "The prompt triggered the content policy", "content_filter")


@fault
async def refusal(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion(None, refusal="I can't help with that."))


@fault
async def length(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion("The answer is 4", finish_reason="length"))


@fault
async def all_thinking(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion(None, finish_reason="length", reasoning_content="Hmm"))


@fault
async def tool_call(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion(None, finish_reason="tool_calls", tool_calls=[{"id": "c"}]))


@fault
async def content_parts(call: Call) -> web.StreamResponse:
    parts = [{"type": "text", "text": "The answer"}, {"type": "text", "text": " is 4"}]
    return web.json_response(call.completion("", content=parts))


@fault
async def without_usage(call: Call) -> web.StreamResponse:
    return web.json_response({**call.completion("4"), "usage": None})


@fault
async def absurd_usage(call: Call) -> web.StreamResponse:
    usage = {"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1, "total_tokens": -1}
    return web.json_response({**call.good(), "usage": usage})


@fault
async def peculiar_text(call: Call) -> web.StreamResponse:
    return web.json_response(call.completion('NUL \x00, emoji 🦆, 漢字, עברית, "quoted", \\N, a,b\r\nnew line\t'))


@fault
async def huge(call: Call) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(call.request)
    piece = b" " * 2**20
    with contextlib.suppress(ConnectionError):  # a client that has seen enough leaves
        for _ in range(80):
            await response.write(piece)
    return response


@fault
async def error_200(call: Call) -> web.StreamResponse:
    return web.json_response({"error": {"message": "upstream failed", "code": 502}})


def application(provider: Provider) -> web.Application:
    """The routes."""

    async def control(request: web.Request) -> web.Response:
        provider.apply(await request.json())
        return web.json_response({})

    async def start_over(_request: web.Request) -> web.Response:
        provider.reset()
        return web.json_response({})

    async def stats(_request: web.Request) -> web.Response:
        return web.json_response(provider.stats())

    async def last(_request: web.Request) -> web.Response:
        return web.json_response(provider.last)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", provider.speaking(OPENAI))
    app.router.add_post("/v1/messages", provider.speaking(ANTHROPIC))
    app.router.add_post("/v1beta/models/{model}:generateContent", provider.speaking(GOOGLE))
    app.router.add_post("/control", control)
    app.router.add_post("/reset", start_over)
    app.router.add_get("/stats", stats)
    app.router.add_get("/last", last)
    return app


async def serve(provider: Provider, port: int) -> None:
    """Listen on loopback until the process ends."""
    runner = web.AppRunner(application(provider), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096)
    await site.start()
    address = runner.addresses[0]
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{address[1]}/v1"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def recording(path: Path) -> dict[str, dict[str, str]]:
    """Model -> prompt -> completion."""
    book: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            book.setdefault(record["model"], {})[record["key"].strip()] = record["text"]
    return book


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--answers", type=Path, help="a recording, JSONL")
    parser.add_argument("--kinds", nargs="+", choices=sorted(FAULTS), default=TRANSIENT)
    for each in fields(Control):
        if each.name != "kinds":
            kind = int if each.name == "seed" else float
            parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    given = vars(parser.parse_args())
    port, answers = given.pop("port"), given.pop("answers")
    provider = Provider(recording(answers) if answers else {}, Control(**given))
    provider.reset()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(provider, port))


@dataclass(frozen=True, slots=True)
class RunningProvider:
    """A provider in a process of its own, as a test holds it."""

    url: str

    def control(self, **changes: Any) -> None:
        """Switch faults and delays on or off."""
        self._call("/control", changes)

    def reset(self) -> None:
        """Default behaviour, counters at zero."""
        self._call("/reset", {})

    def stats(self) -> dict[str, Any]:
        """Requests, those in flight, the peak, and the counts by model and prompt."""
        stats: dict[str, Any] = self._call("/stats", None)
        return stats

    @property
    def root(self) -> str:
        """The server without a path, which is Anthropic's base URL."""
        return self.url.removesuffix("/v1")

    @property
    def google(self) -> str:
        """Google's base URL."""
        return f"{self.root}/v1beta"

    def last(self) -> dict[str, Any]:
        """Path, headers and body of the last request."""
        last: dict[str, Any] = self._call("/last", None)
        return last

    def sent(self, model: str) -> dict[str, int]:
        """Prompt -> how often it was asked of a model."""
        return {prompt: count["sent"] for prompt, count in self.stats()["prompts"].get(model, {}).items()}

    def _call(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running_provider(*arguments: str) -> Iterator[RunningProvider]:
    """Start the server, wait until it listens, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), *arguments],
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        text=True,
    )
    try:
        assert process.stdout is not None
        yield RunningProvider(json.loads(process.stdout.readline())["url"])
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


if __name__ == "__main__":
    main()

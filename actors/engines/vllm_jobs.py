"""What runs inside the vLLM engine: blocks of requests, their jobs, and the likelihoods that come of several jobs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from actors.engines.common import Sampling
from actors.engines.prompting import Continued, likelihood_of
from evalservice.records import ChatRequest, Completion

MOST_AT_ONCE = 100
"""So many tokens' log probabilities one job may ask for; vLLM's own limit is 128."""


@dataclass(slots=True)
class Block:
    """One call of `complete`: what was asked, and what is answered so far."""

    requests: Sequence[ChatRequest]
    stop: asyncio.Event
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    results: list[Completion | None]
    open: int
    next: int = 0

    def settle(self, index: int, completion: Completion | None) -> None:
        self.results[index] = completion
        self.open -= 1
        if self.open == 0:
            self.wake(None)

    def wake(self, error: Exception | None) -> None:
        """Let the caller go on: with the results, or with the reason why there are none."""

        def finish() -> None:
            if self.done.done():
                return
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(finish)


@dataclass(slots=True)
class Job:
    """One prompt inside the engine, for which `sampling` draws an answer."""

    block: Block
    index: int
    tokens: list[int]
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=1))
    admitted: float = 0.0
    attempts: int = 0

    def options(self) -> dict[str, Any]:
        """What of vLLM's sampling parameters is this job's alone."""
        return {}

    def settle(self, completion: Completion) -> None:
        """The end of the job: its answer, or why there is none."""
        self.block.settle(self.index, completion)


@dataclass(slots=True)
class Shared:
    """A request with continuations, whose log likelihoods several jobs find out."""

    block: Block
    index: int
    model: str
    request: ChatRequest
    rows: Sequence[Continued]
    found: dict[int, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    settled: bool = False

    def jobs(self) -> list[Job]:
        """One job for all continuations of a single token after the same prompt, else one for each."""
        alone = len({tuple(row.tokens[: row.start]) for row in self.rows}) == 1
        if alone and len(self.rows) <= MOST_AT_ONCE and all(len(row.continuation) == 1 for row in self.rows):
            first = self.rows[0]
            wanted = [row.tokens[-1] for row in self.rows]
            return [NextToken(self.block, self.index, first.tokens[: first.start], shared=self, wanted=wanted)]
        return [
            Scored(self.block, self.index, row.tokens, shared=self, position=position, start=row.start)
            for position, row in enumerate(self.rows)
        ]

    def put(self, values: Mapping[int, float]) -> None:
        """Log likelihoods by the continuation's position; the last of them is the request's answer."""
        self.found.update(values)
        if len(self.found) == len(self.rows) and not self.settled:
            logprobs = [self.found[position] for position in range(len(self.rows))]
            completion = likelihood_of(self.model, self.request, self.rows, logprobs)
            latency_ms = (time.perf_counter() - self.began) * 1000.0
            self.fail(replace(completion, latency_ms=latency_ms, executed_at=datetime.now(UTC)))

    def fail(self, completion: Completion) -> None:
        """One job's failure is the request's; those of its other jobs say nothing more."""
        if not self.settled:
            self.settled = True
            self.block.settle(self.index, completion)


@dataclass(slots=True)
class NextToken(Job):
    """Log probabilities of single tokens after a prompt."""

    shared: Shared | None = None
    wanted: Sequence[int] = ()

    def options(self) -> dict[str, Any]:
        return {"logprob_token_ids": sorted(set(self.wanted)), "detokenize": False}

    def settle(self, completion: Completion) -> None:
        assert self.shared is not None
        self.shared.fail(completion)

    def read(self, output: Any) -> bool:
        """Take the log probabilities out of a finished output; whether they are there."""
        assert self.shared is not None
        after: Mapping[int, Any] = (output.outputs[0].logprobs or [{}])[0]
        if not all(token in after for token in self.wanted):
            return False
        self.shared.put({position: after[token].logprob for position, token in enumerate(self.wanted)})
        return True


@dataclass(slots=True)
class Scored(Job):
    """The log likelihood of the end of a prompt, which vLLM gives token by token.

    What the prefix cache holds is not computed again and has no log probabilities, which is right for the prompt; where
    it reaches into the continuation, the job is done once more without the cache.
    """

    shared: Shared | None = None
    position: int = 0
    start: int = 0
    cached: bool = True

    def options(self) -> dict[str, Any]:
        return {"prompt_logprobs": 0, "detokenize": False, "skip_reading_prefix_cache": not self.cached}

    def settle(self, completion: Completion) -> None:
        assert self.shared is not None
        self.shared.fail(completion)

    def read(self, output: Any) -> bool:
        """Take the log likelihood out of a finished output; whether it is there."""
        assert self.shared is not None
        wanted = self.tokens[self.start :]
        given = (output.prompt_logprobs or [])[-len(wanted) :]
        if self.cached and (output.num_cached_tokens or 0) >= self.start:
            return False
        if len(given) < len(wanted) or not all(each and t in each for each, t in zip(given, wanted, strict=True)):
            return False
        self.shared.put({self.position: sum(each[t].logprob for each, t in zip(given, wanted, strict=True))})
        return True

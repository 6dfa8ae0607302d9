"""What flows through a run: test case, completion, score, item result. All frozen, none knows Ray or a database.

A test case as it stands in a dataset snapshot:

    TestCase(index=0, id="q-17", input="What is 17 + 25?", expected_output="42", choices=None,
             cluster="sums", metadata={"difficulty": "easy"})

its completion:

    Completion(text="17 + 25 = 42", finish_reason="stop", input_tokens=9, output_tokens=8, latency_ms=212.4,
               cost=Decimal("0.0000525"), model="gpt-4o-2024-08-06", system_fingerprint="fp_1")

and its score:

    Score(status="scored", values={"numeric_match": 1.0}, statistics={}, details={"extracted": "42"}, error=None)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

JSON = Any
"""Any JSON value: None, bool, int, float, str, list or dict with string keys."""

TokenLogprob = tuple[str, float, tuple[tuple[str, float], ...]]
"""A token of a completion, its natural log probability, and the most probable tokens in its place with theirs."""

ScoreStatus = Literal["scored", "scorer_failed", "model_failed"]

CacheUse = Literal["off", "deterministic", "all"]
"""Of which requests stored completions are used again: none, those without chance in their sampling, all."""

ErrorKind = Literal[
    "timeout",  # no answer within the time limit
    "connection",  # refused, reset, DNS, TLS
    "rate_limited",  # 429 after all attempts
    "server_error",  # 408, 409, 425, 5xx after all attempts
    "authentication",  # 401, 403
    "not_found",  # 404: wrong model id or base URL
    "bad_request",  # 400, 422 and other refusals of the request itself
    "context_length",  # the prompt does not fit the model's context
    "content_filter",  # the provider blocked the prompt or the answer
    "malformed_response",  # not JSON, wrong content type, wrong shape
    "empty_response",  # no choices, or a choice without content
    "prompt_error",  # the prompt template failed for this test case
    "engine_error",  # the self-hosted engine failed for this prompt
    "worker_died",  # the process that handled the item died, repeatedly
    "logged_error",  # an imported log has an error in the completion's place
]


@dataclass(frozen=True, slots=True)
class TestCase:
    """One record of a dataset snapshot. `index` is its 0-based position; `id` is the dataset's own or ""."""

    __test__ = False  # not a pytest class

    index: int
    input: str | Mapping[str, JSON]
    id: str = ""
    expected_output: JSON = None
    choices: tuple[str, ...] | None = None
    cluster: str | None = None
    metadata: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item has no usable completion.

    `retryable`: asking again later may succeed (a resume asks again); False for what will fail the same way again.
    `retry_after`: seconds that the body of the provider's answer asks to wait, where it does.
    """

    kind: ErrorKind
    message: str
    retryable: bool
    status_code: int | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call of a model: chat messages in the OpenAI form and effective sampling parameters.

    `messages`: contents are texts or lists of parts (`{"type": "text", …}`, `{"type": "image_url", …}`).
    `sampling` holds only what was set: temperature, top_p, max_tokens, stop, seed, tools, ... by the OpenAI names.
    continuations: texts whose log-likelihood after the prompt is asked for instead of an answer; sampling then plays no
    part, and engines alone can do it. prompt: "chat" renders the messages with the model's chat template where it has
    one, "plain" is their text alone.
    """

    messages: tuple[Mapping[str, JSON], ...]
    sampling: Mapping[str, JSON] = field(default_factory=dict)
    continuations: tuple[str, ...] = ()
    prompt: Literal["chat", "plain"] = "chat"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model returned for one request. With `error` set, `text` is "" or what arrived before the failure.

    text: where the model called tools instead of answering, the calls as JSON, keys sorted, without blanks:
    `[{"arguments":{"city":"Paris"},"name":"weather"}]`, the same for every provider.
    latency_ms: wall time of the successful attempt, queueing and earlier attempts excluded, in milliseconds.
    cost: US dollars; None when no price is known. Tokens as the provider reports them, None if it does not.
    cached_from: the run whose stored completion this is; nobody was asked for it again.
    input_tokens: all of the prompt; of them cached_input_tokens were read from the provider's prompt cache and
    cache_write_tokens written into it. output_tokens: all that is billed as output, reasoning_tokens of them thought.
    logprobs: where asked for, (token, log probability, ((alternative, log probability), ...)) of the first tokens.
    log_likelihoods: of a request with continuations, the natural logarithm of each one's probability after the prompt,
    the sum over its tokens; `text` is then the likeliest of them.
    """

    text: str = ""
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: float | None = None
    cost: Decimal | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    refused: bool = False
    attempts: int = 1
    cached_from: str | None = None
    executed_at: datetime | None = None
    error: ItemError | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    log_likelihoods: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What one scorer says of one completion.

    status: "scored": `values` hold; "scorer_failed": the scorer raised or ran out of time, `error` says why and every
    value is None; "model_failed": there was no completion to score. A failure is never a 0.
    values: metric name -> per-item value, None where it is undefined for this item.
    statistics: metric name -> sufficient statistics of a corpus metric, a fixed-length tuple that adds over items
    (e.g. BLEU: correct and total n-gram counts for n = 1..4, hypothesis length, reference length).
    details: what a person wants to see beside the value (the extracted answer, the parsed number).
    """

    status: ScoreStatus
    values: Mapping[str, float | None]
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    details: Mapping[str, JSON] = field(default_factory=dict)
    error: str | None = None

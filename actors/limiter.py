"""One limiter for the whole cluster: requests a minute, tokens a minute, and how many are in flight at once.

A single small Ray actor holds the state of every credential. Actors that send (holders) report what they have and
what they wait for a few times a second, and keep one long call open that returns when their grant has changed: never
a call for a request. What a holder was granted and has not renewed lapses, so the permits of a killed actor come back.

Limits are kept for a credential and, below it, for each of its models, because that is how providers set them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from actors.rates import AdaptiveConcurrency, Demand, TokenBucket, fair_shares

TICK_SECONDS = 0.1
LAPSE_SECONDS = 15.0
LONG_CALL_SECONDS = 5.0
SERVED_DECAY = 0.9
"""Of what a holder was given, so much still counts a tick later when it is decided whose turn it is."""
REPORTS_A_SECOND = 200.0
"""Of all holders together; with more of them each reports less often."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider allows, per minute; None where nothing is known."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __bool__(self) -> bool:
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Membership:
    """Who a holder is. credential: the key under which limits are shared. width: requests in flight that it can use.

    concurrency: what it was allowed by a limiter that has died since.
    """

    credential: str
    model: str
    run: str
    width: int
    credential_limits: Limits = UNLIMITED
    model_limits: Limits = UNLIMITED
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What happened at a holder since its last report, and what it has and wants now.

    answered, refused: requests. hold: seconds that the provider asked everyone to wait (Retry-After). correction:
    tokens that were used beyond what was reserved for them; negative when they were fewer. learned: limits that the
    provider named in its answers.
    """

    answered: int = 0
    refused: int = 0
    hold: float = 0.0
    in_flight: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    correction: int = 0
    learned: Limits = UNLIMITED


@dataclass(frozen=True, slots=True)
class Grant:
    """What a holder may do. permits, tokens: in all since it joined; None: as many as it likes. hold: seconds."""

    version: int
    concurrency: int
    permits: int | None
    tokens: int | None
    hold: float
    report_every: float


@dataclass(slots=True)
class _Buckets:
    """The token buckets of one scope; made when a limit becomes known."""

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None

    def know(self, limits: Limits, now: float) -> None:
        self.requests = _bucket(self.requests, limits.requests_per_minute, now)
        self.tokens = _bucket(self.tokens, limits.tokens_per_minute, now)


def _bucket(bucket: TokenBucket | None, per_minute: float | None, now: float) -> TokenBucket | None:
    if per_minute is None:
        return bucket
    if bucket is None:
        return TokenBucket(per_minute, now)
    bucket.set_rate(per_minute)
    return bucket


@dataclass(slots=True)
class _Holder:
    member: Membership
    seen: float
    concurrency: int
    in_flight: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    permits: int = 0
    tokens: int = 0
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    served: float = 0.0

    def waits_for(self, kind: str) -> int:
        return self.waiting if kind == "requests" else self.waiting_tokens

    def give(self, kind: str, amount: int) -> None:
        if kind == "requests":
            self.permits += amount
            self.waiting -= amount
            self.served += amount
        else:
            self.tokens += amount
            self.waiting_tokens -= amount
        self.change()

    @property
    def wanted(self) -> int:
        return min(self.member.width, self.in_flight + self.waiting)

    def change(self) -> None:
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(slots=True)
class _Model:
    concurrency: AdaptiveConcurrency
    buckets: _Buckets = field(default_factory=_Buckets)
    configured: bool = False


@dataclass(slots=True)
class _Credential:
    buckets: _Buckets = field(default_factory=_Buckets)
    models: dict[str, _Model] = field(default_factory=dict)
    holders: dict[str, _Holder] = field(default_factory=dict)
    held_until: float = 0.0
    to_allot: set[str] = field(default_factory=set)
    """Models whose concurrency has to be shared out again."""


class Limiter:
    """Deployed as a named Ray actor that reserves no CPU; a plain object in tests. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._credentials: dict[str, _Credential] = {}
        self._of: dict[str, _Credential] = {}
        self._ticking: asyncio.Task[None] | None = None

    async def join(self, holder: str, member: Membership) -> None:
        """Begin to share the limits of a credential. Limits that are given now hold for everyone."""
        now = self._clock()
        credential = self._credentials.setdefault(member.credential, _Credential())
        credential.buckets.know(member.credential_limits, now)
        model = credential.models.setdefault(member.model, _Model(AdaptiveConcurrency(member.width, now)))
        if member.model_limits:
            model.buckets.know(member.model_limits, now)
            model.configured = True
        start = member.width if member.concurrency is None else member.concurrency
        credential.holders[holder] = _Holder(member, now, start)
        self._of[holder] = credential
        self._allot(credential, member.model)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick_on())

    async def leave(self, holder: str) -> None:
        """Share no more."""
        self._forget(holder)

    async def report(self, holder: str, report: Report) -> bool:
        """Take a report; whether the holder is known here. One that is not (any more) joins again."""
        credential = self._of.get(holder)
        if credential is None:
            return False
        now, me = self._clock(), credential.holders[holder]
        me.seen, me.in_flight = now, report.in_flight
        me.waiting, me.waiting_tokens = report.waiting, report.waiting_tokens
        model = credential.models[me.member.model]
        if report.learned and not model.configured:
            model.buckets.know(report.learned, now)
        for buckets in (credential.buckets, model.buckets):
            if buckets.tokens is not None and report.correction:
                buckets.tokens.take(report.correction)
        if report.hold > 0 and now + report.hold > credential.held_until:
            credential.held_until = now + report.hold
            for each in credential.holders.values():
                each.change()
        if self._adapt(credential, me.member.model, report, now):
            credential.to_allot.add(me.member.model)
        return True

    async def next(self, holder: str, known: int) -> Grant | None:
        """The holder's grant as soon as it is another than version `known`, or after a while; None: join again."""
        credential = self._of.get(holder)
        if credential is None:
            return None
        me = credential.holders[holder]
        me.seen = self._clock()
        if me.version == known:
            try:
                async with asyncio.timeout(LONG_CALL_SECONDS):
                    await me.changed.wait()
            except TimeoutError:
                pass
        if holder not in self._of:
            return None
        me.seen = self._clock()
        model = credential.models[me.member.model]
        return Grant(
            me.version,
            me.concurrency,
            me.permits if _either(credential.buckets.requests, model.buckets.requests) else None,
            me.tokens if _either(credential.buckets.tokens, model.buckets.tokens) else None,
            max(0.0, credential.held_until - self._clock()),
            max(1.0, len(self._of) / REPORTS_A_SECOND),
        )

    async def holders(self) -> list[str]:
        """Who shares limits now."""
        return [*self._of]

    def tick(self) -> None:
        """Give away what the buckets hold, and forget who is gone. Called every `TICK_SECONDS`."""
        now = self._clock()
        for holder, credential in list(self._of.items()):
            if now - credential.holders[holder].seen > LAPSE_SECONDS:
                self._forget(holder)
        for credential in self._credentials.values():
            while credential.to_allot:
                self._allot(credential, credential.to_allot.pop())
            if now >= credential.held_until:
                self._give(credential, now)

    async def _tick_on(self) -> None:
        while self._of:
            self.tick()
            await asyncio.sleep(TICK_SECONDS)

    def _forget(self, holder: str) -> None:
        credential = self._of.pop(holder, None)
        if credential is None:
            return
        gone = credential.holders.pop(holder)
        gone.change()
        if credential.holders:
            self._allot(credential, gone.member.model)
        else:
            del self._credentials[gone.member.credential]

    def _adapt(self, credential: _Credential, model: str, report: Report, now: float) -> bool:
        in_flight = sum(h.in_flight for h in _of_model(credential, model).values())
        adaptive = credential.models[model].concurrency
        if report.refused:
            return adaptive.refused(in_flight, now)
        changed = bool(report.answered) and adaptive.answered(in_flight, now)
        return changed or adaptive.window < adaptive.most

    def _allot(self, credential: _Credential, model: str) -> None:
        """Share out what may be in flight; one request each at least."""
        holders = _of_model(credential, model)
        adaptive = credential.models[model].concurrency
        adaptive.most = max(1, sum(h.member.width for h in holders.values()))
        if adaptive.window >= adaptive.most:
            shares: Mapping[str, int] = {key: h.member.width for key, h in holders.items()}
        else:
            shares = fair_shares({k: Demand(h.member.run, h.wanted) for k, h in holders.items()}, adaptive.window)
        for key, holder in holders.items():
            share = max(1, shares[key])
            if share != holder.concurrency:
                holder.concurrency = share
                holder.change()

    def _give(self, credential: _Credential, now: float) -> None:
        """What the models' buckets hold goes to who waits, as far as the credential's hold it, too."""
        for kind in ("requests", "tokens"):
            above: TokenBucket | None = getattr(credential.buckets, kind)
            waiting: dict[str, int] = {}
            for name, model in credential.models.items():
                below: TokenBucket | None = getattr(model.buckets, kind)
                holders = _of_model(credential, name)
                if below is None:
                    waiting |= {key: holder.waits_for(kind) for key, holder in holders.items() if above is not None}
                else:
                    waiting |= _shares(holders, {k: h.waits_for(kind) for k, h in holders.items()}, below, now)
            shares = waiting if above is None else _shares(credential.holders, waiting, above, now)
            for key, share in shares.items():
                if share > 0:
                    holder = credential.holders[key]
                    holder.give(kind, share)
                    for bucket in (above, getattr(credential.models[holder.member.model].buckets, kind)):
                        if bucket is not None:
                            bucket.take(share)
        for holder in credential.holders.values():
            holder.served *= SERVED_DECAY


def _shares(
    holders: Mapping[str, _Holder], wanted: Mapping[str, int], bucket: TokenBucket, now: float
) -> dict[str, int]:
    demands = {key: Demand(holders[key].member.run, amount) for key, amount in wanted.items()}
    return fair_shares(demands, bucket.available(now), {key: holders[key].served for key in wanted})


def _of_model(credential: _Credential, model: str) -> dict[str, _Holder]:
    return {key: holder for key, holder in credential.holders.items() if holder.member.model == model}


def _either(*buckets: TokenBucket | None) -> bool:
    return any(bucket is not None for bucket in buckets)

"""The cluster's limiter: what holders are granted, and what comes back from those who die."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from actors.limiter import LAPSE_SECONDS, TICK_SECONDS, Limiter, Limits, Membership, Report


@dataclass(slots=True)
class Clock:
    """Seconds that pass when they are told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Cluster:
    """A limiter whose ticks are taken by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock)

    async def join(self, holder: str, run: str = "r", model: str = "m", width: int = 100, **limits: Limits) -> None:
        await self.limiter.join(holder, Membership("key", model, run, width, **limits))

    async def report(self, holder: str, **report: float) -> bool:
        return await self.limiter.report(holder, Report(**report))  # type: ignore[arg-type]

    async def granted(self, holder: str) -> tuple[int, int | None, int | None, float]:
        grant = await self.limiter.next(holder, -1)
        assert grant is not None
        return grant.concurrency, grant.permits, grant.tokens, grant.hold

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_SECONDS)):
            self.clock.now += TICK_SECONDS
            self.limiter.tick()


def test_permits_come_at_the_rate_of_the_limit_and_only_to_who_waits() -> None:
    async def scene() -> None:
        cluster = Cluster()
        limit = Limits(requests_per_minute=600)
        await cluster.join("busy", model_limits=limit)
        await cluster.join("idle", model_limits=limit)
        for _ in range(6):
            await cluster.report("busy", waiting=200)
            await cluster.report("idle")
            cluster.pass_time(10)
        _, permits, tokens, _ = await cluster.granted("busy")
        assert permits is not None
        assert 0.95 * 600 <= permits <= 600
        assert tokens is None
        assert (await cluster.granted("idle"))[1] == 0

    asyncio.run(scene())


def test_two_runs_take_turns_where_there_is_one_permit_at_a_time() -> None:
    async def scene() -> None:
        cluster = Cluster()
        await cluster.join("a", run="one", model_limits=Limits(600))
        await cluster.join("b", run="two", model_limits=Limits(600))
        for waiting in range(100, 90, -1):
            await cluster.report("a", waiting=waiting)
            await cluster.report("b", waiting=5 * waiting)
            cluster.pass_time(1)
        one, two = [(await cluster.granted(holder))[1] or 0 for holder in "ab"]
        assert one + two >= 95
        assert abs(one - two) <= 2

    asyncio.run(scene())


def test_the_limit_of_a_credential_holds_over_its_models_and_each_models_own_beneath_it() -> None:
    async def scene() -> None:
        cluster = Cluster()
        credential = Limits(requests_per_minute=600)
        await cluster.join("a", model="small", credential_limits=credential, model_limits=Limits(60))
        await cluster.join("b", model="large", credential_limits=credential)
        for _ in range(6):
            await cluster.report("a", waiting=500)
            await cluster.report("b", waiting=500)
            cluster.pass_time(10)
        small, large = [(await cluster.granted(holder))[1] for holder in "ab"]
        assert small is not None
        assert large is not None
        assert 50 <= small <= 60
        assert 0.95 * 600 <= small + large <= 600

    asyncio.run(scene())


def test_tokens_are_granted_until_they_suffice_and_corrected_afterwards() -> None:
    async def scene() -> None:
        cluster = Cluster()
        await cluster.join("a", model_limits=Limits(tokens_per_minute=60_000))
        await cluster.report("a", waiting=1, waiting_tokens=5_000)
        cluster.pass_time(3)
        assert 2_500 < ((await cluster.granted("a"))[2] or 0) < 3_500
        cluster.pass_time(3)
        assert (await cluster.granted("a"))[2] == 5_000
        await cluster.report("a", waiting=1, waiting_tokens=1_000, correction=4_000)
        cluster.pass_time(3)
        assert (await cluster.granted("a"))[2] == 5_000, "what was used beyond the reserve is waited for"
        cluster.pass_time(3)
        assert (await cluster.granted("a"))[2] == 6_000

    asyncio.run(scene())


def test_a_refusal_anywhere_shrinks_what_all_have_in_flight_and_it_grows_back() -> None:
    async def scene() -> None:
        cluster = Cluster()
        await cluster.join("a", run="one")
        await cluster.join("b", run="two")
        await cluster.report("b", in_flight=100)
        await cluster.report("a", in_flight=100, refused=30)
        cluster.pass_time(TICK_SECONDS)
        assert [(await cluster.granted(holder))[0] for holder in "ab"] == [70, 70]
        for _ in range(100):
            for holder in "ab":
                concurrency, *_ = await cluster.granted(holder)
                await cluster.report(holder, in_flight=concurrency, waiting=100, answered=10)
            cluster.pass_time(0.3)
        assert [(await cluster.granted(holder))[0] for holder in "ab"] == [100, 100]

    asyncio.run(scene())


def test_a_retry_after_holds_everyone_of_the_credential_and_nobody_else() -> None:
    async def scene() -> None:
        cluster = Cluster()
        await cluster.join("a")
        await cluster.join("b", run="other", model="other")
        await cluster.limiter.join("c", Membership("another key", "m", "r", 10))
        await cluster.report("a", refused=1, hold=20.0)
        assert [round((await cluster.granted(holder))[3]) for holder in "abc"] == [20, 20, 0]
        cluster.clock.now += 20
        assert (await cluster.granted("b"))[3] == 0

    asyncio.run(scene())


def test_what_a_dead_holder_had_goes_to_the_others() -> None:
    async def scene() -> None:
        cluster = Cluster()
        for holder in ("alive", "dead"):
            await cluster.join(holder, width=10)
        await cluster.report("alive", in_flight=10, waiting=10)
        await cluster.report("dead", in_flight=10, refused=1)
        cluster.pass_time(TICK_SECONDS)
        assert (await cluster.granted("alive"))[0] == 7, "fourteen are allowed, and two want ten"
        for _ in range(int(LAPSE_SECONDS) + 2):
            await cluster.report("alive", in_flight=3, waiting=7)
            cluster.pass_time(1.0)
        assert not await cluster.report("dead"), "it has to join again"
        cluster.pass_time(TICK_SECONDS)
        assert (await cluster.granted("alive"))[0] == 10

    asyncio.run(scene())


def test_what_a_provider_names_is_kept_where_nothing_was_configured() -> None:
    async def scene() -> None:
        cluster = Cluster()
        await cluster.join("a")
        await cluster.join("b", model="n", model_limits=Limits(60))
        assert (await cluster.granted("a"))[1] is None
        for holder in "ab":
            await cluster.limiter.report(holder, Report(waiting=1000, learned=Limits(600)))
        cluster.pass_time(10)
        assert 95 <= ((await cluster.granted("a"))[1] or 0) <= 100
        assert ((await cluster.granted("b"))[1] or 0) <= 11

    asyncio.run(scene())

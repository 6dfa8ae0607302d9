"""Lanes: a bound over all batches, order within one, and a batch's fault or end that concerns no other."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.providers.lanes import Lanes
from evalservice.records import ChatRequest, Completion


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def requests(*names: str) -> list[ChatRequest]:
    return [ChatRequest(({"role": "user", "content": name},)) for name in names]


def name_of(request: ChatRequest) -> str:
    return str(request.messages[0]["content"])


def texts(answers: list[Completion | None]) -> list[str | None]:
    return [None if answer is None else answer.text for answer in answers]


class Model:
    """Answers with the request's own text after `seconds`; knows how many were asked at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.now, self.most = seconds, 0, 0

    async def __call__(self, request: ChatRequest, stop: asyncio.Event) -> Completion | None:
        if stop.is_set():
            return None
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.now -= 1
        if name_of(request) == "broken":
            raise RuntimeError("broken")
        return Completion(text=name_of(request))


@given(sizes=st.lists(st.integers(0, 12), max_size=6), width=st.integers(1, 7))
def test_every_batch_is_answered_in_order_within_one_bound(sizes: list[int], width: int) -> None:
    async def scenario() -> None:
        model = Model()
        lanes = Lanes(width, model, grace=1.0)
        batches = [requests(*(f"{number}.{i}" for i in range(size))) for number, size in enumerate(sizes)]
        for _ in range(2):  # lanes that have ended are replaced
            done = await asyncio.gather(*(lanes.answers(batch, asyncio.Event()) for batch in batches))
            assert [texts(answers) for answers in done] == [[name_of(r) for r in batch] for batch in batches]
        assert model.most == min(width, sum(sizes))

    asyncio.run(scenario())


@pytest.mark.anyio
async def test_after_a_stop_what_was_not_sent_is_none_and_what_was_is_answered() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    answers = await Lanes(2, Model(0.2), grace=5.0).answers(requests("a", "b", "c"), stop)
    assert texts(answers) == ["a", "b", None]


@pytest.mark.anyio
async def test_what_outlasts_the_grace_is_cut_off_and_its_lane_goes_on() -> None:
    stop = asyncio.Event()
    stuck = Model(60.0)
    lanes = Lanes(1, stuck, grace=0.05)
    first = asyncio.create_task(lanes.answers(requests("a"), stop))
    second = asyncio.create_task(lanes.answers(requests("b"), asyncio.Event()))
    await asyncio.sleep(0.05)
    stuck.seconds = 0.0
    stop.set()
    assert texts(await first) == [None]
    assert texts(await asyncio.wait_for(second, 5)) == ["b"]


@pytest.mark.anyio
async def test_an_exception_fails_its_own_batch_alone() -> None:
    lanes = Lanes(1, Model(0.01), grace=1.0)
    bad = asyncio.create_task(lanes.answers(requests("a", "broken", "c"), asyncio.Event()))
    good = asyncio.create_task(lanes.answers(requests("d"), asyncio.Event()))
    with pytest.raises(RuntimeError, match="broken"):
        await bad
    assert texts(await good) == ["d"]


@pytest.mark.anyio
async def test_a_cancelled_batch_leaves_nothing_under_way_and_room_for_the_next() -> None:
    model = Model(60.0)
    lanes = Lanes(1, model, grace=1.0)
    first = asyncio.create_task(lanes.answers(requests("a", "b"), asyncio.Event()))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0.05)
    assert model.now == 0
    model.seconds = 0.0
    assert texts(await asyncio.wait_for(lanes.answers(requests("c"), asyncio.Event()), 5)) == ["c"]

"""Waiting for function tasks to end: nobody is forgotten, and nobody waits for nothing."""

import trio
from trio.testing import MockClock

from troth.shards.placement.endings import Endings

LONG_S = 100.0


async def waited_s(endings: Endings, promise_id: str) -> float:
    """How long a wait takes that may take long."""
    started_s = trio.current_time()
    with endings.expect(promise_id) as expectation:
        await expectation.wait(LONG_S)
    return trio.current_time() - started_s


async def test_whoever_waits_is_woken_by_the_end_of_its_own_promise(
    autojump_clock: MockClock,
) -> None:
    endings = Endings(limit_count=10)
    waits: dict[str, float] = {}

    async def wait(name: str, promise_id: str) -> None:
        waits[name] = await waited_s(endings, promise_id)

    async with trio.open_nursery() as nursery:
        for name, promise_id in (("a1", "a"), ("a2", "a"), ("b", "b")):
            nursery.start_soon(wait, name, promise_id)
        await trio.sleep(1)
        assert endings.waiting_count == 3
        endings.ended("a")
        endings.ended("nobody waits for this")

    assert waits == {"a1": 1.0, "a2": 1.0, "b": LONG_S}
    assert endings.waiting_count == 0


async def test_an_end_between_question_and_wait_is_not_missed(autojump_clock: MockClock) -> None:
    endings = Endings(limit_count=10)
    started_s = trio.current_time()
    with endings.expect("a") as expectation:
        endings.ended("a")
        await expectation.wait(LONG_S)

    assert trio.current_time() == started_s


async def test_beyond_the_limit_nobody_waits(autojump_clock: MockClock) -> None:
    endings = Endings(limit_count=1)
    with endings.expect("a"):
        assert await waited_s(endings, "a") == 0
        assert endings.waiting_count == 1
    assert await waited_s(endings, "a") == LONG_S


async def test_when_the_server_stops_nobody_waits_any_longer(autojump_clock: MockClock) -> None:
    endings = Endings(limit_count=10)
    with endings.expect("a") as expectation:
        endings.close()
        started_s = trio.current_time()
        await expectation.wait(LONG_S)
        assert trio.current_time() == started_s
    assert await waited_s(endings, "b") == 0

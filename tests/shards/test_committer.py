"""Group commit: one batch a turn, positions, room, and the end after a failure."""

import os
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import LogRecord, MemoryLog
from troth.shards import committer as committer_module
from troth.shards.committer import (
    LINGER_LIMIT_BYTES,
    LINGER_S,
    Committer,
    DirectWriter,
    ThreadWriter,
)
from troth.shards.errors import StorageFailed
from troth.shards.passes import Pass

from .stage import ManualWriter, settle


def entries(*sizes_bytes: int, shard: int = 0) -> list[LogRecord]:
    return [LogRecord(shard, number, b"x" * size) for number, size in enumerate(sizes_bytes, 1)]


def committer_with(durable: list[int], next_sequence: int = 1) -> Committer:
    return Committer(next_sequence, durable.append)


def test_positions_are_log_sequences() -> None:
    committer = committer_with([], next_sequence=7)

    assert committer.append(entries(1, 1)) == 8
    assert committer.append(entries(1)) == 9
    assert committer.durable_position == 6


async def test_what_is_appended_in_one_turn_is_one_batch(nursery: trio.Nursery) -> None:
    committer = committer_with([])
    writer = ManualWriter(committer)
    nursery.start_soon(committer.run, writer)
    await settle()

    committer.append(entries(1, shard=0))
    committer.append(entries(2, 3, shard=1))
    await settle()
    committer.append(entries(4, shard=0))
    await settle()

    assert [[len(body) for _, _, body in batch] for batch in writer.waiting] == [[1, 2, 3], [4]]
    assert committer.statistics().batches_count == 2
    assert committer.statistics().records_count == 4


def test_pending_bytes_shrink_with_whole_appends_only() -> None:
    durable: list[int] = []
    committer = committer_with(durable)
    committer.append(entries(10, 20))
    committer.append(entries(30))

    assert committer.pending_bytes == 60
    committer.durable(2)
    assert committer.pending_bytes == 30
    committer.durable(3)
    assert committer.pending_bytes == 0
    assert durable == [2, 3]


def test_a_repeated_position_is_no_news() -> None:
    durable: list[int] = []
    committer = committer_with(durable)
    committer.append(entries(1, 1))

    committer.durable(2)
    committer.durable(2)
    committer.durable(1)

    assert durable == [2]


def test_nothing_can_be_durable_that_was_not_appended() -> None:
    with pytest.raises(AssertionError):
        committer_with([]).durable(1)


async def test_everybody_who_waits_for_room_is_woken(nursery: trio.Nursery) -> None:
    committer = committer_with([])
    committer.append(entries(100))
    woken: list[int] = []

    async def wait(number: int) -> None:
        await committer.wait_room(100)
        woken.append(number)

    for number in range(3):
        nursery.start_soon(wait, number)
    await settle()
    assert woken == []
    committer.durable(1)
    await settle()

    assert sorted(woken) == [0, 1, 2]


async def test_who_waits_for_room_waits_until_there_is_enough(nursery: trio.Nursery) -> None:
    committer = committer_with([])
    committer.append(entries(50))
    committer.append(entries(150))
    woken: list[str] = []

    async def wait(name: str, limit_bytes: int) -> None:
        await committer.wait_room(limit_bytes)
        woken.append(name)

    nursery.start_soon(wait, "small", 100)
    nursery.start_soon(wait, "large", 160)
    await settle()
    committer.durable(1)
    await settle()
    assert woken == ["large"]
    committer.durable(2)
    await settle()

    assert woken == ["large", "small"]


async def test_wait_durable_covers_what_was_appended_before_the_call(
    nursery: trio.Nursery,
) -> None:
    committer = committer_with([])
    committer.append(entries(1))
    done = trio.Event()

    async def wait() -> None:
        await committer.wait_durable()
        done.set()

    nursery.start_soon(wait)
    await settle()
    committer.append(entries(1))
    assert not done.is_set()
    committer.durable(1)
    await settle()

    assert done.is_set()


async def test_after_a_failure_nothing_is_appended_or_written(nursery: trio.Nursery) -> None:
    committer = committer_with([])
    writer = ManualWriter(committer)
    committer.append(entries(1))
    first, second = LogFailed("first"), LogFailed("second")

    committer.fail(first)
    committer.fail(second)
    committer.flush(writer)

    assert committer.failure is first
    assert committer.failed.is_set()
    assert writer.waiting == []
    with pytest.raises(StorageFailed):
        committer.append(entries(1))
    with trio.fail_after(60):
        await committer.wait_room(0)
        await committer.wait_durable()


async def test_the_direct_writer_is_durable_at_once() -> None:
    durable: list[int] = []
    committer = committer_with(durable)
    writer = DirectWriter(MemoryLog(), committer.durable)
    committer.append(entries(1, 1))

    committer.flush(writer)
    await writer.close()

    assert durable == [2]


async def test_the_thread_reports_through_the_event_loop() -> None:
    reported = trio.Event()
    threads_are_loop: list[bool] = []

    def on_durable(position: int) -> None:
        threads_are_loop.append(trio.lowlevel.in_trio_run())
        reported.set()

    committer = Committer(1, on_durable)
    writer = ThreadWriter(MemoryLog(), committer)
    committer.append(entries(1, 1))
    committer.flush(writer)
    with trio.fail_after(60):
        await reported.wait()
    await writer.close()

    assert committer.durable_position == 2
    assert threads_are_loop == [True]


async def test_who_is_awake_hears_of_it_without_the_ring() -> None:
    """A pass of the hot lane looks by itself; the ring that comes then brings nothing new."""
    durable: list[int] = []
    committer = committer_with(durable)
    writer = ThreadWriter(MemoryLog(), committer)
    committer.append(entries(1, 1))
    committer.flush(writer)
    ends_s = time.monotonic() + 60
    while committer.durable_position < 2:  # no task runs in the meantime
        assert time.monotonic() < ends_s
        committer.look()
    assert durable == [2]
    await trio.testing.wait_all_tasks_blocked(0.01)
    await writer.close()

    assert durable == [2]


async def test_what_something_waits_for_is_written_at_the_end_of_the_pass() -> None:
    """No task has to wake for it. What nothing waits for may lie."""
    committer = committer_with([])
    writer = ThreadWriter(MemoryLog(), committer)
    current_pass = Pass()
    current_pass.start(committer.flush_each_pass(writer))
    committer.append(entries(1), is_awaited=False)
    await trio.lowlevel.checkpoint()
    assert committer.statistics().batches_count == 0

    committer.append(entries(1, 1))
    assert committer.statistics().batches_count == 0
    await trio.lowlevel.checkpoint()
    assert committer.statistics().batches_count == 1
    assert committer.statistics().records_count == 3
    current_pass.stop()
    await writer.close()


async def test_a_writer_that_may_wake_tasks_is_left_to_a_task() -> None:
    """At the end of a pass the loop knows already for how long it will wait."""
    committer = committer_with([])
    assert committer.flush_each_pass(ManualWriter(committer)) is None
    assert not committer.is_flushed_each_pass


async def test_a_ring_in_the_moment_of_the_end_harms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task that hears it is woken in the same step as the one that closes the pipe."""
    ended_on, ends_on = os.pipe()

    async def joined(_: object) -> None:
        await trio.lowlevel.wait_readable(ended_on)

    monkeypatch.setattr(committer_module, "in_thread", joined)
    for _ in range(20):  # the order of tasks in a step is random
        writer = ThreadWriter(MemoryLog(), committer_with([]))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.close)
            await trio.testing.wait_all_tasks_blocked()
            os.write(ends_on, b"!")
            writer._ring()
        writer._writer.close()
        await trio.testing.wait_all_tasks_blocked()
        os.read(ended_on, 1)
    os.close(ended_on)
    os.close(ends_on)


class Ear:
    """Who hears the log's bell in the thread's place."""

    def __init__(self) -> None:
        self.bells: dict[int, Callable[[], None]] = {}

    def listen(self, number: int, hear: Callable[[], None]) -> None:
        self.bells[number] = hear

    def listen_no_more(self, number: int) -> None:
        del self.bells[number]


async def test_a_listener_hears_the_bell_until_it_says_that_it_does_no_longer() -> None:
    durable: list[int] = []
    committer = committer_with(durable)
    ear = Ear()
    assert committer.let_hear(ear)
    assert not committer.let_hear(Ear()), "one hears it"
    writer = ThreadWriter(MemoryLog(), committer)
    await trio.testing.wait_all_tasks_blocked()
    committer.append(entries(1, 1))
    committer.flush(writer)
    ((bell, hear),) = ear.bells.items()
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(bell)
    assert durable == [], "no task hears it"
    hear()
    assert durable == [2]

    committer.let_hear(None)
    committer.append(entries(1))
    committer.flush(writer)
    with trio.fail_after(60):
        while durable != [2, 3]:
            await trio.lowlevel.checkpoint()
    await writer.close()


async def test_a_bell_that_is_closed_is_heard_no_more() -> None:
    committer = committer_with([])
    ear = Ear()
    committer.let_hear(ear)
    writer = ThreadWriter(MemoryLog(), committer)
    await trio.testing.wait_all_tasks_blocked()
    assert len(ear.bells) == 1
    await writer.close()

    assert ear.bells == {}


async def test_the_thread_reports_a_failure() -> None:
    log = MemoryLog()
    log.close()
    committer = committer_with([])
    writer = ThreadWriter(log, committer)
    committer.append(entries(1))
    committer.flush(writer)

    with trio.fail_after(60):
        await committer.failed.wait()
    await writer.close()

    assert isinstance(committer.failure, LogFailed)


async def test_closing_reports_what_was_written_last() -> None:
    durable: list[int] = []
    committer = committer_with(durable)
    writer = ThreadWriter(MemoryLog(), committer)
    for number in range(1, 101):
        committer.append(entries(number))
        committer.flush(writer)
    await writer.close()

    assert committer.durable_position == committer.position
    assert durable == sorted(set(durable))


async def test_what_nobody_waits_for_lies_for_a_while(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    committer = committer_with([])
    writer = ManualWriter(committer)
    nursery.start_soon(committer.run, writer)
    committer.append(entries(1), is_awaited=False)
    await trio.sleep(LINGER_S / 2)
    committer.append(entries(2), is_awaited=False)
    assert writer.waiting == []
    await trio.sleep(LINGER_S / 2 + 0.001)
    assert [len(batch) for batch in writer.waiting] == [2]
    assert not committer.is_wanted


@pytest.mark.parametrize("how", ["append", "wait", "room", "much"])
async def test_it_goes_as_soon_as_something_waits_for_it(
    nursery: trio.Nursery, autojump_clock: MockClock, how: str
) -> None:
    committer = committer_with([])
    writer = ManualWriter(committer)
    nursery.start_soon(committer.run, writer)
    committer.append(entries(1), is_awaited=False)
    await trio.testing.wait_all_tasks_blocked()
    assert writer.waiting == []
    began_s = trio.current_time()
    if how == "append":
        committer.append(entries(2))
    elif how == "wait":
        nursery.start_soon(committer.wait_durable)
    elif how == "room":
        nursery.start_soon(committer.wait_room, 1)
    else:
        committer.append(entries(LINGER_LIMIT_BYTES), is_awaited=False)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == began_s
    assert len(writer.waiting) == 1
    committer.durable(committer.position)
    await trio.testing.wait_all_tasks_blocked()
    # What comes later lies again, and is flushed with what its caller waits for.
    committer.append(entries(3), is_awaited=False)
    await trio.testing.wait_all_tasks_blocked()
    assert len(writer.waiting) == 1
    committer.is_flushed_by_caller = True
    committer.append(entries(4))
    committer.is_flushed_by_caller = False
    assert committer.is_wanted
    committer.flush(writer)
    assert [len(batch) for batch in writer.waiting[1:]] == [2]

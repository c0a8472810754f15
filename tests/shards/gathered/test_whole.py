"""What is known of a server of several processes as a whole, and what is said while one is away."""

import math

import pytest
import trio
from trio.testing import MockClock

from tests.shards.mesh.world import World, until, world
from tests.shards.stage import EPOCH_MS, FAR_MS
from troth.core.commands import AcquireLock, CompletePromise, CreatePromise
from troth.core.failures import FailureKind, Failures
from troth.core.model import PENDING, RESOLVED, PromiseState
from troth.shards.errors import OutOfReach
from troth.shards.gathered.joined_series import SeriesPart, joined, last_values
from troth.shards.gathered.whole import AllProcesses
from troth.shards.gathering import SearchBounds
from troth.shards.surveys.series import SeriesBook, SeriesKind, SeriesView

ALL_STATES = tuple(PromiseState)


def wholes(server: World) -> list[AllProcesses]:
    """Return what each process says of the whole server."""
    return [AllProcesses(one.mesh.calls, one.shards, SeriesBook()) for one in server.processes]


async def fill(server: World, count: int, prefix: str = "made") -> list[str]:
    """Create promises in all groups, in turns; their ids in the order of creation."""
    ids = []
    for number in range(count):
        group = number % len(server.processes)
        ids.append(server.id_of(group, f"{prefix}-{number}"))
        await server.call(number % 2, CreatePromise(ids[-1], FAR_MS))
        await trio.sleep(0.002)
    return ids


async def test_pages_over_groups_are_in_order_and_complete_while_promises_are_made(
    autojump_clock: MockClock,
) -> None:
    async with world(3, delay_s=0.005) as server:
        made = await fill(server, 40)
        for oldest_first in (False, True):
            found: list[str] = []
            before: int | None = None
            page_count = 0
            while True:
                page, before = await server.processes[1].shards.search_promises(
                    "made*", ALL_STATES, {}, 7, before, "", SearchBounds(oldest_first=oldest_first)
                )
                serials = [one.serial for one in page]
                assert serials == sorted(serials, reverse=not oldest_first)
                found += [one.id for one in page]
                if before is None:
                    break
                page_count += 1
                if not oldest_first:
                    await fill(server, 3, f"made-later-{page_count}")
            expected = made if oldest_first else made[::-1]
            assert [one for one in found if one in set(made)] == expected
            assert len(found) == len(set(found))


async def test_a_page_is_refused_while_a_group_is_away(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        await fill(server, 4)
        server.cut_off(1)
        with trio.fail_after(60):
            await until(lambda: not server.processes[0].mesh.calls.linked)
        with pytest.raises(OutOfReach):
            await server.processes[0].shards.search_promises("*", ALL_STATES, {}, 10, None)
        (whole, _) = wholes(server)
        with pytest.raises(OutOfReach):
            await whole.numbers()


async def test_heartbeats_count_the_locks_of_all_groups(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        for group in range(3):
            name = server.id_of(group, "lock")
            await server.call(0, AcquireLock(name, "execution", "worker", 60_000))
        for process in server.processes:
            assert await process.shards.heartbeat_locks("worker") == 3


async def test_numbers_are_of_all_groups(autojump_clock: MockClock) -> None:
    async with world(3) as server:
        made = await fill(server, 9)
        await server.call(2, CompletePromise(made[0], RESOLVED))
        for whole in wholes(server):
            numbers = await whole.numbers()
            assert numbers.counts.promises[PENDING] == 8
            assert numbers.counts.promises[RESOLVED] == 1
            assert 0 < numbers.oldest_serial < numbers.largest_serial


async def test_failures_of_all_groups_are_listed_in_the_order_of_time(
    autojump_clock: MockClock,
) -> None:
    async with world(3) as server:
        for process in server.processes:
            process.shards.failures = Failures(group=process.place.process)
            for shard in process.shards.each():
                shard.machine.failures = process.shards.failures
        made = await fill(server, 9)
        for name in made:
            await server.call(0, CompletePromise(name, PromiseState.REJECTED))
            await trio.sleep(0.002)
        whole = wholes(server)[0]
        first, has_more = await whole.failures(list(FailureKind), 5, None, "")
        assert has_more
        assert [one.subject for one in first] == made[:3:-1]
        rest, has_more = await whole.failures(list(FailureKind), 5, first[-1].number, "")
        assert not has_more
        assert [one.subject for one in rest] == made[3::-1]
        assert await whole.failures(list(FailureKind), 5, None, "other") == ([], False)
        assert first[0].number < 2**53
        seen: dict[int, int] = {}
        assert [one.subject for one in await whole.later_failures(seen)] == made
        assert await whole.later_failures(seen) == []
        await server.call(0, CreatePromise("late", FAR_MS))
        await server.call(0, CompletePromise("late", PromiseState.REJECTED))
        assert [one.subject for one in await whole.later_failures(seen)] == ["late"]


def test_numbers_of_failures_are_in_order_whatever_the_clock_does() -> None:
    failures = Failures(group=3)
    for at in (EPOCH_MS, EPOCH_MS + 10**11, EPOCH_MS + 10**11, EPOCH_MS, *[EPOCH_MS + 10**11] * 9):
        failures.note(FailureKind.LEASE, at, "task", "late")
    found, _ = failures.newest([FailureKind.LEASE], 100)
    numbers = [one.number for one in reversed(found)]
    assert numbers == sorted(set(numbers))
    assert {number % 1024 for number in numbers} == {3}


def test_series_of_processes_are_added_up_step_by_step() -> None:
    rate, peak, mean = "per second", "ms", "records"
    one = SeriesPart(
        1_000,
        1_000,
        1_000,
        [
            SeriesView("made", rate, [1.0, 2.0, 3.0]),
            SeriesView("sync", peak, [5.0, 1.0, 9.0]),
            SeriesView("batch", mean, [2.0, math.nan, 4.0]),
        ],
    )
    other = SeriesPart(
        2_300,
        2_300,
        1_000,
        [
            SeriesView("made", rate, [10.0, 20.0]),
            SeriesView("sync", peak, [7.0, 2.0]),
            SeriesView("batch", mean, [6.0, 8.0]),
        ],
    )
    found = joined([one, other], 0)
    assert (found.began_ms, found.first_at) == (1_000, 1_000)
    values = {view.name: view.values for view in found.views}
    assert values == {"made": [1.0, 12.0, 23.0], "sync": [5.0, 7.0, 9.0], "batch": [2.0, 6.0, 6.0]}
    later = joined([one, other], 2_000)
    assert later.first_at == 3_000
    assert [view.values for view in later.views] == [[23.0], [9.0], [6.0]]
    assert last_values([one, other]) == {"made": 23.0, "sync": 9.0, "batch": 6.0}


def test_the_newest_step_waits_for_all_processes() -> None:
    one = SeriesPart(1_000, 1_000, 1_000, [SeriesView("made", "per second", [1.0, 1.0, 1.0])])
    other = SeriesPart(1_000, 1_000, 1_000, [SeriesView("made", "per second", [1.0, 1.0])])
    assert joined([one, other], 0).views[0].values == [2.0, 2.0]


async def test_series_are_gathered(autojump_clock: MockClock) -> None:
    async with world(2) as server:
        books = [SeriesBook(), SeriesBook()]
        for number, book in enumerate(books):
            book.began_ms = EPOCH_MS
            book.declare("made", SeriesKind("per second"))
            for second in range(3):
                book.add(second, {"made": float(second + number)})
        both = [
            AllProcesses(process.mesh.calls, process.shards, book)
            for process, book in zip(server.processes, books, strict=True)
        ]
        found = await both[1].series("1s", 0)
        assert found.first_at == EPOCH_MS
        assert found.views[0].values == [1.0, 3.0, 5.0]
        assert await both[0].last_series() == {"made": 5.0}


def test_series_that_have_not_begun_add_nothing() -> None:
    """A process that has just started has no values, or does not know them."""
    one = SeriesPart(1_000, 1_000, 1_000, [SeriesView("made", "per second", [])])
    other = SeriesPart(1_000, 1_000, 1_000, [SeriesView("made", "per second", [math.nan, 2.0])])
    assert last_values([one, other]) == {"made": 2.0}
    unknown = SeriesPart(1_000, 1_000, 1_000, [SeriesView("made", "per second", [math.nan])])
    (value,) = last_values([unknown, unknown]).values()
    assert math.isnan(value)
    assert last_values([one]) == {}

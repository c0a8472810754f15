"""Checkpoints of running shards: when they are made, and what a crash between their steps leaves.

The disk is simulated, the store in memory outlives crashes, and the log writes at once unless a
test holds it. A scripted run is crashed at every step of each of its checkpoints.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.twins.memory_store import MemoryStore
from tests.twins.simulated_files import SimulatedFiles
from troth.core import commands as c
from troth.core.limits import CHECKPOINT_WRITER_WAIT_MS
from troth.core.model import PromiseState, TaskKind
from troth.core.state.captures import Capture
from troth.persistence.checkpoints.checkpoints import Checkpoints, CheckpointStatistics
from troth.persistence.checkpoints.rows import PROMISES
from troth.persistence.errors import CheckpointDamaged, CheckpointFailed
from troth.persistence.wal.log import NewRecord
from troth.persistence.wal.segmented_log import SegmentedLog
from troth.shards.committer import BatchWriter, Committer
from troth.shards.errors import StorageFailed
from troth.shards.shards import Shards
from troth.shards.upkeep.checkpointer import Checkpointer

from .simulated_storage import SimulatedStorage
from .stage import FAR_MS, WORKER, Outgoing, id_in, make_shards, matching, settle

SHARD_COUNT = 3
POINTS = ("captured", "durable", "written", "renewed", "evicted", "trimmed")
ALL = tuple(PromiseState)


class Crashed(Exception):
    """The end of a life."""


class LogWriter:
    """Writes each batch at once, or when it is let go."""

    def __init__(self, log: SegmentedLog, committer: Committer) -> None:
        self.is_held = False
        self._log = log
        self._committer = committer
        self._waiting: list[Sequence[NewRecord]] = []

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._waiting.append(batch)
        if not self.is_held:
            self.let_go()

    def let_go(self) -> None:
        """Write what waits."""
        self.is_held = False
        while self._waiting:
            self._log.append(self._waiting.pop(0), self._log.next_sequence)
            self._committer.durable(self._log.next_sequence - 1)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


class Watched:
    """The real checkpoints, with somebody who is told of each step."""

    def __init__(self, checkpoints: Checkpoints, at: Callable[[str], None]) -> None:
        self._checkpoints = checkpoints
        self._at = at
        self.writer_problem: str | None = None
        self.has_writer = False

    def write(self, captures: list[Capture], pause: Callable[[], None]) -> None:
        self._at("durable")
        self._checkpoints.write(captures, pause)
        self.has_writer = True
        self._at("written")

    def renew(self) -> None:
        self._checkpoints.renew()
        self._at("renewed")

    def end_writer(self) -> None:
        assert self.has_writer, "there is none"
        self.has_writer = False

    @property
    def is_small(self) -> bool:
        return self._checkpoints.is_small

    def verify(self, pause: Callable[[], None]) -> int:
        return self._checkpoints.verify(pause)

    @property
    def filter_is_stale(self) -> bool:
        return self._checkpoints.filter_is_stale

    def renew_filter(self, pause: Callable[[], None]) -> int:
        return self._checkpoints.renew_filter(pause)

    @property
    def position(self) -> int:
        return self._checkpoints.position

    def statistics(self) -> CheckpointStatistics:
        return self._checkpoints.statistics()


@dataclass
class Disk:
    """What outlives the server."""

    files: SimulatedFiles = field(default_factory=SimulatedFiles)
    store: MemoryStore = field(default_factory=MemoryStore)


@dataclass
class Life:
    """A running server with its checkpointer; `at` is called at every step of a checkpoint."""

    disk: Disk
    storage: SimulatedStorage
    shards: Shards
    checkpointer: Checkpointer
    writer: LogWriter
    outgoing: Outgoing
    records_count: int
    store: Watched
    at: Callable[[str], None] = lambda _: None

    @property
    def segments_count(self) -> int:
        """How many segments the log has."""
        return self.storage.log.statistics().segments_count


@asynccontextmanager
async def life(
    disk: Disk, *, interval_ms: int = 10**9, log_bytes: int = 10**9
) -> AsyncIterator[Life]:
    """Start a server on what the disk holds; the end of the block is a power cut."""
    lives: list[Life] = []

    def at(point: str) -> None:
        lives[0].at(point)

    def writer_for(log: SegmentedLog, committer: Committer) -> BatchWriter:
        writers.append(LogWriter(log, committer))
        return writers[0]

    def trim(to_sequence: int) -> None:
        at("evicted")
        storage.trim(to_sequence)
        at("trimmed")

    writers: list[LogWriter] = []
    storage = SimulatedStorage(
        disk.files, SHARD_COUNT, writer_for, segment_bytes=4096, store=disk.store
    )
    assert storage.checkpoints is not None
    outgoing = Outgoing()
    shards = make_shards(SHARD_COUNT, outgoing)
    recovery = shards.recover(storage)
    watched = Watched(storage.checkpoints, at)
    checkpointer = Checkpointer(
        shards._shards,
        shards.committer,
        watched,
        trim,
        interval_ms=interval_ms,
        log_bytes=log_bytes,
        use_thread=False,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(shards.run, storage.make_writer)
        lives.append(
            Life(
                *(disk, storage, shards, checkpointer, writers[0], outgoing),
                recovery.records_count,
                watched,
            )
        )
        try:
            yield lives[0]
        finally:
            nursery.cancel_scope.cancel()
    disk.files = disk.files.crash(Random(0))


def script() -> Iterator[c.Command | None]:
    """Commands of every kind; None stands for a checkpoint."""
    root, leaf, other = (id_in(index, SHARD_COUNT, name) for index, name in enumerate("rlo"))
    tags = {"resonate:invoke": WORKER, "kind": "root"}
    yield c.CreatePromise(root, FAR_MS, tags=tags)
    yield c.CreatePromise(leaf, FAR_MS, tags={"kind": "leaf"})
    yield c.CreateCallback(leaf, root, FAR_MS, WORKER)
    yield c.CreateSubscription(leaf, "s", FAR_MS, WORKER)
    yield c.AcquireLock("resource", "execution", "worker", 10**6)
    yield None
    yield c.CreatePromise(other, FAR_MS, tags={"kind": "leaf"})
    yield c.ClaimTask(f"__invoke:{root}", 1, "worker", 10**6)
    yield c.CompletePromise(leaf, PromiseState.RESOLVED)
    yield None
    yield c.CompleteTask(f"__invoke:{root}", 1)
    yield c.CompletePromise(other, PromiseState.REJECTED)
    yield c.CreateSchedule("schedule", "0 0 1 1 *", "x.{{.timestamp}}", 1000)
    yield c.PauseSchedule("schedule")
    yield c.AcquireLock("resource", "execution", "another worker", 10**7)
    yield None
    yield c.DeleteSchedule("schedule")
    yield c.ReleaseLock("resource", "execution")
    yield c.CreatePromise("late", FAR_MS)
    yield c.CompletePromise(root, PromiseState.RESOLVED)
    yield None
    yield None


async def seen(shards: Shards) -> dict[str, Any]:
    """All that the API shows, and the counts, of running shards."""
    found: dict[str, Any] = {}
    for size in (1, 2, 100):
        pages, before = [], None
        while True:
            page, before = await shards.search_promises("*", ALL, {}, size, before)
            pages += page
            if before is None:
                break
        found[f"by {size}"] = pages
    for tag in ("root", "leaf"):
        page, _ = await shards.search_promises("*", ALL[1:], {"kind": tag}, 10, None)
        found[tag] = page
    found["one by one"] = [(await shards.ask(c.ReadPromise(one.id))).promise for one in pages]
    found["schedules"] = (await shards.search_schedules("*", {}, 10, None))[0]
    counts = shards.statistics().shards
    for name in ("promises_count", "tasks_count", "locks_count", "callbacks_count"):
        found[name] = [getattr(one, name) for one in counts]
    found["outbox"] = sum(one.outbox_count for one in counts)
    states = [shard.machine.state for shard in shards._shards]
    found["locks"] = [state.locks for state in states]
    found["unfinished"] = sorted(
        (task.id, task.state, task.counter, task.process_id, task.expires_at)
        for state in states
        for task in state.tasks.values()
        if not task.is_final
    )
    return found


async def play(life: Life, steps: list[c.Command | None]) -> None:
    """Play a part of the script."""
    for step in steps:
        if step is None:
            await life.checkpointer.checkpoint()
        else:
            assert (await life.shards.ask(step)).code.status < 300, step
        await settle()


async def whole_run() -> tuple[dict[str, Any], list[int]]:
    """What is seen after a run without a crash, and where the script's checkpoints are."""
    steps = list(script())
    async with life(Disk()) as one:
        await play(one, steps)
        return await seen(one.shards), [place for place, step in enumerate(steps) if step is None]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_step_of_any_checkpoint_shows_nowhere(
    point: str,
    mock_clock: object,
) -> None:
    """Before, at once after, and at the end all is as without checkpoints and crashes."""
    expected, places = await whole_run()
    steps = list(script())
    for place in places:
        disk = Disk()
        async with life(disk) as first:
            await play(first, steps[:place])
            before = await seen(first.shards)
            await crash_in_checkpoint(first, point)
        async with life(disk) as second:
            await settle()
            assert await seen(second.shards) == before, f"{point} of the checkpoint at {place}"
            await play(second, steps[place:])
            assert await seen(second.shards) == expected
            assert second.storage.checkpoints is not None
            assert second.storage.checkpoints.verify() > 0
        async with life(disk) as third:
            await settle()
            assert await seen(third.shards) == expected


async def crash_in_checkpoint(first: Life, point: str) -> None:
    """Make a checkpoint up to a point."""
    if point == "captured":  # and never durable: nothing may be written of it
        first.writer.is_held = True
        commits_count = first.disk.store.commits_count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.shards.ask, c.CreatePromise("never", FAR_MS))
            await settle()
            nursery.start_soon(first.checkpointer.checkpoint)
            await settle()
            assert first.disk.store.commits_count == commits_count
            nursery.cancel_scope.cancel()
        return

    def at(reached: str) -> None:
        if reached == point:
            raise Crashed

    first.at = at
    with pytest.raises(Crashed):
        await first.checkpointer.checkpoint()


async def test_a_checkpoint_never_knows_more_than_the_log() -> None:
    """It waits until what it has captured is durable, and goes on then."""
    disk = Disk()
    async with life(disk) as one, trio.open_nursery() as nursery:
        one.writer.is_held = True
        nursery.start_soon(one.shards.ask, c.CreatePromise("a", FAR_MS))
        await settle()
        nursery.start_soon(one.checkpointer.checkpoint)
        await settle()
        assert disk.store.commits_count == 0
        one.writer.let_go()
        await settle()
        assert disk.store.commits_count == 1


async def fill(shards: Shards, count: int, name: str = "p") -> None:
    """Create and complete promises."""
    for number in range(count):
        await shards.ask(c.CreatePromise(f"{name}{number}", FAR_MS, tags={"n": name}))
        await shards.ask(c.CompletePromise(f"{name}{number}", PromiseState.RESOLVED))


async def test_a_start_reads_only_what_follows_the_checkpoint(autojump_clock: object) -> None:
    """The log is trimmed, memory holds what is pending, and a start reads the tail."""
    disk = Disk()
    async with life(disk) as one:
        await one.shards.ask(c.CreatePromise("waits", FAR_MS))
        await fill(one.shards, 60)
        assert one.segments_count > 2
        assert one.checkpointer.statistics().last_on_ms == 0
        await one.checkpointer.checkpoint()
        assert one.checkpointer.statistics().last_on_ms > 0
        assert one.checkpointer.statistics().durations_s.count == 1
        assert one.segments_count <= 2
        counts = one.shards.statistics().shards
        assert sum(shard.promises_in_memory_count for shard in counts) == 1
        assert sum(shard.promises_count for shard in counts) == 61
        assert one.checkpointer.statistics().evicted_count == 60
        await fill(one.shards, 2, "later")
    async with life(disk) as two:
        assert two.records_count == 4
        counts = two.shards.statistics().shards
        assert sum(shard.promises_in_memory_count for shard in counts) == 3
        page, _ = await two.shards.search_promises("*", ALL, {}, 100, None)
        assert len(page) == 63


async def test_one_is_made_when_the_log_has_grown_and_when_time_has_passed(
    autojump_clock: object,
) -> None:
    """And none when nothing has changed."""
    disk = Disk()
    async with (
        life(disk, interval_ms=5_000, log_bytes=3_000) as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(one.checkpointer.run)
        await trio.sleep(60)
        assert disk.store.commits_count == 0
        await fill(one.shards, 1)
        await trio.sleep(4)
        assert disk.store.commits_count == 0
        await trio.sleep(2)
        assert disk.store.commits_count == 1
        await fill(one.shards, 20, "q")
        await trio.sleep(0.1)
        assert disk.store.commits_count >= 2
        nursery.cancel_scope.cancel()


async def test_none_is_made_while_another_process_reads_the_last_one(
    autojump_clock: object,
) -> None:
    disk = Disk()
    async with life(disk, interval_ms=5_000) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.checkpointer.run)
        await fill(one.shards, 1)
        async with one.checkpointer.resting():
            await trio.sleep(60)
            assert disk.store.commits_count == 0
        await trio.sleep(1)
        assert disk.store.commits_count == 1
        nursery.cancel_scope.cancel()


async def test_the_last_checkpoint_drops_nothing_from_memory() -> None:
    """Nobody would have anything of that: the process ends."""
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 30)
        await one.checkpointer.checkpoint(is_last=True)
        counts = one.shards.statistics().shards
        assert sum(shard.promises_in_memory_count for shard in counts) == 30
        assert one.checkpointer.statistics().evicted_count == 0
        assert one.checkpointer.statistics().durations_s.count == 1
    async with life(disk) as two:
        assert two.records_count == 0
        assert len((await seen(two.shards))["by 100"]) == 30


async def test_what_writes_checkpoints_ends_when_none_follows(autojump_clock: object) -> None:
    """And not before: the next one is spared its start."""
    async with life(Disk(), interval_ms=10_000) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.checkpointer.run)
        await fill(one.shards, 1)
        await trio.sleep(11)
        assert one.store.has_writer
        await trio.sleep(CHECKPOINT_WRITER_WAIT_MS / 1000)
        assert not one.store.has_writer
        nursery.cancel_scope.cancel()


async def test_it_is_said_once_why_a_thread_has_written_what_another_process_should() -> None:
    async with life(Disk()) as one:
        with capture_logs() as logged:
            for problem in ("no memory", "no memory", None, "no memory"):
                one.store.writer_problem = problem
                await one.checkpointer.checkpoint()
    assert [one["reason"] for one in logged if "reason" in one] == ["no memory", "no memory"]


async def test_pages_stay_right_while_promises_move() -> None:
    """Searches between all steps of checkpoints, while promises complete, miss and repeat none."""
    disk = Disk()
    random = Random(5)
    async with life(disk) as one, trio.open_nursery() as nursery:
        known: set[str] = set()

        async def write() -> None:
            for number in range(150):
                await one.shards.ask(c.CreatePromise(f"p{number}", FAR_MS, tags={"n": "1"}))
                await one.shards.ask(c.CompletePromise(f"p{number}", PromiseState.RESOLVED))
                known.add(f"p{number}")
                for _ in range(random.randrange(20)):
                    await trio.lowlevel.checkpoint()

        async def check() -> None:
            while True:
                await one.checkpointer.checkpoint()

        async def search() -> None:
            final = ALL[1:]
            while len(known) < 150:
                before, must, found = None, set(known), []
                states, tags = random.choice(
                    ((ALL, {}), (final, {}), (final, {"n": "1"}), ((PromiseState.RESOLVED,), {}))
                )
                while True:
                    size = random.choice((1, 3, 100))
                    page, before = await one.shards.search_promises(
                        "p*", states, tags, size, before
                    )
                    found += [promise.id for promise in page]
                    if before is None:
                        break
                assert len(found) == len(set(found)), "a promise twice"
                assert must <= set(found), "a promise missing"
            nursery.cancel_scope.cancel()

        nursery.start_soon(write)
        nursery.start_soon(check)
        nursery.start_soon(search)
    assert disk.store.commits_count > 5


async def test_a_full_disk_ends_the_server_and_loses_nothing() -> None:
    """The failure comes out of the checkpointer; after a restart all is there."""
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 5)
        disk.store.fail_next = True
        with pytest.raises(CheckpointFailed, match="Nothing acknowledged was lost"):
            await one.checkpointer.checkpoint()
        before = await seen(one.shards)
    async with life(disk) as two:
        assert await seen(two.shards) == before
        await two.checkpointer.checkpoint()
        assert await seen(two.shards) == before


def rot(store: MemoryStore, table: str) -> None:
    """Flip a bit in every row of a table."""
    rotten = {
        key: value[:-1] + bytes([value[-1] ^ 1]) for key, value in store.tables[table].items()
    }
    store.tables = store.tables | {table: rotten}


@pytest.mark.parametrize("command", [c.ReadPromise("p0"), c.CreatePromise("p0", FAR_MS)])
async def test_a_row_that_has_rotted_ends_the_server(command: c.Command) -> None:
    """Whoever asks gets no answer, and nobody gets one after that."""
    disk = Disk()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  the whole life ends with it
        async with life(disk) as one:
            await fill(one.shards, 1)
            await one.checkpointer.checkpoint()
            rot(disk.store, PROMISES)
            assert one.storage.checkpoints is not None
            one.storage.checkpoints.renew()
            with pytest.raises(StorageFailed):
                await one.shards.ask(command)
            with pytest.raises(StorageFailed):
                await one.shards.ask(c.ReadPromise("other"))
    assert matching(caught.value, CheckpointDamaged)


async def test_a_rotten_leaf_of_a_claimed_task_ends_the_server() -> None:
    """The one read outside of a shard's turn fails stop too."""
    disk = Disk()
    root, leaf = id_in(0, SHARD_COUNT, "r"), id_in(1, SHARD_COUNT, "l")
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  the whole life ends with it
        async with life(disk) as one:
            for command in (
                c.CreatePromise(root, FAR_MS),
                c.CreatePromise(leaf, FAR_MS),
                c.CreateCallback(leaf, root, FAR_MS, WORKER),
                c.CompletePromise(leaf, PromiseState.RESOLVED),
            ):
                await one.shards.ask(command)
            await settle()
            await one.checkpointer.checkpoint()
            (message,) = one.outgoing.messages
            assert message.task.kind is TaskKind.RESUME
            rot(disk.store, PROMISES)
            assert one.storage.checkpoints is not None
            one.storage.checkpoints.renew()
            with pytest.raises(StorageFailed):
                await one.shards.ask(c.ClaimTask(message.task.id, 1, "worker", 1000))
    assert matching(caught.value, CheckpointDamaged)


async def test_a_store_that_has_rotted_is_refused_at_the_start() -> None:
    """A row of an index has no checksum of its own; the table's digest has."""
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 3)
        await one.checkpointer.checkpoint()
    rot(disk.store, "promises_by_serial")
    with pytest.raises(CheckpointDamaged, match="differ from those that were written"):
        async with life(disk):
            pass


async def test_a_large_store_is_verified_while_the_server_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a thread of its own; damage ends the server then."""
    disk = Disk()
    async with life(disk) as one:
        await fill(one.shards, 3)
        await one.checkpointer.checkpoint()
    monkeypatch.setattr("troth.persistence.checkpoints.checkpoints.SMALL_BYTES", -1)
    async with life(disk) as two, trio.open_nursery() as nursery:
        nursery.start_soon(two.checkpointer.run)
        with trio.fail_after(60):
            while not two.checkpointer.statistics().store.verified_count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    rot(disk.store, "promises_by_tag")
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  the whole life ends with it
        async with life(disk) as three:
            with trio.fail_after(60):
                await three.checkpointer.run()
    assert matching(caught.value, CheckpointDamaged)

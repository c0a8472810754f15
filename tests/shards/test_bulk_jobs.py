"""What drives bulk jobs: over crashes at every point, defects, overload and a failing log."""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from troth.core import records as r
from troth.core.bulk import (
    BulkAction,
    BulkCounts,
    BulkFilter,
    BulkJob,
    BulkState,
    BulkSubject,
)
from troth.core.commands import CreatePromise, CreateSubscription, ReadPromise
from troth.core.deciding import DecisionContext
from troth.core.limits import BULK_SLICE_COUNT
from troth.core.model import PromiseState
from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import LogRecord, NewRecord
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.bulk.pacing import JobPace
from troth.shards.committer import Committer
from troth.shards.errors import Overloaded, Stopping, StorageFailed
from troth.shards.shards import Shards
from troth.shards.surveys.tasks import TaskPage

from .stage import EPOCH_MS, FAR_MS, WORKER, Outgoing, make_shards, stage

SHARD_COUNT = 3
IDS = [f"order-{number}" for number in range(12)]
Batches = list[list[LogRecord]]


class NoTasks:
    """A server without tasks."""

    async def newest_tasks(self) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return (0,)

    async def tasks(self, *_: object) -> TaskPage:
        await trio.lowlevel.checkpoint()
        return TaskPage([], None)

    async def retry_all(self, _: Sequence[str], __: set[str]) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class KeepingWriter:
    """Makes each batch durable immediately, and keeps it."""

    committer: Committer
    batches: Batches
    position: int = field(init=False)

    def __post_init__(self) -> None:
        self.position = self.committer.durable_position

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self.batches.append([LogRecord(*record) for record in batch])
        self.position += len(batch)
        self.committer.durable(self.position)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class Life:
    """A server's life from what a log has; `ended` are the jobs whose end was told."""

    shards: Shards
    jobs: BulkJobs
    batches: Batches
    ended: list[BulkJob]

    async def wait_until_ended(self) -> None:
        """Wait until no job runs."""
        running = True
        while running:
            await trio.sleep(1)
            states = [one.job.state for one in self.jobs.all_progress()]
            running = BulkState.RUNNING in states

    async def states(self) -> dict[str, PromiseState]:
        """The states of the promises that there are."""
        replies = [await self.shards.ask(ReadPromise(name)) for name in IDS]
        return {one.promise.id: one.promise.state for one in replies if one.promise is not None}


@asynccontextmanager
async def life(batches: Batches) -> AsyncIterator[Life]:
    """Begin with what these batches say."""
    shards = make_shards(SHARD_COUNT, Outgoing())
    records = [record for batch in batches for record in batch]
    shards.replay(enumerate(records, start=1))
    shards.committer.begin(len(records) + 1)
    kept = list(batches)
    ended: list[BulkJob] = []

    async def tell(job: BulkJob) -> None:
        await trio.lowlevel.checkpoint()
        ended.append(job)

    jobs = BulkJobs(shards, NoTasks(), lambda: EPOCH_MS, tell)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(shards.run, partial(KeepingWriter, batches=kept)))
        await nursery.start(jobs.run)
        yield Life(shards, jobs, kept, ended)
        nursery.cancel_scope.cancel()


async def job_of(jobs: BulkJobs, **fields: Any) -> BulkJob:
    """A job that cancels all that is pending, two at a time."""
    given: dict[str, Any] = {
        "id": "j",
        "revision": 1,
        "created_on": EPOCH_MS,
        "account_id": "",
        "made_by": "anna",
        "subject": BulkSubject.PROMISES,
        "action": BulkAction.CANCEL,
        "filter": BulkFilter("*", ("PENDING",)),
        "asked": {"id": "*"},
        "rate_count": 40,
        "through": await jobs.newest(BulkSubject.PROMISES),
    }
    return BulkJob(**{**given, **fields})


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Defects that are planted are logged."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


async def run_once() -> Batches:
    """The log of a job from before its start to after its end."""
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.shards.ask(CreateSubscription(IDS[0], "s", FAR_MS, WORKER))
        await first.jobs.start(await job_of(first.jobs))
        await first.wait_until_ended()
        assert [one.counts for one in first.ended] == [BulkCounts(len(IDS))]
        return first.batches


def kinds(batches: Batches) -> list[type[r.Record]]:
    return [type(r.decode(record.body)) for batch in batches for record in batch]


async def test_a_crash_at_any_point_leaves_a_job_that_goes_on(autojump_clock: MockClock) -> None:
    """Whatever batch was the last: in the end all is done, once, and counted right."""
    batches = await run_once()
    began = kinds(batches).index(r.EntryWritten)
    assert kinds(batches).count(r.BulkClosed) == SHARD_COUNT
    told_counts = set()
    for kept_count in range(began, len(batches) + 1):
        async with life(batches[:kept_count]) as second:
            found = kinds(batches[:kept_count])
            at_first = second.jobs.progress("j")
            if at_first is not None:
                done_count = found.count(r.PromiseCompleted)
                assert at_first.counts.done_count == done_count, "it says so from the start"
            await second.wait_until_ended()
            states = set((await second.states()).values())
            if r.EntryWritten not in found:
                assert states <= {PromiseState.PENDING}
                assert second.jobs.progress("j") is None
                continue
            assert states == {PromiseState.REJECTED_CANCELED}
            progress = second.jobs.progress("j")
            assert progress is not None
            assert progress.job.state is BulkState.FINISHED
            assert (progress.counts, progress.matched_count) == (BulkCounts(len(IDS)), len(IDS))
            everything = kinds(second.batches)
            assert everything.count(r.PromiseCompleted) == len(IDS)
            assert not any(shard.machine.state.bulk_parts for shard in second.shards._shards)
            told_counts.add(len(second.ended))
    assert told_counts == {0, 1}, "an end is told of again only if it may not have been"


async def test_a_stopped_job_stays_stopped(autojump_clock: MockClock) -> None:
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.jobs.start(await job_of(first.jobs))
        await trio.sleep(0.2)
        job = await first.jobs.stop("j")
        assert job is not None
        assert job.state is BulkState.STOPPED
        states = await first.states()
        assert job.counts == BulkCounts(list(states.values()).count(PromiseState.REJECTED_CANCELED))
        assert 0 < job.counts.done_count < len(IDS)
        assert await first.jobs.stop("j") is None
    async with life(first.batches) as second:
        await trio.sleep(10)
        assert await second.states() == states
        progress = second.jobs.progress("j")
        assert progress is not None
        assert progress.job == job


async def test_a_dry_run_that_a_crash_cut_counts_again(autojump_clock: MockClock) -> None:
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.jobs.start(await job_of(first.jobs, dry_run=True))
    async with life(first.batches) as second:
        await second.wait_until_ended()
        (job,) = second.ended
        assert (job.counts, job.matched_count) == (BulkCounts(len(IDS)), len(IDS))
        assert set(job.examples) == set(IDS)
        assert set((await second.states()).values()) == {PromiseState.PENDING}


async def test_a_defect_with_one_promise_costs_that_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = DecisionContext.complete

    def failing(context: DecisionContext, record: r.PromiseCompleted) -> Any:
        if record.id in (IDS[3], IDS[7]):
            raise ZeroDivisionError
        return complete(context, record)

    monkeypatch.setattr(DecisionContext, "complete", failing)
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.jobs.start(await job_of(first.jobs, rate_count=1_000))
        await first.wait_until_ended()
        (job,) = first.ended
        assert (job.state, job.counts) == (BulkState.FINISHED, BulkCounts(len(IDS) - 2, 2))
        states = await first.states()
        pending = {name for name, state in states.items() if state is PromiseState.PENDING}
        assert pending == {IDS[3], IDS[7]}


async def test_a_job_that_cannot_even_look_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Any:
        raise ZeroDivisionError

    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        monkeypatch.setattr("troth.core.decisions.promises.find", failing)
        await first.jobs.start(await job_of(first.jobs))
        await first.wait_until_ended()
        (job,) = first.ended
        assert job.state is BulkState.FAILED
        assert job.problem == "shard 0 could not count; see the server's log"


async def test_a_job_waits_while_the_shards_are_overloaded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        ask_shard = Shards.ask_shard
        refused: list[object] = []

        async def overloaded(shards: Shards, index: int, command: Any) -> Any:
            if len(refused) < 5:
                refused.append(command)
                raise Overloaded
            return await ask_shard(shards, index, command)

        monkeypatch.setattr(Shards, "ask_shard", overloaded)
        began_s = trio.current_time()
        await first.jobs.start(await job_of(first.jobs))
        assert trio.current_time() - began_s >= 5
        await first.wait_until_ended()
        assert first.ended[0].counts == BulkCounts(len(IDS))


async def test_a_failing_log_refuses_the_job(autojump_clock: MockClock) -> None:
    """And nothing is left of it that would look as if it ran."""
    with pytest.RaisesGroup(LogFailed, flatten_subgroups=True):
        async with stage(1) as world:

            async def tell(_: BulkJob) -> None:
                raise AssertionError("it never began")

            jobs = BulkJobs(world.shards, NoTasks(), lambda: EPOCH_MS, tell)
            world.nursery.start_soon(jobs.run)
            await world.write_all()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def start() -> None:
                    with pytest.raises(StorageFailed):
                        await jobs.start(await job_of(jobs))
                    assert jobs.all_progress() == []

                await trio.testing.wait_all_tasks_blocked()
                world.writer.fail()


async def test_a_log_that_fails_at_the_start_denies_no_job(autojump_clock: MockClock) -> None:
    """Which jobs there are is not known then: nobody is told that there is none."""
    with pytest.RaisesGroup(LogFailed, flatten_subgroups=True):
        async with stage(1) as world:

            async def tell(_: BulkJob) -> None:
                raise AssertionError("none has ended")

            jobs = BulkJobs(world.shards, NoTasks(), lambda: EPOCH_MS, tell)
            job = await job_of(jobs)
            world.writer.fail()
            with trio.CancelScope(shield=True):
                await world.nursery.start(jobs.run)
                with pytest.raises(StorageFailed):
                    jobs.progress("j")
                with pytest.raises(StorageFailed):
                    jobs.all_progress()
                with pytest.raises(StorageFailed):
                    await jobs.stop("j")
                with pytest.raises(StorageFailed):
                    await jobs.start(job)


async def test_the_pace_is_what_was_asked(autojump_clock: MockClock) -> None:
    """A slice a twentieth of a second at most, and never more than the rate in the long run."""
    pace = JobPace(100)
    assert pace.limit_count == 5
    began_s = trio.current_time()
    for _ in range(40):
        await pace.rest(trio.current_time(), 5, trio.Event())
    assert trio.current_time() - began_s == pytest.approx(2.0)
    assert pace.rate == pytest.approx(100)
    slow, fast = JobPace(1), JobPace(20_000)
    assert (slow.limit_count, fast.limit_count) == (1, BULK_SLICE_COUNT)


async def test_a_job_rests_as_long_as_its_slice_took(autojump_clock: MockClock) -> None:
    """So it takes half of the time at most, however fast it was asked to go."""
    pace = JobPace(20_000)
    began_s = trio.current_time()
    await trio.sleep(0.05)
    await pace.rest(began_s, 50, trio.Event())
    assert trio.current_time() - began_s == pytest.approx(0.1)
    stopping = trio.Event()
    stopping.set()
    assert not await pace.rest(trio.current_time(), 50, stopping)


async def test_a_job_that_is_started_when_the_server_has_ended_is_refused(
    autojump_clock: MockClock,
) -> None:
    async with life([]) as first:
        jobs = first.jobs
    with pytest.raises(Stopping):
        await jobs.start(await job_of(jobs))
    assert jobs.all_progress() == []

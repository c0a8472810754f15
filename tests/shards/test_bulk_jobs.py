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
    Skip,
)
from troth.core.codes import Code
from troth.core.commands import (
    AdvanceBulk,
    Command,
    CompletePromise,
    CreatePromise,
    CreateSubscription,
    ReadPromise,
    RunBulk,
)
from troth.core.deciding import DecisionContext
from troth.core.limits import (
    BULK_JOBS_KEPT_COUNT,
    BULK_JOBS_KEPT_MS,
    BULK_JOBS_LIMIT_COUNT,
    BULK_SLICE_COUNT,
)
from troth.core.model import PENDING, PromiseState
from troth.core.replies import Reply
from troth.core.workflows import execute_key
from troth.persistence.errors import LogFailed
from troth.persistence.wal.log import LogRecord, NewRecord
from troth.shards.bulk.jobs import FORGET_INTERVAL_S, BulkJobs, TooManyJobs
from troth.shards.bulk.pacing import JobPace
from troth.shards.committer import Committer
from troth.shards.errors import (
    LinkBroken,
    OutOfReach,
    Overloaded,
    ShardsError,
    Stopping,
    StorageFailed,
)
from troth.shards.shards import Shards
from troth.shards.surveys.rows import TaskFamily, TaskRow
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


class Stalled(NoTasks):
    """A server with stalled tasks, in pages of two, the newest first."""

    def __init__(self, count: int) -> None:
        self.rows = [row(number) for number in range(count)]
        self.sent: list[str] = []

    async def tasks(self, *asked: Any) -> TaskPage:
        await trio.lowlevel.checkpoint()
        _, _, positions = asked
        end = min(positions[0], len(self.rows))
        rows = self.rows[max(end - 2, 0) : end]
        return TaskPage(rows[::-1], [end - 2] if end > 2 else None)

    async def newest_tasks(self) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return (len(self.rows),)

    async def retry_all(self, keys: Sequence[str], sent: set[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += keys
        sent.update(key for key in keys if not key.endswith("1"))


def row(number: int) -> TaskRow:
    """One task that waits for its receiver; those of the envelope protocol have odd numbers."""
    family = TaskFamily.ENVELOPE if number % 2 else TaskFamily.REST
    return TaskRow(f"t{number}", family, "invoke", "stalled", f"p{number}", "r", 1, 0, FAR_MS)


RETRY: dict[str, Any] = {
    "subject": BulkSubject.TASKS,
    "action": BulkAction.RETRY,
    "filter": BulkFilter("*", ("stalled",)),
    "through": (6,),
}


async def test_a_job_on_tasks_has_each_stalled_one_sent_again(autojump_clock: MockClock) -> None:
    """One that waits no longer is counted as passed over."""
    async with life([]) as first:
        first.jobs._tasks = tasks = Stalled(6)
        assert await first.jobs.newest(BulkSubject.TASKS) == (6,)
        await first.jobs.start(await job_of(first.jobs, **RETRY))
        await first.wait_until_ended()
        (job,) = first.ended
        assert (job.matched_count, job.state) == (6, BulkState.FINISHED)
        assert job.counts == BulkCounts(5, 0, {Skip.NOT_WAITING.value: 1})
        assert tasks.sent == [execute_key(f"t{n}") if n % 2 else f"t{n}" for n in range(6)][::-1]


@pytest.mark.parametrize("fields", [{**RETRY, "through": (100,)}, {}])
@pytest.mark.parametrize("acted_s", [0.0, 0.2])
async def test_a_job_is_stopped_while_it_counts_and_while_it_acts(
    fields: dict[str, Any], acted_s: float, autojump_clock: MockClock
) -> None:
    """What it has done by then stays done, and is told."""
    async with life([]) as first:
        first.jobs._tasks = Stalled(100)
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.jobs.start(await job_of(first.jobs, **fields))
        await trio.sleep(acted_s)
        job = await first.jobs.stop("j")
        assert job is not None
        assert job.state is BulkState.STOPPED
        assert (job.matched_count is None) is (acted_s == 0)
        assert job.counts is not None
        assert (job.counts.done_count == 0) is (acted_s == 0)


async def test_what_others_have_changed_since_the_count_is_told_as_skipped(
    autojump_clock: MockClock,
) -> None:
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        await first.jobs.start(await job_of(first.jobs, rate_count=10))
        await trio.sleep(0.3)
        pending = [name for name, state in (await first.states()).items() if state is PENDING]
        for name in pending[:3]:
            await first.shards.ask(CompletePromise(name, PromiseState.RESOLVED))
        await first.wait_until_ended()
        (job,) = first.ended
        assert job.counts == BulkCounts(len(IDS) - 3, 0, {Skip.CHANGED.value: 3})


async def test_only_so_many_jobs_run_at_a_time(autojump_clock: MockClock) -> None:
    async with life([]) as first:
        for name in IDS:
            await first.shards.ask(CreatePromise(name, FAR_MS))
        for number in range(BULK_JOBS_LIMIT_COUNT):
            await first.jobs.start(await job_of(first.jobs, id=f"j{number}", rate_count=1))
        with pytest.raises(TooManyJobs):
            await first.jobs.start(await job_of(first.jobs))
        assert first.jobs.progress("j") is None
        await first.jobs.stop("j0")
        await first.jobs.start(await job_of(first.jobs))
        assert first.jobs.progress("j") is not None


async def test_jobs_that_ended_long_ago_are_forgotten(autojump_clock: MockClock) -> None:
    """And of those that ended lately only so many are kept."""
    async with life([]) as first:
        for number in range(BULK_JOBS_KEPT_COUNT + 3):
            first.jobs._now_ms = lambda number=number: EPOCH_MS + number  # type: ignore[misc]
            await first.jobs.start(await job_of(first.jobs, id=f"j{number}"))
            await trio.sleep(1)
        kept = [one.job.id for one in first.jobs.all_progress()]
        assert len(kept) == BULK_JOBS_KEPT_COUNT
        assert {"j0", "j1", "j2"}.isdisjoint(kept)
        first.jobs._now_ms = lambda: EPOCH_MS + BULK_JOBS_KEPT_MS + 50
        await trio.sleep(2 * FORGET_INTERVAL_S)
        kept = [one.job.id for one in first.jobs.all_progress()]
        assert set(kept) == {f"j{number}" for number in range(50, BULK_JOBS_KEPT_COUNT + 3)}
    async with life(first.batches) as second:
        assert {one.job.id for one in second.jobs.all_progress()} == set(kept)


async def test_a_start_waits_until_it_is_known_which_jobs_there_are(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where shards are overloaded then, or those of another process are away."""
    batches = await run_once()
    refusals: list[type[ShardsError]] = [Overloaded, OutOfReach, LinkBroken]
    listed = Shards.list_entries

    async def refuse(shards: Shards, kind: Any, account_id: str | None) -> Any:
        if refusals:
            raise refusals.pop()
        return await listed(shards, kind, account_id)

    monkeypatch.setattr(Shards, "list_entries", refuse)
    async with life(batches) as second:
        progress = second.jobs.progress("j")
        assert progress is not None
        assert progress.job.state is BulkState.FINISHED


@pytest.mark.parametrize(
    ("fields", "command", "problem"),
    [
        ({}, RunBulk, "shard 0 could not pass over what it could not do"),
        (RETRY, AdvanceBulk, "its progress could not be noted"),
    ],
)
async def test_a_job_with_a_defect_that_cannot_be_passed_over_fails(
    fields: dict[str, Any],
    command: type[Command],
    problem: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask_shard = Shards.ask_shard

    async def ask(shards: Shards, index: int, asked: Any) -> Any:
        if isinstance(asked, command):
            return Reply(Code.INTERNAL)
        return await ask_shard(shards, index, asked)

    monkeypatch.setattr(Shards, "ask_shard", ask)
    async with life([]) as first:
        first.jobs._tasks = Stalled(4)
        await first.shards.ask(CreatePromise(IDS[0], FAR_MS))
        await first.jobs.start(await job_of(first.jobs, **fields))
        await first.wait_until_ended()
        (job,) = first.ended
        assert (job.state, job.problem) == (BulkState.FAILED, f"{problem}; see the server's log")


async def test_a_job_whose_slice_is_refused_fails(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard refuses what it knows no job for."""
    ask_shard = Shards.ask_shard

    async def ask(shards: Shards, index: int, asked: Any) -> Any:
        if isinstance(asked, RunBulk):
            return Reply(Code.ENTRY_NOT_FOUND)
        return await ask_shard(shards, index, asked)

    monkeypatch.setattr(Shards, "ask_shard", ask)
    async with life([]) as first:
        await first.shards.ask(CreatePromise(IDS[0], FAR_MS))
        await first.jobs.start(await job_of(first.jobs))
        await first.wait_until_ended()
        (job,) = first.ended
        assert job.state is BulkState.FAILED
        assert job.problem is not None
        assert "shard 0 refused a slice with 404" in job.problem

"""Bulk jobs over groups: deletions heed what others need, tasks of all groups are sent again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.http.client import NoPlacement
from tests.shards.stage import EPOCH_MS, FAR_MS
from tests.shards.test_bulk_jobs import NoTasks
from troth.core.bulk import (
    BulkAction,
    BulkCounts,
    BulkFilter,
    BulkJob,
    BulkState,
    BulkSubject,
    Places,
)
from troth.core.codes import Code
from troth.core.commands import (
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    CreateSchedule,
    ReadPromise,
    ReadSchedule,
)
from troth.core.grammar import task_ids
from troth.core.model import RESOLVED, TAG_ORIGIN
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.bulk.works import TaskLists
from troth.shards.errors import LinkBroken, OutOfReach, ShardsError, StorageFailed
from troth.shards.gathered.home_looks import AllLooks
from troth.shards.gathered.surveys import AllSurveys
from troth.shards.shards import Shards
from troth.shards.surveys.surveys import Surveys
from troth.shards.surveys.tasks import TaskQuery

from .home_world import HomeWorld, homes
from .test_errands import resumed
from .test_homes import rest_task, workflow
from .world import Process, World, world

NEWEST: int = 2**62
ALL_STATES = ("PENDING", "RESOLVED", "REJECTED", "REJECTED_CANCELED", "REJECTED_TIMEDOUT")
PATIENCE_S = 60.0


async def _newest_serials() -> Places:
    await trio.lowlevel.checkpoint()
    return (NEWEST,)


async def _tell_nobody(_: BulkJob) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def jobs_of(process: Process, tasks: TaskLists | None = None) -> AsyncIterator[BulkJobs]:
    """Drive jobs from a process, which has begun anew if there were any before."""
    jobs = BulkJobs(process.shards, tasks or NoTasks(), lambda: EPOCH_MS, _tell_nobody)
    jobs.largest_serials = _newest_serials
    async with trio.open_nursery() as nursery:
        await nursery.start(jobs.run)
        yield jobs
        nursery.cancel_scope.cancel()


async def start(jobs: BulkJobs, job_id: str, **fields: Any) -> None:
    """Start a job that deletes whatever may go, unless the fields say something else."""
    given: dict[str, Any] = {
        "subject": BulkSubject.PROMISES,
        "action": BulkAction.DELETE,
        "filter": BulkFilter("*", ALL_STATES),
        "rate_count": 1_000,
        **fields,
    }
    subject = given["subject"]
    through = await jobs.newest(subject)
    more = {name: value for name, value in given.items() if name not in ("subject", "action")}
    await jobs.start(
        BulkJob(
            *(job_id, 1, FAR_MS, "", "anna", subject, given["action"]),
            asked={},
            through=through,
            **more,
        )
    )


async def ended(jobs: BulkJobs, job_id: str) -> BulkJob:
    """Return a job when it has ended."""
    with trio.fail_after(PATIENCE_S):
        while True:
            progress = jobs.progress(job_id)
            assert progress is not None
            if progress.job.state is not BulkState.RUNNING:
                return progress.job
            await trio.sleep(0.1)


async def has(server: World, promise_id: str) -> bool:
    """Return whether there is a promise."""
    return (await server.call(0, ReadPromise(promise_id))).code is Code.OK


async def test_a_deletion_heeds_what_other_groups_need(autojump_clock: MockClock) -> None:
    """A dry run says the same. What has to stay goes with a later job, when nothing needs it."""
    async with world(3, delay_s=0.01) as server, jobs_of(server.processes[0]) as jobs:
        root, leaf = await resumed(server, 1, 2)
        origin, child = server.id_of(0, "origin"), server.id_of(1, "child")
        await server.call(0, CreatePromise(origin, FAR_MS))
        await server.call(0, CreatePromise(child, FAR_MS, tags={TAG_ORIGIN: origin}))
        await server.call(0, CompletePromise(child, RESOLVED))
        free = [server.id_of(group, f"free{n}") for group in range(3) for n in range(3)]
        for one in free:
            await server.call(0, CreatePromise(one, FAR_MS))
            await server.call(0, CompletePromise(one, RESOLVED))
        expected = BulkCounts(9, 0, {"inUse": 1, "originPending": 1, "pending": 2})
        await start(jobs, "dry", dry_run=True)
        assert (await ended(jobs, "dry")).counts == expected
        await start(jobs, "wet")
        assert (await ended(jobs, "wet")).counts == expected
        assert not any([await has(server, one) for one in free])
        assert all([await has(server, one) for one in (root, leaf, origin, child)])

        task_id = task_ids.resume_id(root, leaf)
        await server.call(0, ClaimTask(task_id, 1, "worker", 60_000))
        await server.call(0, CompleteTask(task_id, 1))
        await server.call(0, CompletePromise(origin, RESOLVED))
        await start(jobs, "last")
        assert (await ended(jobs, "last")).counts == BulkCounts(3, 0, {"pending": 1})


async def test_a_deletion_waits_for_a_group_and_goes_on(autojump_clock: MockClock) -> None:
    """It does nothing meanwhile, since it is unknown what the group needs."""
    async with world(3, delay_s=0.01) as server, jobs_of(server.processes[0]) as jobs:
        _, leaf = await resumed(server, 2, 1)
        free = server.id_of(1, "free")
        await server.call(0, CreatePromise(free, FAR_MS))
        await server.call(0, CompletePromise(free, RESOLVED))
        server.cut_off(2)
        await start(jobs, server.id_of(1, "job"))
        await trio.sleep(4)
        assert [await has(server, one) for one in (free, leaf)] == [True, True]
        server.mend_all()
        job = await ended(jobs, server.id_of(1, "job"))
        assert job.counts == BulkCounts(1, 0, {"inUse": 1, "pending": 1})


async def test_a_deletion_waits_while_another_group_completes(autojump_clock: MockClock) -> None:
    """Its tasks may be about any promise; then nothing is passed over for that."""
    async with world(2, delay_s=0.01) as server, jobs_of(server.processes[0]) as jobs:
        free = server.id_of(0, "free")
        await server.call(0, CreatePromise(free, FAR_MS))
        await server.call(0, CompletePromise(free, RESOLVED))
        under_way = server.processes[1].shards.states()[0].completions
        under_way["much hangs on this"] = EPOCH_MS
        await start(jobs, "job", dry_run=True)
        await trio.sleep(4)
        under_way.clear()
        assert (await ended(jobs, "job")).counts == BulkCounts(1)


async def test_who_drives_a_deletion_is_started_again(autojump_clock: MockClock) -> None:
    """Whatever was asked last, in the end all is done and counted once."""
    async with world(3, delay_s=0.01) as server:
        ids = [server.id_of(group, f"free{n}") for group in range(3) for n in range(6)]
        for one in ids:
            await server.call(0, CreatePromise(one, FAR_MS))
            await server.call(0, CompletePromise(one, RESOLVED))
        lives_count = 0
        is_over = False
        while not is_over:
            lives_count += 1
            async with jobs_of(server.processes[0]) as jobs:
                if jobs.progress("job") is None:
                    await start(jobs, "job", rate_count=20)
                with trio.move_on_after(0.25):
                    job = await ended(jobs, "job")
                    is_over = True
        assert lives_count > 2
        assert job.counts == BulkCounts(len(ids))
        assert not any([await has(server, one) for one in ids])


async def test_jobs_go_on_though_a_process_goes_away_at_the_start(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away when the jobs are listed, after it has told how far its shards are."""
    async with world(2, delay_s=0.01) as server:
        one = server.id_of(1, "free")
        await server.call(0, CreatePromise(one, FAR_MS))
        await server.call(0, CompletePromise(one, RESOLVED))
        async with jobs_of(server.processes[0]) as jobs:
            await start(jobs, "job", rate_count=1)
        errors: list[ShardsError] = [OutOfReach(), LinkBroken()]
        list_entries = Shards.list_entries

        async def fails_at_first(shards: Shards, kind: type[BulkJob], of: str | None) -> Any:
            if errors:
                raise errors.pop()
            return await list_entries(shards, kind, of)

        monkeypatch.setattr(Shards, "list_entries", fails_at_first)
        async with jobs_of(server.processes[0]) as jobs:
            assert (await ended(jobs, "job")).counts == BulkCounts(1)


async def test_schedules_of_all_groups_are_deleted(autojump_clock: MockClock) -> None:
    async with world(3, delay_s=0.01) as server, jobs_of(server.processes[0]) as jobs:
        names = [f"every-{number}" for number in range(9)]
        for one in names:
            await server.call(0, CreateSchedule(one, "0 0 1 1 *", "{{.id}}.{{.timestamp}}", 60_000))
        filters = BulkFilter("*")
        await start(jobs, "job", subject=BulkSubject.SCHEDULES, filter=filters)
        assert (await ended(jobs, "job")).counts == BulkCounts(len(names))
        found = [(await server.call(1, ReadSchedule(one))).code for one in names]
        assert set(found) == {Code.SCHEDULE_NOT_FOUND}


def surveys_of_all(server: HomeWorld) -> list[AllSurveys]:
    """Return what each process answers of all groups."""
    found = []
    for home in server.alive:
        process = home.process
        calls = process.mesh.calls
        looks = AllLooks(calls, home.homes, home.delivery, home.polls)
        own = Surveys(
            process.shards,
            home.delivery,
            home.polls,
            NoPlacement(),
            lambda: EPOCH_MS + round(trio.current_time() * 1000),
            looks,
        )
        found.append(AllSurveys(calls, process.place.group_shards, process.shards, own))
    return found


async def test_tasks_of_all_groups_are_sent_again(autojump_clock: MockClock) -> None:
    """Their messages are in other processes than the tasks; one of these is away for a while."""
    async with homes(3) as server:
        whole = surveys_of_all(server)
        for group in range(3):
            for home in range(3):
                nobody = f"poll://any@{server.group_at(home)}"
                await rest_task(server, group, nobody, f"rest{home}")
                await workflow(server, group, nobody, f"flow{home}")
        await trio.sleep(5)
        stalled = TaskQuery(frozenset({"stalled"}))
        found = [row.id for row in (await whole[1].tasks(stalled, 100, None)).rows]
        assert len(found) == 18
        async with jobs_of(server.alive[0].process, whole[0]) as jobs:
            wanted = BulkFilter("*", ("stalled",), families=("envelope", "rest"))
            more = {"subject": BulkSubject.TASKS, "action": BulkAction.RETRY, "filter": wanted}
            await start(jobs, server.server.id_of(1, "job"), rate_count=20, **more)
            await trio.sleep(0.3)  # it is in the middle
            server.server.cut_off(1)
            await trio.sleep(4)
            server.server.mend_all()
            job = await ended(jobs, server.server.id_of(1, "job"))
        assert job.counts == BulkCounts(len(found))


async def test_jobs_are_known_though_the_log_of_another_group_failed_while_they_were_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process ends, and another one has its group (seed 191 of `--nodes 3 --groups 4`)."""
    async with world(2) as server:
        asked_count = 0
        submit = server.processes[1].shards.submit_to

        def fail(index: int, command: Command, held: Any, asker: Any) -> None:
            nonlocal asked_count
            asked_count += 1
            if asked_count < 3:
                asker.refuse(StorageFailed())
            else:
                submit(index, command, held, asker)

        monkeypatch.setattr(server.processes[1].shards, "submit_to", fail)
        async with jobs_of(server.processes[0], NoTasks()) as jobs:
            assert jobs.all_progress() == []
        assert asked_count >= 3

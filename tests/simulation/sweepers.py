"""Sweepers: they do one thing to many promises or tasks by bulk jobs, and add up what was done.

Jobs are started in process 0, which carries them out in the shards of all groups.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Protocol

import trio

from troth.core.bulk import (
    BulkAction,
    BulkCounts,
    BulkFilter,
    BulkJob,
    BulkState,
    BulkSubject,
    Skip,
)
from troth.core.commands import ReadPromise
from troth.core.model import PromiseState, Value
from troth.shards.bulk.jobs import TooManyJobs

from .ledger import require
from .server import Server, Unreachable
from .workers import FAR_MS
from .world import World

CANCELED = PromiseState.REJECTED_CANCELED


class Others(Protocol):
    """What other clients do, and the sweepers too."""

    async def create(
        self, who: str, identifier: str, ends_at_ms: int, tags: dict[str, str], random: Random
    ) -> None: ...

    async def subscribe(self, who: str, identifier: str, random: Random) -> None: ...

    def expect_state(self, identifier: str, states: tuple[PromiseState, ...]) -> None: ...

    async def rest(self, random: Random, mean_s: float) -> None: ...


async def sweep(world: World, others: Others, who: str, rounds: Iterator[int]) -> None:
    """Cancel many promises, some of which others wait for; stop some jobs; delete some."""
    sweeper = _Sweeper(world, others, who)
    for round_number in rounds:
        await others.rest(sweeper.random, 8)
        await sweeper.go_round(f"bulk/{who}/{round_number}", f"{who}-{round_number}")


class _Sweeper:
    def __init__(self, world: World, others: Others, who: str) -> None:
        self.random = world.random(who)
        self._world = world
        self._others = others
        self._who = who

    async def go_round(self, prefix: str, job: str) -> None:
        """Make promises, and have jobs cancel them; perhaps delete them."""
        world, others, random, who = self._world, self._others, self.random, self._who
        names = [f"{prefix}/n{place}" for place in range(random.randint(2, 10))]
        for name in names:
            await others.create(who, name, FAR_MS, {}, random)
            if random.random() < 0.3:
                await others.subscribe(who, name, random)
            others.expect_state(name, (CANCELED,))
        rate_count = random.choice((1, 10, 20_000))
        cancel = partial(self._start, BulkSubject.PROMISES, BulkAction.CANCEL, rate_count)
        await cancel(f"{job}-first", BulkFilter(f"{prefix}/*", ("PENDING",)))
        await others.create(who, f"{prefix}/later", world.clock.now_ms() + 60_000, {}, random)
        if random.random() < 0.5:
            await trio.sleep(random.expovariate(1))
            await self._insist(partial(_stop_job, f"{job}-first"))
        # Whatever the first one has left is for the second.
        first = await self._ended(f"{job}-first")
        await cancel(f"{job}-second", BulkFilter(f"{prefix}/n*", ("PENDING",)))
        done_count = first.done_count + (await self._ended(f"{job}-second")).done_count
        require(done_count == len(names), f"{job}: {done_count} of {len(names)} were canceled")
        world.ledger.jobs_count += 2
        if random.random() < 0.4:
            await self._delete(names, prefix, job)
        if random.random() < 0.3:
            await self._retry(job)

    async def _delete(self, names: list[str], prefix: str, job: str) -> None:
        """Delete the promises, but for those that others still need."""
        world = self._world
        for name in names:
            await world.insist(self._who, ReadPromise(name), self.random)
        world.watch.unwanted.update(names)
        wanted = BulkFilter(f"{prefix}/n*", (CANCELED.value,))
        name = f"{job}-third"
        await self._start(BulkSubject.PROMISES, BulkAction.DELETE, 20_000, name, wanted)
        counts = await self._ended(name)
        deleted_count = len(world.watch.deleted & set(names))
        require(counts.done_count == deleted_count, f"{name}: {counts}, {deleted_count} are gone")
        in_use_count = counts.skipped.get(Skip.IN_USE.value, 0)
        require(deleted_count + in_use_count == len(names), f"{name}: {counts} of {len(names)}")
        world.ledger.jobs_count += 1

    async def _retry(self, job: str) -> None:
        """Have the messages of all tasks that could not be sent tried again now."""
        name = f"{job}-again"
        await self._start(BulkSubject.TASKS, BulkAction.RETRY, 20_000, name, BulkFilter())
        await self._ended(name)
        self._world.ledger.jobs_count += 1

    async def _start(
        self,
        subject: BulkSubject,
        action: BulkAction,
        rate_count: int,
        job_id: str,
        wanted: BulkFilter,
    ) -> None:
        """Start a job, unless an earlier try did."""
        self._world.trace.note("sweeper", f"wants {job_id}")
        now_ms = self._world.clock.now_ms()
        value = Value() if action is BulkAction.DELETE else Value(data=job_id)

        async def start(server: Server) -> bool:
            if server.bulk.progress(job_id) is None:
                through = await server.bulk.newest(subject)
                job = BulkJob(
                    *(job_id, 1, now_ms, "", "sweeper", subject, action, wanted),
                    *({"id": wanted.pattern}, rate_count, through, value),
                )
                await server.bulk.start(job)
            return True

        await self._insist(start)

    async def _ended(self, job_id: str) -> BulkCounts:
        """Wait for a job's end; what it has done."""
        ended: list[BulkJob] = []

        async def look(server: Server) -> bool:
            progress = server.bulk.progress(job_id)
            if not server.may_answer():
                return False
            require(progress is not None, f"{job_id} was started and is lost")
            assert progress is not None
            if progress.job.state is not BulkState.RUNNING:
                ended.append(progress.job)
            return bool(ended)

        await self._insist(look)
        counts = ended[0].counts
        assert counts is not None, "a job that has ended has its counts"
        self._world.trace.note("sweeper", f"{job_id} is {ended[0].state} with {counts}")
        return counts

    async def _insist(self, act: Callable[[Server], Awaitable[bool]]) -> None:
        """Do something about jobs again and again until it is done."""
        while True:
            server = await self._world.first_process.serves()
            with suppress(Unreachable, TooManyJobs):
                async with server.connection():
                    if await act(server):
                        return
            await trio.sleep(self.random.uniform(0.1, 1))


async def _stop_job(job_id: str, server: Server) -> bool:
    """Stop a job; it may have ended before."""
    await server.bulk.stop(job_id)
    return True

"""How long a pass of the loop is when very much comes due at one moment (see `shards/passes.py`).

Measured in processor time, of all that the loop does between two looks for I/O: on a machine that
does other things too, that is what depends on the server. `python -m
tests.shards.test_longest_pass` prints it.
"""

import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import pytest
import trio

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.bulk import BulkCounts, BulkJob
from troth.core.codes import Code
from troth.core.limits import BULK_RATE_LIMIT_COUNT
from troth.core.model import ClaimRequest, PromiseState
from troth.persistence.wal.log import MemoryLog
from troth.shards.bulk.jobs import BulkJobs
from troth.shards.clock import SystemClock
from troth.shards.committer import BatchWriter, Committer, DirectWriter
from troth.shards.passes import settle_collector
from troth.shards.shards import Shards

from .stage import Outgoing
from .test_bulk_jobs import NoTasks, job_of

GROUP = "poll://any@g"
INVOKE = {"resonate:invoke": GROUP}
FAR_MS = 2**62
WAITERS_COUNT = 9_900
MANY_COUNT = 100_000
BULK_COUNT = 20_000
AT_ONCE_COUNT = 200
LIMIT_MS = 20
"""The budget of a pass is 10 ms; beyond it each shard may go on by a slice."""


class LongestPass(trio.abc.Instrument):
    """Measures passes: in processor time, the longest and how many there were."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self.total_ms = 0.0
        self.count = 0
        self._began_s = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        self._began_s = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        lasted_ms = (time.thread_time() - self._began_s) * 1_000
        self.longest_ms = max(self.longest_ms, lasted_ms)
        self.total_ms += lasted_ms
        self.count += 1


@contextmanager
def measured() -> Iterator[LongestPass]:
    """Measure the passes within, with the collector as a server has it."""
    thresholds = gc.get_threshold()
    settle_collector()
    found = LongestPass()
    trio.lowlevel.add_instrument(found)
    try:
        yield found
    finally:
        trio.lowlevel.remove_instrument(found)
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@asynccontextmanager
async def running(shard_count: int) -> AsyncIterator[Shards]:
    """Shards with the machine's clock, and a log in memory."""
    shards = Shards(
        shard_count=shard_count,
        clock=SystemClock(),
        outgoing=Outgoing(),
        cursor_secret=b"0" * 32,
    )

    def make_writer(committer: Committer) -> BatchWriter:
        return DirectWriter(MemoryLog(), committer.durable)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(shards.run, make_writer))
        yield shards
        nursery.cancel_scope.cancel()


async def ask_all(shards: Shards, commands: list[c.Command]) -> None:
    """Have many commands carried out."""
    for first in range(0, len(commands), AT_ONCE_COUNT):
        for reply in await shards.ask_each(commands[first : first + AT_ONCE_COUNT]):
            assert reply.code in (Code.OK, Code.CREATED), reply


async def until(is_true: Callable[[], bool]) -> None:
    """Let the shards work until something is true."""
    with trio.fail_after(300):
        while not is_true():  # noqa: ASYNC110  nothing tells
            await trio.sleep(0.002)


def held_count(shards: Shards) -> int:
    """How many tasks are claimed."""
    return sum(len(held) for state in shards.states() for held in state.claimed.values())


async def many_callbacks(shards: Shards) -> LongestPass:
    """Roots and subscribers wait for one promise, which is completed."""
    await ask_all(shards, [c.CreatePromise("p", FAR_MS)])
    half = WAITERS_COUNT // 2
    waiters: list[c.Command] = [
        c.CreateCallback("p", f"root{number}", FAR_MS, GROUP) for number in range(half)
    ]
    waiters += [c.CreateSubscription("p", f"s{number}", FAR_MS, GROUP) for number in range(half)]
    await ask_all(shards, waiters)
    with measured() as found:
        reply = await shards.ask(c.CompletePromise("p", PromiseState.RESOLVED))
        assert reply.code is Code.CREATED
        await until(lambda: sum(len(state.tasks) for state in shards.states()) == 2 * half)
        await until(lambda: shards.is_quiet)
    return found


async def many_awaiters(shards: Shards) -> LongestPass:
    """Suspended workflows and listeners wait for one promise, which is settled."""
    await ask_all(shards, [c.CreatePromise("p", FAR_MS)])
    half = WAITERS_COUNT // 2
    tags = {"resonate:target": GROUP}
    names = [f"w{number}" for number in range(half)]
    await ask_all(shards, [w.CreateWorkflow(name, FAR_MS, "x", 10**9, tags=tags) for name in names])
    await ask_all(shards, [w.SuspendWorkflow(name, 1, ("p",)) for name in names])
    await ask_all(shards, [w.RegisterListener("p", f"{GROUP}/{name}") for name in names])
    with measured() as found:
        await shards.ask(w.SettlePromise("p", PromiseState.RESOLVED))
        await until(lambda: shards.is_quiet)
    return found


async def root_of_many_tasks(shards: Shards) -> LongestPass:
    """A root is completed while it has been resumed by many."""
    await ask_all(shards, [c.CreatePromise("r", FAR_MS)])
    leaves = [f"leaf{number}" for number in range(WAITERS_COUNT)]
    await ask_all(shards, [c.CreatePromise(name, FAR_MS) for name in leaves])
    await ask_all(shards, [c.CreateCallback(name, "r", FAR_MS, GROUP) for name in leaves])
    await ask_all(shards, [c.CompletePromise(name, PromiseState.RESOLVED) for name in leaves])
    await until(lambda: shards.is_quiet)
    with measured() as found:
        await shards.ask(c.CompletePromise("r", PromiseState.RESOLVED))
        await until(lambda: not any(state.roots for state in shards.states()))
    return found


async def many_deadlines(shards: Shards) -> LongestPass:
    """The timeouts of many promises pass at one moment."""
    ends_ms = shards.clock.now_ms() + MANY_COUNT * 6 // 5
    names = [f"p{number}" for number in range(MANY_COUNT)]
    await ask_all(shards, [c.CreatePromise(name, ends_ms) for name in names])
    with measured() as found:
        await until(lambda: not any(state.pending_count for state in shards.states()))
    assert shards.clock.now_ms() > ends_ms
    return found


async def many_leases(shards: Shards) -> LongestPass:
    """The leases of many tasks end at one moment."""
    ends_ms = shards.clock.now_ms() + MANY_COUNT * 3 // 2
    for first in range(0, MANY_COUNT, AT_ONCE_COUNT):
        names = [f"p{number}" for number in range(first, first + AT_ONCE_COUNT)]
        claim = ClaimRequest("x", ends_ms - shards.clock.now_ms())
        await ask_all(
            shards, [c.CreatePromise(name, FAR_MS, tags=INVOKE, claim=claim) for name in names]
        )
    with measured() as found:
        await until(lambda: not held_count(shards))
        await until(lambda: shards.is_quiet)
    return found


async def many_locks(shards: Shards) -> LongestPass:
    """Many locks end at one moment."""
    ends_ms = shards.clock.now_ms() + MANY_COUNT * 6 // 5
    for first in range(0, MANY_COUNT, AT_ONCE_COUNT):
        ttl = ends_ms - shards.clock.now_ms()
        names = [f"p{number}" for number in range(first, first + AT_ONCE_COUNT)]
        await ask_all(shards, [c.AcquireLock(name, "e", "x", ttl) for name in names])
    with measured() as found:
        await until(lambda: not any(state.locks for state in shards.states()))
    return found


async def heartbeats(shards: Shards) -> LongestPass:
    """A process holds many tasks and locks, and renews them."""
    half = MANY_COUNT // 2
    claim = ClaimRequest("x", 10**9)
    await ask_all(
        shards,
        [c.CreatePromise(f"p{number}", FAR_MS, tags=INVOKE, claim=claim) for number in range(half)],
    )
    await ask_all(shards, [c.AcquireLock(f"l{number}", "e", "x", 10**9) for number in range(half)])
    with measured() as found:
        assert await shards.heartbeat_tasks("x") == half
        assert await shards.heartbeat_locks("x") == half
        await until(lambda: shards.is_quiet)
    return found


async def bulk_cancel(shards: Shards) -> LongestPass:
    """A bulk job cancels many promises as fast as it may; some are waited for by others."""
    names = [f"p{number}" for number in range(BULK_COUNT)]
    await ask_all(shards, [c.CreatePromise(name, FAR_MS) for name in names])
    waited_for = [name for name in names[::10] for _ in range(5)]
    await ask_all(
        shards,
        [
            c.CreateSubscription(name, f"s{number}", FAR_MS, GROUP)
            for number, name in enumerate(waited_for)
        ],
    )
    ended = trio.Event()

    async def end(job: BulkJob) -> None:
        await trio.lowlevel.checkpoint()
        assert job.counts == BulkCounts(BULK_COUNT)
        ended.set()

    jobs = BulkJobs(shards, NoTasks(), shards.clock.now_ms, end)
    async with trio.open_nursery() as nursery:
        await nursery.start(jobs.run)
        wanted = {"rate_count": BULK_RATE_LIMIT_COUNT, "created_on": shards.clock.now_ms()}
        began_s, began_cpu_s = trio.current_time(), time.thread_time()
        with measured() as found:
            await jobs.start(job_of(jobs, **wanted))
            await ended.wait()
        lasted_s, cpu_s = trio.current_time() - began_s, time.thread_time() - began_cpu_s
        print(f"bulk: {BULK_COUNT / lasted_s:.0f}/s, {cpu_s / BULK_COUNT * 1e6:.0f} us of CPU each")
        nursery.cancel_scope.cancel()
    return found


CUT: Final = ("callbacks", "awaiters", "root", "bulk")
"""Those within the limit that need not wait until a time has come."""

SCENARIOS: dict[str, Callable[[Shards], Awaitable[LongestPass]]] = {
    "callbacks": many_callbacks,
    "awaiters": many_awaiters,
    "root": root_of_many_tasks,
    "heartbeats": heartbeats,
    "deadlines": many_deadlines,
    "leases": many_leases,
    "locks": many_locks,
    "bulk": bulk_cancel,
}


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("shard_count", [1, 16])
@pytest.mark.parametrize("name", CUT)
async def test_no_pass_is_long(name: str, shard_count: int) -> None:
    async with running(shard_count) as shards:
        found = await SCENARIOS[name](shards)
    assert found.longest_ms < LIMIT_MS


async def print_all(names: list[str]) -> None:
    """Print what the passes of each scenario took."""
    for name in names or SCENARIOS:
        for shard_count in (1, 16):
            async with running(shard_count) as shards:
                found = await SCENARIOS[name](shards)
            print(
                f"{name:10} {shard_count:2} shards: longest pass {found.longest_ms:6.1f} ms of"
                f" processor time, {found.total_ms:7.0f} ms in {found.count} passes"
            )


if __name__ == "__main__":
    trio.run(print_all, sys.argv[1:])

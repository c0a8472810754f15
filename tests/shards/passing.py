"""How long passes of the loop are, and how others wait in the meantime, measured in this process.

In processor time: on a machine that does other things too, that is what depends on the server. The
shards are real, on a clock that stands still until it is set forward, and a log that is durable two
passes later.
"""

import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final

import trio
import trio.lowlevel

from troth.core import commands as c
from troth.core.codes import Code
from troth.core.model import PromiseState
from troth.persistence.wal.log import MemoryLog, NewRecord
from troth.shards.clock import SteadyClock
from troth.shards.collector import Collector, settle_collector
from troth.shards.committer import BatchWriter, Committer
from troth.shards.shards import Shards

from .stage import EPOCH_MS, Outgoing, id_in

FAR_MS: Final = 2**62
AT_ONCE_COUNT: Final = 200
PAUSE_S: Final = 0.002


class LongestPass(trio.abc.Instrument):
    """Measures passes: in processor time, the longest and how many there were.

    And the longest that others waited for an answer, in processor time and in passes.
    """

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self.total_ms = 0.0
        self.count = 0
        self.waited_ms = 0.0
        self.waited_count = 0
        self._began_s = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        self._began_s = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        lasted_ms = (time.thread_time() - self._began_s) * 1_000
        self.longest_ms = max(self.longest_ms, lasted_ms)
        self.total_ms += lasted_ms
        self.count += 1


@asynccontextmanager
async def measured(shards: Shards, *, with_others: bool = True) -> AsyncIterator[LongestPass]:
    """Measure the passes within, and how others wait, with the collector as a server has it."""
    thresholds = gc.get_threshold()
    settle_collector()
    collector = Collector()
    found = LongestPass()
    try:
        async with trio.open_nursery() as nursery:
            trio.lowlevel.add_instrument(found)
            trio.lowlevel.add_instrument(collector)
            if with_others:
                nursery.start_soon(ask_again_and_again, shards, found)
            yield found
            trio.lowlevel.remove_instrument(collector)
            trio.lowlevel.remove_instrument(found)
            nursery.cancel_scope.cancel()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def ask_again_and_again(shards: Shards, found: LongestPass) -> None:
    """Ask every shard for something that is written, and note how long the answers took."""
    for number in count():
        names = [id_in(index, shards.count, f"others{number}.") for index in range(shards.count)]
        for commands in (
            [c.CreatePromise(name, FAR_MS) for name in names],
            [c.CompletePromise(name, PromiseState.RESOLVED) for name in names],
        ):
            began_s, began_count = time.thread_time(), found.count
            await shards.ask_each(commands)
            waited_ms = (time.thread_time() - began_s) * 1_000
            if waited_ms > found.waited_ms:
                found.waited_ms = waited_ms
            found.waited_count = max(found.waited_count, found.count - began_count)
        await trio.sleep(PAUSE_S)


class StillClock(SteadyClock):
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self._now_ms = EPOCH_MS
        self.jumps_count = self.set_backs_count = 0

    def now_ms(self) -> int:
        return self._now_ms

    def back(self, by_ms: int, shards: Shards) -> None:
        """Set the clock back; the shards hear of it as from the server's clock."""
        self._now_ms -= by_ms
        self.set_backs_count += 1
        self.jumps_count += 1
        shards.clock_jumped()

    def forward(self, by_ms: int, shards: Shards) -> None:
        """Let time pass, for all shards."""
        self._now_ms += by_ms
        for shard in shards._shards:
            shard.wake()


class SlowWriter:
    """A writer that has written a batch two passes later, and only then takes what has come."""

    def __init__(self, on_durable: Callable[[int], None]) -> None:
        self._log = MemoryLog()
        self._on_durable = on_durable
        self._batches: list[Sequence[NewRecord]] = []
        self._work = trio.Event()

    def submit(self, batch: Sequence[NewRecord]) -> None:
        self._batches.append(batch)
        self._work.set()

    async def run(self) -> None:
        """Write until canceled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            batches, self._batches = self._batches, []
            for batch in batches:
                self._log.append(batch, self._log.next_sequence)
            await trio.lowlevel.checkpoint()
            self._on_durable(self._log.next_sequence - 1)

    async def close(self) -> None:
        self._log.close()


def pass_time(shards: Shards, by_ms: int) -> None:
    """Let time pass."""
    assert isinstance(shards.clock, StillClock)
    shards.clock.forward(by_ms, shards)


def set_back(shards: Shards, by_ms: int) -> None:
    """Set the clock back."""
    assert isinstance(shards.clock, StillClock)
    shards.clock.back(by_ms, shards)


@asynccontextmanager
async def running(shard_count: int) -> AsyncIterator[Shards]:
    """Shards with the machine's clock, and a log in memory."""
    shards = Shards(
        shard_count=shard_count,
        clock=StillClock(),
        outgoing=Outgoing(),
        cursor_secret=b"0" * 32,
    )

    def make_writer(committer: Committer) -> BatchWriter:
        writer = SlowWriter(committer.durable)
        nursery.start_soon(writer.run)
        return writer

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

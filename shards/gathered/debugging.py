"""Debug operations of a whole server, of one process or of several (envelope.md 10).

Of several processes, one carries them out, in all of them.

All requests of the envelope protocol are passed on to that one (`http/processes/forwarding.py`), so
they stand in one row there. Each process has a clock that can be set, and keeps its messages back.
A block at a set time ends when nothing is under way anywhere: two looks in a row have found every
process quiet, without a message to another group, and nothing written in between.

A process that is started again stops when it is linked, if the others have.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol, final

import trio
from msgspec import Struct

from troth.core.commands import Command
from troth.core.replies import Reply
from troth.core.workflow_commands import ResetShard
from troth.shards.debugging import DebugPart, DebugProgress, Snap
from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls, ProcessNote

from .asking import ask_all

PHASES_COUNT: Final = 4
"""In which a tick happens, one after the other."""

STEP_S: Final = 0.001


class TimeSet(Struct, frozen=True, array_like=True):
    """What time it is to be; None: the clock's."""

    now_ms: int | None


STOP: Final = ProcessCall("debug.stop", bool, bool)
"""Stop timers and delivery, or go on."""
TIME: Final = ProcessCall("debug.time", TimeSet, bool)
PROGRESS: Final = ProcessCall("debug.progress", type(None), DebugProgress)
FORGET: Final = ProcessCall("debug.forget", type(None), bool)
DUE: Final = ProcessCall("debug.due", int, bool)
PHASE: Final = ProcessCall("debug.phase", int, bool)
SNAP: Final = ProcessCall("debug.snap", type(None), Snap)
STOPPED: Final = ProcessNote("debug.stopped", bool)
"""Whether timers and delivery of the server stand still."""


class ResetShards(Protocol):
    """The part of `Shards` that is needed to empty a server."""

    @property
    def count(self) -> int:
        """The number of shards."""
        ...  # pragma: no cover

    async def ask_shard(self, index: int, command: Command) -> Reply:
        """Make one shard carry out a command. Raises ShardsError."""
        ...  # pragma: no cover


class DebugParts(Protocol):
    """The parts of all processes of a server. Each method raises ShardsError."""

    async def stop(self) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def go_on(self) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def set_time(self, now_ms: int) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def end_time(self) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def settle(self) -> None:
        """Wait until all that follows has happened: messages leave when their cause is durable."""
        ...  # pragma: no cover

    async def forget(self) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def find_due(self, now_ms: int) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def carry_out(self, phase: int) -> None:
        """See `DebugPart`."""
        ...  # pragma: no cover

    async def snap(self) -> Snap:
        """See `DebugPart`."""
        ...  # pragma: no cover


@final
class OnePart:
    """The only part of a server of one process."""

    def __init__(self, part: DebugPart) -> None:
        self._part = part

    async def stop(self) -> None:
        """See `DebugParts`."""
        self._part.stop()

    async def go_on(self) -> None:
        """See `DebugParts`."""
        self._part.go_on()

    async def set_time(self, now_ms: int) -> None:
        """See `DebugParts`."""
        self._part.set_time(now_ms)

    async def end_time(self) -> None:
        """See `DebugParts`."""
        self._part.end_time()

    async def settle(self) -> None:
        """See `DebugParts`."""
        while not (await self._part.progress()).is_quiet:
            await trio.lowlevel.checkpoint()

    async def forget(self) -> None:
        """See `DebugParts`."""
        self._part.forget()

    async def find_due(self, now_ms: int) -> None:
        """See `DebugParts`."""
        self._part.find_due(now_ms)

    async def carry_out(self, phase: int) -> None:
        """See `DebugParts`."""
        self._part.carry_out(phase)

    async def snap(self) -> Snap:
        """See `DebugParts`."""
        return await self._part.snap()


@final
class AllParts:
    """The parts of all processes; `own` is that of this one. See `debugging.DebugParts`."""

    def __init__(self, calls: ProcessCalls, own: DebugPart, home: int) -> None:
        """Begin. `home` is the process that carries the operations out."""
        self._calls = calls
        self._own = own
        calls.handle(STOP, self._stop_own)
        calls.handle(TIME, self._set_own)
        calls.handle(PROGRESS, self._own_progress)
        calls.handle(FORGET, self._forget_own)
        calls.handle(DUE, self._find_own)
        calls.handle(PHASE, self._carry_out_own)
        calls.handle(SNAP, self._own_snap)
        calls.hear(STOPPED, lambda _, are_stopped: self._follow(are_stopped=are_stopped))
        if calls.own == home:
            calls.when_linked.append(lambda one: calls.note(one, STOPPED, own.is_stopped))

    # What this process is told

    def _follow(self, *, are_stopped: bool) -> None:
        if are_stopped and not self._own.is_stopped:
            self._own.stop()
        elif self._own.is_stopped and not are_stopped:
            self._own.go_on()

    async def _stop_own(self, _process: int, are_stopped: bool) -> bool:
        if are_stopped:
            self._own.stop()
        else:
            self._own.go_on()
        return True

    async def _set_own(self, _process: int, asked: TimeSet) -> bool:
        if asked.now_ms is None:
            self._own.end_time()
        else:
            self._own.set_time(asked.now_ms)
        return True

    async def _own_progress(self, _process: int, _asked: None) -> DebugProgress:
        return await self._own.progress()

    async def _forget_own(self, _process: int, _asked: None) -> bool:
        self._own.forget()
        return True

    async def _find_own(self, _process: int, now_ms: int) -> bool:
        self._own.find_due(now_ms)
        return True

    async def _carry_out_own(self, _process: int, phase: int) -> bool:
        self._own.carry_out(phase)
        return True

    async def _own_snap(self, _process: int, _asked: None) -> Snap:
        return await self._own.snap()

    # What all are told

    async def stop(self) -> None:
        """See `DebugParts`."""
        await ask_all(self._calls, STOP, True)

    async def go_on(self) -> None:
        """See `DebugParts`."""
        await ask_all(self._calls, STOP, False)

    async def set_time(self, now_ms: int) -> None:
        """See `DebugParts`."""
        await ask_all(self._calls, TIME, TimeSet(now_ms))

    async def end_time(self) -> None:
        """Do so in all that are there; one that is started again has the clock's time."""
        await self._calls.call_all(TIME, TimeSet(None), wait_ms=0)

    async def settle(self) -> None:
        """Wait until nothing is under way in those that are there."""
        before: dict[int, DebugProgress] = {}
        while True:
            found = await self._calls.call_all(PROGRESS, None, wait_ms=0)
            told = {
                process: one for process, one in found.items() if not isinstance(one, ShardsError)
            }
            if told == before and all(one.is_quiet for one in told.values()):
                return
            before = told
            await trio.sleep(STEP_S)

    async def forget(self) -> None:
        """See `DebugParts`."""
        await ask_all(self._calls, FORGET, None)

    async def find_due(self, now_ms: int) -> None:
        """See `DebugParts`."""
        await ask_all(self._calls, DUE, now_ms)

    async def carry_out(self, phase: int) -> None:
        """Carry a phase out everywhere, with all that follows."""
        await ask_all(self._calls, PHASE, phase)
        await self.settle()

    async def snap(self) -> Snap:
        """Return what all have."""
        parts = await ask_all(self._calls, SNAP, None)
        return Snap(
            [one for part in parts for one in part.promises],
            [one for part in parts for one in part.promise_timeouts],
            [one for part in parts for one in part.callbacks],
            [one for part in parts for one in part.listeners],
            [one for part in parts for one in part.workflows],
            [one for part in parts for one in part.workflow_timeouts],
            [one for part in parts for one in part.messages],
        )


@final
class DebugOperations:
    """The operations `debug.…` of a server: what they do to its shards, one after the other."""

    def __init__(self, shards: ResetShards, parts: DebugParts) -> None:
        self._shards = shards
        self._parts = parts
        self._one_at_a_time = trio.Lock()

    async def start(self) -> None:
        """Stop timers and delivery. Raises ShardsError."""
        await self._parts.stop()

    async def stop(self) -> None:
        """Restart timers and delivery; what has become due is handled immediately.

        Raises ShardsError.
        """
        await self._parts.go_on()

    @property
    def has_time(self) -> bool:
        """Return whether a block of `at` is under way."""
        return self._one_at_a_time.locked()

    @asynccontextmanager
    async def at(self, now_ms: int | None) -> AsyncIterator[None]:
        """Wait for other blocks to end; within this one it is this time, or, if None, the clock's.

        A time that was set fires no timers: only what is asked for happens at it. Raises
        ShardsError before the block if a process is away.
        """
        async with self._one_at_a_time:
            if now_ms is None:
                yield
                return
            try:
                await self._parts.set_time(now_ms)
                yield
                await self._parts.settle()
            finally:
                with trio.CancelScope(shield=True):
                    await self._parts.end_time()

    async def reset(self) -> None:
        """Make everything be gone: promises and what hangs on them, schedules and locks.

        The second time, what the first one has sent to other shards. Raises ShardsError.
        """
        async with self.at(None):
            for _ in range(2):
                for index in range(self._shards.count):
                    await self._shards.ask_shard(index, ResetShard())
                await self._parts.settle()
            await self._parts.forget()

    async def tick(self, now_ms: int) -> None:
        """Carry out everything that is due at this time. Raises ShardsError.

        Deadlines first, in the order of ids, then messages that are sent again, leases, schedules.
        """
        async with self.at(now_ms):
            await self._parts.find_due(now_ms)
            for phase in range(PHASES_COUNT):
                await self._parts.carry_out(phase)

    async def snap(self) -> Snap:
        """Collect everything; what is shown is durable. Raises ShardsError."""
        return await self._parts.snap()

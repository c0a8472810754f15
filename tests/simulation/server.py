"""One life of the simulated server: everything but the sockets, from its start to its end.

The real shards, delivery, poll connections and log run here; the disk, the writer thread, the push
transport and the clock are simulated. A life ends by a power cut, a kill, a disk that fails or a
clean stop. Whoever talks to it then gets `Unreachable`.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random

import trio

from tests.shards.simulated_storage import SimulatedStorage
from troth.core.addresses import PushAddress
from troth.core.commands import Command
from troth.core.machine import Options
from troth.core.model import TaskKind
from troth.core.replies import Reply, TaskMessage
from troth.persistence.checkpoints import Checkpoints
from troth.persistence.errors import LogFailure, PersistenceError
from troth.persistence.segmented_log import SegmentedLog
from troth.persistence.simulated_files import SimulatedCrash, SimulatedFiles
from troth.persistence.store import MemoryStore
from troth.shards.checkpointer import Checkpointer
from troth.shards.clock import Clock
from troth.shards.committer import BatchWriter, Committer
from troth.shards.delivery import Delivery, PushFailed
from troth.shards.errors import ShardsError
from troth.shards.held import HeldMessages
from troth.shards.polls import PollConnection, Polls
from troth.shards.shards import Shards

from .disk import SimulatedWriter

SHARD_COUNT = 4


class Unreachable(Exception):  # noqa: N818  what a client sees of a crash
    """There was no answer: the request may have taken effect or not."""


Push = Callable[[str, bytes], Awaitable[None]]
"""A push receiver: its address and a message. Raises PushFailed."""


def render(message: TaskMessage) -> bytes:
    """The message as workers of the simulation read it."""
    task = message.task
    content = {"kind": task.kind, "task": task.id, "counter": task.counter}
    if task.kind is TaskKind.NOTIFY:
        content["promise"] = task.root_id
    return json.dumps(content).encode()


class _Transport:
    def __init__(self, push: Push) -> None:
        self._push = push

    async def send(self, address: PushAddress, body: bytes, headers: Mapping[str, str]) -> None:  # noqa: ARG002
        await self._push(address.url, body)


class Server:
    """A server on a disk. Opening recovers; `run` serves until the life ends."""

    def __init__(
        self,
        files: SimulatedFiles,
        clock: Clock,
        random: Random,
        push: Push,
        store: MemoryStore | None = None,
        *,
        trims_log: bool = True,
    ) -> None:
        """Recover. Raises DataDirectoryError if the disk refuses.

        With a `store` it makes checkpoints there, and trims the log unless told not to.
        """
        self.files = files
        self.random = random
        self.has_lost_power = False
        self.is_over = False
        self._is_stopping = False
        self.failure: PersistenceError | None = None
        self.writer: SimulatedWriter | None = None
        self._scopes: dict[trio.CancelScope, None] = {}
        self._life = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.storage = SimulatedStorage(
            files, SHARD_COUNT, self._make_writer, segment_bytes=16 * 1024, store=store
        )
        self._trims_log = trims_log
        self.polls = Polls(connections_limit_count=100, buffer_limit_count=3)
        self.delivery = Delivery(
            render=render,
            push=_Transport(push),
            polls=self.polls,
            report=self._report,
            targets={},
            now_ms=clock.now_ms,
            random=random,
            concurrency_count=8,
            concurrency_per_target_count=2,
        )
        self.shards = Shards(
            shard_count=SHARD_COUNT,
            clock=clock,
            outgoing=self.delivery,
            cursor_secret=self.storage.secret,
            options=Options(),
            mailbox_limit_count=200,
        )
        self.recovery = self.shards.recover(self.storage)

    def _report(self, command: Command) -> None:
        self.shards.tell(command)

    def _make_writer(self, log: SegmentedLog, committer: Committer) -> BatchWriter:
        assert self._nursery is not None
        self.writer = SimulatedWriter(log, committer, self.random, self.lose_power)
        self._nursery.start_soon(self.writer.run)
        return self.writer

    def _make_checkpointer(self, checkpoints: Checkpoints) -> Checkpointer:
        return Checkpointer(
            self.shards._shards,
            self.shards.committer,
            checkpoints,
            self._trim,
            interval_ms=2_000,
            log_bytes=8 * 1024,
            use_thread=False,
        )

    def _trim(self, to_sequence: int) -> None:
        if not self._trims_log:
            return
        try:
            self.storage.trim(to_sequence)
        except SimulatedCrash:
            self.lose_power()
        except LogFailure as failure:
            self.shards.committer.fail(failure)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the life ends; returns then, whatever has ended it."""
        try:
            async with trio.open_nursery() as beneath:
                await beneath.start(self.delivery.run)
                # The shards end first, since they hand messages to delivery to the last.
                with self._life:
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        await nursery.start(self.shards.run, self.storage.make_writer)
                        if self.storage.checkpoints is not None:
                            nursery.start_soon(
                                self._make_checkpointer(self.storage.checkpoints).run
                            )
                        task_status.started()
                beneath.cancel_scope.cancel()
        except* LogFailure as failures:
            if self.shards.committer.failure is None:
                raise failures  # only the committer may say that the log has failed
        finally:
            self.is_over = True
            self.failure = self.shards.committer.failure  # also one while closing, not raised
            if self._is_stopping and self.failure is None and not self.has_lost_power:
                self._close()
            for scope in list(self._scopes):
                scope.cancel()

    # How a life ends

    def lose_power(self) -> None:
        """The machine goes dark: nothing is written any more, from this very moment."""
        self.has_lost_power = True
        self.kill()

    def kill(self) -> None:
        """`kill -9`: what has been written is there, the rest is not."""
        if self.writer is not None:
            self.writer.is_dead = True
        self.is_over = True
        self._life.cancel()
        for scope in list(self._scopes):
            scope.cancel()

    def begin_stop(self, patience_s: float) -> None:
        """The clean end: finish what was taken, close the connections, then go."""
        assert self._nursery is not None
        self._nursery.start_soon(self._stop, patience_s)

    async def _stop(self, patience_s: float) -> None:
        with trio.move_on_after(patience_s) as scope:
            await self.shards.stop()
        if scope.cancelled_caught:
            self.kill()
            return
        self._is_stopping = True
        self.polls.close()
        self._life.cancel()

    def _close(self) -> None:
        try:
            self.storage.close()
        except LogFailure as failure:
            self.failure = failure
        except SimulatedCrash:
            self.has_lost_power = True

    # What clients use

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """A connection to this life. Raises Unreachable when the life ends before the block."""
        if self.is_over:
            raise Unreachable
        with trio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield
            except ShardsError as error:
                raise Unreachable from error
            finally:
                del self._scopes[scope]
        if scope.cancelled_caught:
            raise Unreachable

    async def ask(self, command: Command, answer_delay_s: float) -> Reply:
        """A request and its answer, as the HTTP side does it: messages leave after the answer."""
        held = HeldMessages(self.delivery.send)
        try:
            async with self.connection():
                reply = await self.shards.ask(command, held)
                await trio.sleep(answer_delay_s)
                return reply
        finally:
            held.release()
        raise AssertionError("a connection that ends early raises")

    def connect(self, group: str, identifier: str) -> PollConnection:
        """Open a poll connection."""
        if self.is_over:
            raise Unreachable
        return self.polls.connect(group, identifier)


__all__ = ["SHARD_COUNT", "PushFailed", "Server", "Unreachable", "render"]

"""The shards with everything below and above them played by the test.

The log is a `ManualWriter` that keeps each batch until the test says that it is durable or that
the disk has failed; messages to workers end in a list; time is trio's mock clock. `settle` lets
all tasks run until nothing moves any more.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
import trio.testing

from troth.core import records
from troth.core.commands import Command
from troth.core.records import Record
from troth.core.replies import Message, Reply, TaskMessage
from troth.persistence.errors import LogFailed
from troth.persistence.placement import DEFAULT_RULE, PlacementRule
from troth.persistence.wal.log import LogRecord, MemoryLog, NewRecord
from troth.shards import turns
from troth.shards.clock import Clock, TrioClock
from troth.shards.committer import BatchWriter, Committer, DirectWriter
from troth.shards.delivery.shipments import key_of
from troth.shards.errors import ShardsError
from troth.shards.hashing import shard_of
from troth.shards.held import HeldMessages
from troth.shards.shards import Shards

EPOCH_MS = 1_700_000_000_000
FAR_MS = EPOCH_MS + 10**12
WORKER = "poll://any@workers"

settle = trio.testing.wait_all_tasks_blocked


def id_in(index: int, shard_count: int, name: str) -> str:
    """An id that begins with `name` and lives in the shard `index`."""
    number = 0
    while shard_of(f"{name}-{number}", shard_count) != index:
        number += 1
    return f"{name}-{number}"


@dataclass
class ManualWriter:
    """Keeps batches until the test decides what becomes of them."""

    committer: Committer
    waiting: list[Sequence[NewRecord]] = field(default_factory=list)
    written: list[LogRecord] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._durable_position = self.committer.durable_position

    def submit(self, batch: Sequence[NewRecord]) -> None:
        assert not self.closed
        self.waiting.append(batch)

    async def close(self) -> None:
        """As the real writer: what was submitted is written."""
        await trio.lowlevel.checkpoint()
        self.make_all_durable()
        self.closed = True

    def make_durable(self) -> None:
        """Let the oldest batch reach the disk."""
        batch = self.waiting.pop(0)
        self.written.extend(LogRecord(*record) for record in batch)
        self._durable_position += len(batch)
        self.committer.durable(self._durable_position)

    def make_all_durable(self) -> None:
        """Let all batches reach the disk, unless it has failed."""
        while self.waiting and self.committer.failure is None:
            self.make_durable()

    def fail(self) -> None:
        """Let the disk fail."""
        self.committer.fail(LogFailed("the disk is gone"))

    def records(self) -> list[Record]:
        """What waits to be written, in order, decoded."""
        return [records.decode(body) for batch in self.waiting for _, _, body in batch]


@dataclass
class Outgoing:
    """What was handed to delivery: ("send", task, counter) and ("withdraw", task), with times."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    messages: list[TaskMessage] = field(default_factory=list)

    def send(self, message: Message) -> None:
        if not isinstance(message, TaskMessage):
            self._note("send", key_of(message))
            return
        self.messages.append(message)
        self._note("send", message.task.id, message.task.counter)

    def withdraw(self, task_id: str) -> None:
        self._note("withdraw", task_id)

    def finished(self, promise_ids: list[str]) -> None:
        self._note("finished", *promise_ids)

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self.times_ms.append(EPOCH_MS + round(trio.current_time() * 1000))


@dataclass
class Asked:
    """A question asked in a task of its own, and what came of it."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reply: Reply | None = None
    error: ShardsError | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None


@dataclass
class CalledBack:
    """An asker that keeps what it is told."""

    replies: list[Reply] = field(default_factory=list)
    errors: list[ShardsError] = field(default_factory=list)

    def answer(self, place: int, reply: Reply) -> None:
        assert place == 0
        self.replies.append(reply)

    def refuse(self, error: ShardsError) -> None:
        self.errors.append(error)


@dataclass
class Stage:
    """Running shards. `ask` asks in the background; `call` asks and makes everything durable."""

    shards: Shards
    outgoing: Outgoing
    nursery: trio.Nursery
    manual: ManualWriter | None = None

    @property
    def writer(self) -> ManualWriter:
        """The manual writer; not there with `direct`."""
        assert self.manual is not None
        return self.manual

    def ask(self, command: Command, held: HeldMessages | None = None) -> Asked:
        """Ask without waiting; the question is in the mailbox after `settle`."""
        asked = Asked()
        self.nursery.start_soon(self._ask, asked, command, held)
        return asked

    async def _ask(self, asked: Asked, command: Command, held: HeldMessages | None) -> None:
        with asked.scope:
            try:
                asked.reply = await self.shards.ask(command, held)
            except ShardsError as error:
                asked.error = error

    async def call(self, command: Command) -> Reply:
        """Ask and let the log write until there is a reply."""
        asked = self.ask(command)
        for _ in range(10):
            await settle()
            if asked.is_done:
                break
            self.writer.make_all_durable()
        assert asked.reply is not None, f"no reply, but {asked.error}"
        return asked.reply

    async def write_all(self) -> None:
        """Let the log write until nothing is left to write."""
        self.shards.committer.want()
        await settle()
        while self.writer.waiting:
            self.writer.make_all_durable()
            self.shards.committer.want()
            await settle()

    def held(self) -> HeldMessages:
        """The messages of one request."""
        return self.shards.hold()


def make_shards(
    shard_count: int,
    outgoing: turns.Outgoing,
    mailbox_limit_count: int = 1000,
    next_sequence: int = 1,
    clock: Clock | None = None,
    placement: PlacementRule = DEFAULT_RULE,
) -> Shards:
    """Shards on trio's clock or another one, not running yet."""
    return Shards(
        shard_count=shard_count,
        clock=clock or TrioClock(EPOCH_MS),
        outgoing=outgoing,
        cursor_secret=b"secret",
        next_sequence=next_sequence,
        mailbox_limit_count=mailbox_limit_count,
        placement=placement,
    )


@asynccontextmanager
async def stage(
    shard_count: int = 1,
    *,
    mailbox_limit_count: int = 1000,
    direct: bool = False,
    shards: Shards | None = None,
) -> AsyncIterator[Stage]:
    """Run shards, with a manual writer unless `direct`; cancelled at the end.

    Those that are given have an `Outgoing` of their own.
    """
    outgoing = Outgoing()
    shards = shards or make_shards(shard_count, outgoing, mailbox_limit_count)
    manual: list[ManualWriter] = []

    def make_writer(committer: Committer) -> BatchWriter:
        if direct:
            return DirectWriter(MemoryLog(), committer.durable)
        manual.append(ManualWriter(committer))
        return manual[0]

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(shards.run, make_writer))
        yield Stage(shards, outgoing, nursery, manual[0] if manual else None)
        nursery.cancel_scope.cancel()


def matching(group: BaseExceptionGroup[BaseException], kind: type[Exception]) -> list[Exception]:
    """All exceptions of one kind in a group of groups."""
    found: list[Exception] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += matching(error, kind)
        elif isinstance(error, kind):
            found.append(error)
    return found

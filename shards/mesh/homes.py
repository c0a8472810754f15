"""Home processes: each receiver of messages has one, whatever group its messages are from.

A poll group's home has all its streams, and a push target's home does all that is sent there; so
who gets a message, what a breaker says and how much is sent at a time are decided in one place
(`shards/delivery`). All executions have theirs in process 0 (`shards/placement`), which is told of
their ends, too. A group hands its messages to their homes, and homes report what has become of
each (`TaskSent` and the like), by parcels.

- The machine decides which task may have a message out; here is noted which message is where, until
  it is reported or withdrawn. Nothing of it is durable.
- What cannot be handed over is reported as not sent, so that it holds up no other message of its
  root. It is asked for again when its home has room.
- A home that was started again has none of them: all are asked for again. So a message may arrive
  twice, as after any restart.

Messages come here after the answer to the request that caused them, as they come to delivery.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, final

import trio
from msgspec import Struct

from troth.core.commands import Command, RetryTask, TaskNotSent, TaskSent
from troth.core.grammar.addresses import (
    URL_LENGTH_LIMIT,
    Address,
    PollAddress,
    PushAddress,
    resolve,
)
from troth.core.replies import ExecuteMessage, Message, TaskMessage, UnblockMessage
from troth.core.workflow_commands import (
    ExecuteNotSent,
    ExecuteSent,
    RetryExecute,
    RetryUnblock,
    UnblockSent,
)
from troth.core.workflows import execute_key, unblock_key
from troth.persistence.placement import ShardOf, by_id
from troth.shards.delivery.shipments import (
    EXECUTE,
    TASK,
    address_of,
    counter_of,
    key_of,
    parts_of,
)
from troth.shards.hashing import home_of
from troth.shards.outgoing import is_of_execution
from troth.shards.turns import Outgoing

from .calls import ProcessCalls
from .parcels import Parcels
from .place import ProcessPlace

EXECUTIONS_HOME: Final = 0
"""The process that places all executions."""

SLICE_COUNT: Final = 100
"""Messages that are asked for again before other work gets its turn."""

_RECEIVERS_KEPT_COUNT: Final = 1024
"""Of so many receivers it is remembered where their homes are."""


class Withdrawal(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """What is said instead of a message: there is none any more about `key` (`key_of`)."""

    key: str


class EndedExecutions(Struct, frozen=True, array_like=True, gc=False, tag=True):
    """Executions of these promises have ended, durably. Of none: perhaps it was told in vain."""

    promise_ids: tuple[str, ...]


_MESSAGES: Final = (TaskMessage, ExecuteMessage, UnblockMessage)
ToHome = TaskMessage | ExecuteMessage | UnblockMessage | Withdrawal | EndedExecutions
Report = (
    TaskSent
    | TaskNotSent
    | RetryTask
    | ExecuteSent
    | ExecuteNotSent
    | RetryExecute
    | UnblockSent
    | RetryUnblock
)


class HomeFinder:
    """Where receivers have their homes, among a number of processes."""

    def __init__(self, processes_count: int) -> None:
        self.of_group: Callable[[str], int] = by_id(processes_count)
        """Find the home of a poll group."""

    def of_address(self, address: object) -> int | None:
        """Return the home of an address; None for one that leads nowhere."""
        if isinstance(address, PollAddress):
            return self.of_group(address.group)
        if isinstance(address, PushAddress):
            return self.of_group(address.target)
        return None


class _Entrusted:
    """The messages of this group that a home has, or is to get: their counters by their keys.

    Those in `again` have to be asked for again.
    """

    def __init__(self) -> None:
        self.there: dict[str, int] = {}
        self.again: list[dict[str, int]] = []

    def done(self, key: str, counter: int) -> None:
        """Note that a home has done with a message; a newer one stays."""
        if self.there.get(key) == counter:
            del self.there[key]

    def forget(self, key: str) -> bool:
        """Drop a message; return whether it was here."""
        if self.there.pop(key, None) is not None:
            return True
        return any(one.pop(key, None) is not None for one in self.again)

    def lose(self) -> None:
        """Note that the home has nothing of what it was given."""
        if self.there:
            self.again.append(self.there)
            self.there = {}

    def lose_one(self, key: str, counter: int) -> None:
        """Note that one message could not be handed over."""
        if not self.again:
            self.again.append({})
        self.again[-1][key] = counter

    def take_some(self, limit_count: int) -> list[tuple[str, int]]:
        """Take out messages that are to be asked for again now."""
        some: list[tuple[str, int]] = []
        while self.again and len(some) < limit_count:
            if self.again[-1]:
                some.append(self.again[-1].popitem())
            else:
                del self.again[-1]
        return some


@final
class MessageHomes:
    """The messages of this process's group, and those whose home this process is (`Outgoing`).

    `attach` comes before anything is sent. `report` is what delivery reports to.
    """

    def __init__(
        self, place: ProcessPlace, calls: ProcessCalls, targets: Mapping[str, Address]
    ) -> None:
        self.finder = HomeFinder(place.count)
        self._own = place.process
        self._groups: Sequence[int] = place.groups
        self._targets = targets
        self._home_of_text = lru_cache(_RECEIVERS_KEPT_COUNT)(
            lambda text: self.finder.of_address(resolve(text, targets))
        )
        self._entrusted = {process: _Entrusted() for process in calls.others}
        self._delivery: Outgoing | None = None
        self._tell: Callable[[Command], None] = lambda _: None
        self._shard_of: ShardOf = lambda _: 0
        self._wanted = trio.Event()
        self.when_lost: Callable[[int], None] = lambda _: None
        """Told of a process that may have lost what it has said of ends of executions."""
        self._parcels: Parcels[Any] = Parcels(
            ToHome | Report,
            calls,
            place.incarnation,
            self._arrived,
            when_room=self._wake,
            when_lost=self._lose,
        )

    def attach(
        self, delivery: Outgoing, tell: Callable[[Command], None], shard_of: ShardOf
    ) -> None:
        """Learn what delivers here, and who is told what becomes of this group's messages."""
        self._delivery = delivery
        self._tell = tell
        self._shard_of = shard_of

    def owned(self, epoch: int) -> None:
        """Learn in which epoch this process owns its group: that is its incarnation."""
        self._parcels.incarnation = epoch

    # What this group sends (`turns.Outgoing`)

    def send(self, message: Message) -> None:
        """Hand a message to its home."""
        home = self._home_of(message)
        if home is None or home == self._own:
            self._here.send(message)
            return
        key, counter = key_of(message), counter_of(message)
        entrusted = self._entrusted[home]
        entrusted.forget(key)
        if self._parcels.room_count(home):
            entrusted.there[key] = counter
            self._parcels.put(home, message)
        else:
            entrusted.lose_one(key, counter)
            for report in _not_sent(key, counter):
                self._tell(report)

    def _home_of(self, message: Message) -> int | None:
        if isinstance(message, TaskMessage):
            task = message.task
            if is_of_execution(task.id):
                return EXECUTIONS_HOME
            receiver = task.receiver
            if isinstance(receiver, str) and len(receiver) <= URL_LENGTH_LIMIT:
                return self._home_of_text(receiver)
        return self.finder.of_address(address_of(message, self._targets))

    def withdraw(self, task_id: str) -> None:
        """Forget a task's message, wherever it is."""
        for home, entrusted in self._entrusted.items():
            if entrusted.forget(task_id):
                self._parcels.put(home, Withdrawal(task_id))
                return
        self._here.withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """Tell the home of all executions which have ended."""
        if self._own == EXECUTIONS_HOME:
            self._here.finished(promise_ids)
        else:
            self._parcels.put(EXECUTIONS_HOME, EndedExecutions(tuple(promise_ids)))

    def home_with(self, key: str) -> int | None:
        """Return the process that has a message of this group; None if no other one has it."""
        for home, entrusted in self._entrusted.items():
            if key in entrusted.there:
                return home
        return None

    @property
    def entrusted_count(self) -> int:
        """The number of messages that other processes have, or are to get."""
        return sum(len(one.there) + sum(map(len, one.again)) for one in self._entrusted.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask for what homes have not got, as far as they have room, until canceled."""
        task_status.started()
        while True:
            asked_count = sum(self._ask_again(home) for home in self._entrusted)
            if not asked_count:
                self._wanted = trio.Event()
                await self._wanted.wait()
            await trio.lowlevel.checkpoint()

    def _ask_again(self, home: int) -> bool:
        """Ask the machine for some messages again; return whether there were any."""
        limit_count = min(SLICE_COUNT, self._parcels.room_count(home))
        some = self._entrusted[home].take_some(limit_count) if limit_count else []
        for key, counter in some:
            for command in (*_not_sent(key, counter), _retry(key, counter)):
                self._tell(command)
        return bool(some)

    def _lose(self, home: int) -> None:
        self._entrusted[home].lose()
        self._wake(home)
        self.when_lost(home)
        if home == EXECUTIONS_HOME:
            # It may have asked what has ended before this was told to the process before it.
            self._parcels.put(home, EndedExecutions(()))

    def _wake(self, home: int) -> None:
        if self._entrusted[home].again:
            self._wanted.set()

    def _heard(self, home: int, report: Any) -> None:
        """Take what a home says of a message of this group.

        A worker may end without having claimed the workflow task that it was sent: its home tells,
        so such a message stays entrusted to it until it is withdrawn. Whatever is to be sent again
        is not there any more: the machine sends it now, later, or never.
        """
        entrusted, kind = self._entrusted[home], type(report)
        if kind is TaskSent or kind is RetryTask:
            entrusted.done(report.id, report.counter)
        elif kind is RetryExecute:
            entrusted.done(execute_key(report.id), report.version)
        elif kind is UnblockSent or kind is RetryUnblock:
            entrusted.done(unblock_key(report.id, report.address), 0)
        self._tell(report)

    # What this process is the home of

    def report(self, report: Command) -> None:
        """Bring a report of delivery to the group of the message."""
        group = self._groups[self._shard_of(home_of(report))]
        if group == self._own:
            self._tell(report)
        else:
            self._parcels.put(group, report)

    def _arrived(self, process: int, content: Any) -> None:
        """Take a message of another group, or a report of one of this group."""
        if isinstance(content, _MESSAGES):
            self._here.send(content)
        elif isinstance(content, Withdrawal):
            self._here.withdraw(content.key)
        elif isinstance(content, EndedExecutions):
            if content.promise_ids:
                self._here.finished(list(content.promise_ids))
            else:
                self.when_lost(process)
        else:
            self._heard(process, content)

    @property
    def _here(self) -> Outgoing:
        assert self._delivery is not None, "it is attached"
        return self._delivery


def _not_sent(key: str, counter: int) -> Sequence[Command]:
    """Return the report that a message could not be handed over, if one is wanted."""
    kind, subject, _ = parts_of(key)
    if kind is TASK:
        return (TaskNotSent(subject, counter),)
    return (ExecuteNotSent(subject, counter),) if kind is EXECUTE else ()


def _retry(key: str, counter: int) -> Command:
    """Return the question for a message."""
    kind, subject, listener = parts_of(key)
    if kind is TASK:
        return RetryTask(subject, counter)
    if kind is EXECUTE:
        return RetryExecute(subject, counter)
    return RetryUnblock(subject, listener)

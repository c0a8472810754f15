"""Debug operations: time set by tests, and a server that only acts when told (envelope.md 10).

For checkers of the envelope protocol, never for a server that others reach. Once `start` was
called, no timer fires and no message leaves: `tick` does what is due at a time, `snap` shows
everything. A request may say what time it is: requests of this protocol are carried out one after
the other then.

`DebugClock` stands between the shards and their clock, `DebugOutgoing` between them and delivery;
`DebugPart` is what there is of this in a process. Of several processes, one carries out all
requests of this protocol, and acts in all of them (`gathered/debugging.py`).
"""

from collections.abc import Sequence
from typing import final

from msgspec import Struct

from troth.core.commands import PROMISE_TIMER, SCHEDULE_TIMER, WORKFLOW_TIMER, Command, Expire
from troth.core.decisions.workflow_views import fulfilled, view
from troth.core.grammar.patterns import Pattern
from troth.core.lifecycles import FINAL_STATES
from troth.core.limits import INTEGER_MAX, WORKFLOW_RETRY_MS
from troth.core.model import PENDING, TAG_TIMER, Promise
from troth.core.replies import ExecuteMessage, Message, TaskMessage, UnblockMessage
from troth.core.state.cold import Query
from troth.core.state.shard_state import ShardState
from troth.core.workflows import ACQUIRED, WAITING, WorkflowView

from .clock import Clock
from .delivery.shipments import key_of
from .shards import Shards
from .turns import Outgoing

PAGE_COUNT = 1_000


@final
class DebugClock:
    """A clock that can be set to another time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._set_ms: int | None = None

    def now_ms(self) -> int:
        """See Clock."""
        return self._clock.now_ms() if self._set_ms is None else self._set_ms

    def keep_up_with(self, time_ms: int) -> None:
        """See Clock."""
        self._clock.keep_up_with(time_ms)

    @property
    def jumps_count(self) -> int:
        """See Clock."""
        return self._clock.jumps_count

    @property
    def set_backs_count(self) -> int:
        """See Clock."""
        return self._clock.set_backs_count

    def set(self, now_ms: int | None) -> None:
        """Say this time to all that ask, from here on; None: the clock's."""
        self._set_ms = now_ms


@final
class DebugOutgoing:
    """Holds messages back while it is stopped; see Outgoing."""

    def __init__(self, outgoing: Outgoing, clock: Clock, retry_ms: int = WORKFLOW_RETRY_MS) -> None:
        self._outgoing = outgoing
        self._clock = clock
        self.retry_ms = retry_ms
        self.is_stopped = False
        self.messages: dict[str, Message] = {}
        self.retries_on: dict[str, int] = {}

    def send(self, message: Message) -> None:
        """See Outgoing."""
        if not self.is_stopped:
            self._outgoing.send(message)
            return
        self.messages[key_of(message)] = message
        if isinstance(message, ExecuteMessage):
            self.retries_on[message.id] = self._clock.now_ms() + self.retry_ms

    def withdraw(self, task_id: str) -> None:
        """See Outgoing."""
        message = self.messages.pop(task_id, None)
        if isinstance(message, ExecuteMessage):
            self.retries_on.pop(message.id, None)
        self._outgoing.withdraw(task_id)

    def finished(self, promise_ids: list[str]) -> None:
        """See Outgoing."""
        self._outgoing.finished(promise_ids)

    def stop(self) -> None:
        """Keep everything back from here on."""
        self.is_stopped = True

    def go_on(self) -> None:
        """Release the messages that were held back, and hold back no more."""
        self.is_stopped = False
        messages, self.messages = self.messages, {}
        self.retries_on.clear()
        for message in messages.values():
            self._outgoing.send(message)

    def forget(self) -> None:
        """Drop what was kept back."""
        self.messages.clear()
        self.retries_on.clear()


class Snap(Struct, array_like=True):
    """All that is true, but for schedules. A timeout is (id, ms), of a task (id, 0 or 1, ms): 0 for
    when its message is sent again, 1 for the end of its lease."""

    promises: list[Promise]
    promise_timeouts: list[tuple[str, int]]
    callbacks: list[tuple[str, str]]
    listeners: list[tuple[str, str]]
    workflows: list[WorkflowView]
    workflow_timeouts: list[tuple[str, int, int]]
    messages: list[tuple[str, Message]]


class DebugProgress(Struct, frozen=True, array_like=True):
    """Whether nothing is under way in a process, and how much has been written there so far."""

    is_quiet: bool
    position: int


@final
class DebugPart:
    """What debug operations do to the shards of one process."""

    def __init__(self, shards: Shards, clock: DebugClock, outgoing: DebugOutgoing) -> None:
        self._shards = shards
        self._clock = clock
        self._outgoing = outgoing
        self._due: Sequence[list[tuple[int, Command]]] = ()

    def stop(self) -> None:
        """Stop timers and delivery."""
        self._outgoing.stop()
        self._shards.freeze_timers(True)

    def go_on(self) -> None:
        """Restart timers and delivery; what has become due is handled immediately."""
        self._shards.freeze_timers(False)
        self._outgoing.go_on()

    @property
    def is_stopped(self) -> bool:
        """Return whether timers and delivery stand still."""
        return self._outgoing.is_stopped

    def set_time(self, now_ms: int) -> None:
        """Set the time, at which no timer fires."""
        self._shards.freeze_timers(True)
        self._clock.set(now_ms)

    def end_time(self) -> None:
        """Go by the clock again."""
        self._clock.set(None)
        self._shards.freeze_timers(self._outgoing.is_stopped)

    async def progress(self) -> DebugProgress:
        """Return whether nothing is under way; what has happened is durable."""
        shards = self._shards
        await shards.committer.wait_durable()
        is_quiet = shards.is_quiet and not any(state.outbox for state in shards.states())
        return DebugProgress(
            is_quiet or shards.committer.failure is not None, shards.committer.position
        )

    def forget(self) -> None:
        """Drop the messages that were kept back."""
        self._outgoing.forget()

    def find_due(self, now_ms: int) -> None:
        """Note what is due at this time, in each of the phases."""
        self._due = (
            self._due_promises(now_ms),
            self._due_messages(now_ms),
            self._due_leases(now_ms),
            self._due_schedules(now_ms),
        )

    def carry_out(self, phase: int) -> None:
        """Carry out what was found in one phase."""
        for index, command in self._due[phase]:
            self._shards.tell_shard(index, command)
        self._shards.run_turn()

    def _due_promises(self, now_ms: int) -> list[tuple[int, Command]]:
        due = sorted(
            (promise.id, state.index)
            for state in self._shards.states()
            for promise in state.promises.values()
            if promise.state is PENDING and promise.timeout <= now_ms
        )
        return [(index, Expire(PROMISE_TIMER, name)) for name, index in due]

    def _due_messages(self, now_ms: int) -> list[tuple[int, Command]]:
        found: list[tuple[int, Command]] = []
        for state in self._shards.states():
            for task in state.workflows.values():
                if task.state is not WAITING:
                    continue
                if task.sending:
                    retry_on = self._outgoing.retries_on.get(task.id, INTEGER_MAX)
                    if retry_on <= now_ms:
                        self._outgoing.retries_on[task.id] = now_ms + self._outgoing.retry_ms
                elif (task.not_before or 0) <= now_ms:
                    found.append((state.index, Expire(WORKFLOW_TIMER, task.id)))
        return found

    def _due_leases(self, now_ms: int) -> list[tuple[int, Command]]:
        return [
            (state.index, Expire(WORKFLOW_TIMER, task.id))
            for state in self._shards.states()
            for task in state.workflows.values()
            if task.state is ACQUIRED and state.end_of_workflow_lease(task) <= now_ms
        ]

    def _due_schedules(self, now_ms: int) -> list[tuple[int, Command]]:
        return [
            (state.index, Expire(SCHEDULE_TIMER, schedule.id))
            for state in self._shards.states()
            for schedule in state.schedules.values()
            if schedule.due_on is not None and schedule.due_on <= now_ms
        ]

    async def snap(self) -> Snap:
        """Collect everything; what is shown is durable."""
        await self._shards.committer.wait_durable()
        states = self._shards.states()
        promises = [promise for state in states for promise in _promises_of(state)]
        return Snap(
            promises,
            [(one.id, one.timeout) for one in promises if one.state is PENDING],
            [pair for state in states for pair in state.awaits.pairs()],
            [pair for state in states for pair in state.listeners.pairs()],
            [view for state in states for view in _workflows_of(state)],
            self._workflow_timeouts(),
            [(_address_of(one), one) for one in self._outgoing.messages.values()],
        )

    def _workflow_timeouts(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        for state in self._shards.states():
            for task in state.workflows.values():
                if task.state is ACQUIRED:
                    found.append((task.id, 1, state.end_of_workflow_lease(task)))
                elif task.state is WAITING:
                    tags = state.promises[task.id].tags or {}
                    again_on = self._outgoing.retries_on.get(task.id, task.not_before)
                    if again_on is not None and tags.get(TAG_TIMER) != "true":
                        found.append((task.id, 0, again_on))
        return found


def _promises_of(state: ShardState) -> list[Promise]:
    """Return all promises of a shard, as they are, whatever time it is."""
    found = dict(state.promises)
    before: int | None = INTEGER_MAX
    while before is not None:
        query = Query(Pattern("*"), FINAL_STATES, {}, PAGE_COUNT, before, PAGE_COUNT)
        page = state.cold.search(query)
        for promise in page.promises:
            if promise.id not in state.hidden_promises:
                found.setdefault(promise.id, promise)
        before = page.next_before
    return list(found.values())


def _workflows_of(state: ShardState) -> list[WorkflowView]:
    live = [view(task, state.promises[task.id]) for task in state.workflows.values()]
    ended = [fulfilled(one) for one in _promises_of(state) if one.task_version is not None]
    return live + ended


def _address_of(message: Message) -> str:
    if isinstance(message, ExecuteMessage):
        return message.target
    if isinstance(message, UnblockMessage):
        return message.address
    assert isinstance(message, TaskMessage)
    return str(message.task.receiver)

"""Which promises changed, of those that a client wants to hear of.

`Watch` is told every record that is emitted while something is watched, or while a listener wants
all of them (traces do): before it is applied (`note_before`) for what it takes away, and after it
(`hear`) for what there is then. A promise counts as changed when it, one of its tasks or what waits
for it does, and with it the promise that its tags name as the beginning of its lineage. Renewed
leases are no change. Nothing here is durable: a client that is told of a change looks the promise
up.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

from troth.core import records as r
from troth.core import workflow_records as w
from troth.core.grammar import task_ids
from troth.core.lineage import origin_of
from troth.core.model import Promise

from .shard_state import ShardState

Ids = Iterable[str]


def _of_itself(record: Any) -> Ids:
    return (record.id,)


def _of_task(record: Any) -> Ids:
    return (task_ids.home(record.id),)


def _of_message(message: r.ShardMessage) -> Ids:
    match message:
        case r.ResumeMessage():
            return (message.callback.root_id,)
        case w.AwaitMessage() | w.AwaitDroppedMessage():
            return (message.awaited,)
        case w.WakeMessage():
            return (message.awaiter,)
        case _:
            return (message.id,)


ABOUT: Final[Mapping[type[Any], Callable[[Any], Ids]]] = {
    r.PromiseCreated: _of_itself,
    r.PromiseCompleted: _of_itself,
    r.CompletionBegun: _of_itself,
    r.CompletionContinued: _of_itself,
    r.PromiseImported: lambda record: (record.promise.id,),
    r.PromisesDeleted: lambda record: record.ids,
    r.CallbackCreated: lambda record: (record.callback.promise_id, record.callback.root_id),
    r.TaskEnqueued: _of_task,
    r.TaskDelivered: _of_task,
    r.TaskClaimed: _of_task,
    r.TaskReleased: _of_task,
    r.TaskCompleted: _of_task,
    r.TaskTimedOut: _of_task,
    r.ScheduleFired: lambda record: (record.promise.id,),
    r.MessageReceived: lambda record: _of_message(record.message),
    r.ExecutionCreated: _of_itself,
    r.ExecutionAssigned: _of_itself,
    r.ExecutionReported: _of_itself,
    r.ExecutionReturned: _of_itself,
    w.WorkflowCreated: _of_itself,
    w.WorkflowImported: _of_itself,
    w.WorkflowAcquired: _of_itself,
    w.WorkflowReleased: _of_itself,
    w.WorkflowSuspended: _of_itself,
    w.WorkflowResumesCleared: _of_itself,
    w.WorkflowHalted: _of_itself,
    w.WorkflowContinued: _of_itself,
    w.WorkflowWoken: _of_itself,
    w.AwaitRegistered: lambda record: (record.awaited, record.awaiter),
    w.ListenerRegistered: _of_itself,
    w.ListenerTold: _of_itself,
}
"""The promises that a record changes."""

NOT_ABOUT: Final[frozenset[type[Any]]] = frozenset(
    {
        r.TasksRenewed,
        w.WorkflowsRenewed,
        r.LeasesRestarted,
        r.ScheduleCreated,
        r.ScheduleChanged,
        r.ScheduleDeleted,
        r.ScheduleSkipped,
        r.LockAcquired,
        r.LockReleased,
        r.LocksRenewed,
        r.MessagesAcknowledged,
        r.EntryWritten,
        r.EntryDeleted,
        r.BulkAdvanced,  # what was done is said by records before it
        r.BulkClosed,
    }
)
"""Records that change no promise that is looked at."""


@final
class Watch:
    """The watched promises of all shards, and those that have changed since `take`.

    Those who watch may be allowed only ids that begin with a prefix; a change of another promise
    is none to them, even if its tags name one that they watch. `ring` is called with the first
    change after `take`.
    """

    def __init__(self) -> None:
        self.ids: dict[str, dict[str, int]] = {}
        """By watched id: the prefixes of those who watch it, and how many of them there are."""
        self.ring: Callable[[], None] = lambda: None
        self.is_on = False
        """Whether records are to be heard."""
        self._listener: Callable[[r.Record, ShardState], None] | None = None
        self._changed: set[tuple[str, str]] = set()

    def add(self, promise_id: str, prefix: str) -> None:
        """Watch a promise."""
        prefixes = self.ids.setdefault(promise_id, {})
        prefixes[prefix] = prefixes.get(prefix, 0) + 1
        self.is_on = True

    def remove(self, promise_id: str, prefix: str) -> None:
        """Take back one `add`."""
        prefixes = self.ids[promise_id]
        prefixes[prefix] -= 1
        if not prefixes[prefix]:
            del prefixes[prefix]
            if not prefixes:
                del self.ids[promise_id]
                self.is_on = bool(self.ids) or self._listener is not None

    def listen(self, listener: Callable[[r.Record, ShardState], None]) -> None:
        """Tell all records to a listener, each with its shard's state after it."""
        self._listener = listener
        self.is_on = True

    def hear(self, record: r.Record, state: ShardState) -> None:
        """Hear of a record that has been applied."""
        if self.ids:
            self.note(record, state.promises)
        if self._listener is not None:
            self._listener(record, state)

    def note_before(self, record: r.Record, state: ShardState) -> None:
        """Note what a record is about to change beyond what it names."""
        match record:
            case r.PromisesDeleted():
                for promise_id in record.ids:
                    self._note_origin(promise_id, state.find_promise(promise_id))
            case r.PromiseCompleted():
                callbacks = state.callbacks.get(record.id, ())
                self._note_resumed([*callbacks], state.awaits.waiters_of(record.id), state)
            case r.CompletionContinued():
                self._note_resumed(record.callbacks, record.awaiters, state)

    def _note_resumed(self, callbacks: Ids, awaiters: Ids, state: ShardState) -> None:
        """Note the promises of this shard that will have another task, or whose task goes on.

        In other shards, that is a record of its own.
        """
        for promise_id in (*map(task_ids.home, callbacks), *awaiters):
            if state.shard_of(promise_id) == state.index:
                self._note(promise_id, promise_id)
                self._note_origin(promise_id, state.promises.get(promise_id))

    def note(self, record: r.Record, promises: Mapping[str, Promise]) -> None:
        """Note what a record has changed; `promises` are those of its shard, after it."""
        about = ABOUT.get(type(record))
        if about is None:
            return
        for promise_id in about(record):
            self._note(promise_id, promise_id)
            self._note_origin(promise_id, promises.get(promise_id))

    def _note_origin(self, promise_id: str, promise: Promise | None) -> None:
        origin = None if promise is None else origin_of(promise.tags)
        if origin is not None and origin != promise_id:
            self._note(origin, promise_id)

    def _note(self, watched: str, changed: str) -> None:
        for prefix in self.ids.get(watched, ()):
            if changed.startswith(prefix):
                if not self._changed:
                    self.ring()
                self._changed.add((watched, prefix))

    def take(self) -> set[tuple[str, str]]:
        """Return the watched ids that have changed since the last call, each with a prefix."""
        changed, self._changed = self._changed, set()
        return changed

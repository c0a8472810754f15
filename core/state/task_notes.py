"""Which tasks belong to a promise, and which are about it.

Nearly every root has one task, and there may be a million roots that wait for a worker. So a root
has a table of its tasks only where there are several.

Notes are for those that look at, or delete, promises. They are not part of the state, but follow
from it: applying records keeps them, and loading a checkpoint makes them again. Invoke tasks need
none: while one is unfinished its promise is a root (`ShardState.roots`), and its id follows from
the promise's.
"""

import heapq
from collections.abc import Collection

from msgspec import Struct

from troth.core.model import INVOKE, Task

from .waiting import Waiting


class Root(Struct, gc=False):
    """The unfinished tasks of one root promise. One at a time is in flight.

    `queue` holds (sequence, id) of tasks that wait to be sent, the oldest first; entries that are
    no longer true are dropped when they come up. It is None while there are none. `active_count`
    counts enqueued and claimed tasks. `sending` is the id of the task that delivery has.
    """

    queue: list[tuple[int, str]] | None = None
    active_count: int = 0
    sending: str | None = None
    _only: Task | None = None
    _several: dict[str, Task] | None = None

    @property
    def count(self) -> int:
        """The number of tasks."""
        if self._several is not None:
            return len(self._several)
        return 0 if self._only is None else 1

    @property
    def tasks(self) -> Collection[Task]:
        """All tasks in the order in which they were added; not to be kept while that changes."""
        if self._several is not None:
            return self._several.values()
        return () if self._only is None else (self._only,)

    def find(self, task_id: str) -> Task | None:
        """Return the task, or None if it is not here."""
        if self._several is not None:
            return self._several.get(task_id)
        only = self._only
        return only if only is not None and only.id == task_id else None

    def add(self, task: Task) -> None:
        """Add a task that is not here."""
        if self._several is not None:
            self._several[task.id] = task
        elif self._only is None:
            self._only = task
        else:
            self._several = {self._only.id: self._only, task.id: task}
            self._only = None

    def remove(self, task: Task) -> None:
        """Take out a task that is here."""
        if self._several is not None:
            del self._several[task.id]
        else:
            assert self._only is task, "what is taken out is here"
            self._only = None

    def push(self, task: Task) -> None:
        """Put a task into the queue, which does not hold it."""
        task.queued = True
        if self.queue is None:
            self.queue = []
        heapq.heappush(self.queue, (task.sequence, task.id))

    def pop(self) -> str | None:
        """Take the oldest id out of the queue; None if it is empty."""
        if self.queue is None:
            return None
        _, task_id = heapq.heappop(self.queue)
        if not self.queue:
            self.queue = None
        return task_id


class TaskNotes:
    """One shard's notify and resume tasks, by the promises that they are about."""

    __slots__ = ("_finished", "_unfinished")

    def __init__(self) -> None:
        self._unfinished = Waiting()
        self._finished = Waiting()

    def began(self, task: Task) -> None:
        """Note that an unfinished task exists."""
        if task.kind is not INVOKE:
            self._unfinished.add(task.leaf_id, task.id)

    def ended(self, task: Task) -> None:
        """Note that a task has finished; it is still in memory."""
        if task.kind is not INVOKE:
            self._unfinished.discard(task.leaf_id, task.id)
            self._finished.add(task.root_id, task.id)

    def left(self, task: Task) -> None:
        """Note that a finished task has left memory."""
        self._finished.discard(task.root_id, task.id)

    def awaits(self, promise_id: str) -> bool:
        """Return whether an unfinished task of this shard is about a promise, of any shard."""
        return self._unfinished.count_of(promise_id) > 0

    def unfinished(self, leaf_id: str) -> tuple[str, ...]:
        """Return the ids of the unfinished tasks that a promise's completion has made here."""
        return self._unfinished.waiters_of(leaf_id)

    def finished(self, root_id: str) -> tuple[str, ...]:
        """Return the ids of a promise's finished tasks that are in memory."""
        return self._finished.waiters_of(root_id)

"""Which tasks are about a promise: notes for those that look at, or delete, promises.

They are not part of the state, but follow from it: applying records keeps them, and loading a
checkpoint makes them again. Invoke tasks need none: while one is unfinished its promise is a root
(`ShardState.roots`), and its id follows from the promise's.
"""

from troth.core.model import INVOKE, Task

from .waiting import Waiting


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

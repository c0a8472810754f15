"""Which tasks are about a promise: notes for those that delete promises.

They are not part of the state, but follow from it: applying records keeps them, and loading a
checkpoint makes them again. Invoke tasks need none: while one is unfinished its promise is a root
(`ShardState.roots`), and its id follows from the promise's.
"""

from troth.core.model import INVOKE, Task


class TaskNotes:
    """One shard's notify and resume tasks, by the promises that they are about."""

    __slots__ = ("_finished", "_unfinished")

    def __init__(self) -> None:
        self._unfinished: dict[str, int] = {}
        self._finished: dict[str, dict[str, None]] = {}

    def began(self, task: Task) -> None:
        """Note that an unfinished task exists."""
        if task.kind is INVOKE:
            return
        self._unfinished[task.leaf_id] = self._unfinished.get(task.leaf_id, 0) + 1
        self.left(task)

    def ended(self, task: Task) -> None:
        """Note that a task has finished; it is still in memory."""
        if task.kind is INVOKE:
            return
        count = self._unfinished[task.leaf_id] - 1
        if count:
            self._unfinished[task.leaf_id] = count
        else:
            del self._unfinished[task.leaf_id]
        self._finished.setdefault(task.root_id, {})[task.id] = None

    def left(self, task: Task) -> None:
        """Note that a finished task has left memory."""
        finished = self._finished.get(task.root_id)
        if finished is not None:
            finished.pop(task.id, None)
            if not finished:
                del self._finished[task.root_id]

    def awaits(self, promise_id: str) -> bool:
        """Return whether an unfinished task of this shard is about a promise, of any shard."""
        return promise_id in self._unfinished

    def finished(self, root_id: str) -> list[str]:
        """Return the ids of a promise's finished tasks that are in memory."""
        return list(self._finished.get(root_id, ()))

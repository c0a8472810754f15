"""Lists of unfinished tasks, of both APIs and of functions, in the order of their creation.

A shard has two *streams* of tasks, each in the order in which they were made: REST's by their
sequence, the envelope protocol's by their promises' serials. A page merges the streams by the time
of creation, looks at a bounded number of tasks, and says how far it has come in each stream: the
next page goes on from there. So no task is left out or shown twice, whatever is made or ends in
between.
"""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from msgspec import Struct

from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.model import Task
from troth.core.state.shard_state import ShardState
from troth.core.workflows import WorkflowTask

from . import shown_tasks
from .pace import Pace
from .rows import TaskFamily, TaskRow

LOOK_COUNT: Final = 64
"""How many tasks of one stream are looked at before the others are asked again."""

NAMES_LOOK_COUNT: Final = 5_000
"""How many tasks' ids are looked at between two rests."""

STREAMS_PER_SHARD_COUNT: Final = 2

BEGINNING: Final = -1
"""The position of a stream before its first task."""


class TaskQuery(Struct, frozen=True):
    """Which tasks are wanted. Function tasks are only shown to the account that they belong to."""

    states: frozenset[str]
    families: frozenset[TaskFamily] = frozenset(TaskFamily)
    receiver: str | None = None
    process_id: str | None = None
    root: str | None = None
    newest_first: bool = False
    id_prefix: str = ""
    account_id: str = ""


@final
class TaskSift:
    """Says whether a task is wanted; the row only of those that are."""

    def __init__(self, query: TaskQuery) -> None:
        self._query = query
        self._root = Pattern(query.root or "*", query.id_prefix)

    def row(self, state: ShardState, task: Task | WorkflowTask) -> TaskRow | None:
        """Return a task's row, or None if it is not wanted."""
        if isinstance(task, WorkflowTask):
            return self._row_of_workflow(state, task)
        query = self._query
        if shown_tasks.state_of(task) not in query.states:
            return None
        family = shown_tasks.family_of(task)
        if family not in query.families:
            return None
        if family is TaskFamily.FUNCTION and not self._is_own(state, task.root_id):
            return None
        if family is TaskFamily.REST and not self._root.matches(task.root_id):
            return None
        row = shown_tasks.of_task(state, task)
        return row if self.admits(row) else None

    def _row_of_workflow(self, state: ShardState, task: WorkflowTask) -> TaskRow | None:
        query = self._query
        if TaskFamily.ENVELOPE not in query.families or not self._root.matches(task.id):
            return None
        promise = state.promises.get(task.id)
        if promise is None:
            return None
        row = shown_tasks.of_workflow(state, task, promise)
        return row if row.state in query.states and self.admits(row) else None

    def _is_own(self, state: ShardState, promise_id: str) -> bool:
        execution = state.executions.get(promise_id)
        query = self._query
        return (
            execution is not None
            and bool(query.account_id)
            and execution.plan.account_id == query.account_id
            and not query.id_prefix
            and query.root in (None, promise_id)
        )

    def admits(self, row: TaskRow) -> bool:
        """Return whether receiver, process and state are those wanted."""
        query = self._query
        return (
            row.state in query.states
            and (query.receiver is None or row.receiver == query.receiver)
            and (query.process_id is None or row.process_id == query.process_id)
        )


@final
class _TaskStream:
    """One shard's tasks of one API, as they were when the page began."""

    def __init__(
        self,
        state: ShardState,
        tasks: Sequence[Task | WorkflowTask],
        place_of: Callable[[Any], int],
        position: int,
        *,
        newest_first: bool,
    ) -> None:
        self.state = state
        self.position = position
        self.found: TaskRow | None = None
        self._place_of = place_of
        self._step = -1 if newest_first else 1
        self._tasks = tasks
        if newest_first:
            end = (
                len(tasks) if position == BEGINNING else bisect_left(tasks, position, key=place_of)
            )
            self._index = end - 1
        else:
            self._index = bisect_right(tasks, position, key=place_of)

    @property
    def has_more(self) -> bool:
        return 0 <= self._index < len(self._tasks)

    @property
    def time(self) -> int:
        """Return when what comes next was made, as the heap compares it."""
        task = self._tasks[self._index]
        if isinstance(task, Task):
            made_on = task.created_on or 0
        else:
            promise = self.state.promises.get(task.id)
            made_on = 0 if promise is None else promise.created_on
        return made_on * self._step

    def look(self, sift: TaskSift) -> None:
        """Pass over tasks that are not wanted, up to one that is."""
        for _ in range(LOOK_COUNT):
            if not self.has_more:
                return
            self.found = sift.row(self.state, self._tasks[self._index])
            if self.found is not None:
                return
            self.move_on()

    def move_on(self) -> None:
        """Count what comes next as looked at."""
        place = self._place_of(self._tasks[self._index])
        if place != BEGINNING:
            self.position = place
        self._index += self._step
        self.found = None


def _by_sequence(task: Task) -> int:
    return task.sequence


async def _streams(
    states: Sequence[ShardState], query: TaskQuery, positions: Sequence[int] | None, pace: Pace
) -> list[_TaskStream]:
    streams: list[_TaskStream] = []
    for state in states:
        promises = state.promises

        def by_serial(task: WorkflowTask, promises: Any = promises) -> int:
            promise = promises.get(task.id)
            return BEGINNING if promise is None else promise.serial

        kinds: tuple[tuple[Mapping[str, Task | WorkflowTask], Callable[[Any], int]], ...] = (
            (state.tasks, _by_sequence),
            (state.workflows, by_serial),
        )
        for by_id, place_of in kinds:
            tasks = list(by_id.values())
            position = BEGINNING if positions is None else positions[len(streams)]
            streams.append(
                _TaskStream(state, tasks, place_of, position, newest_first=query.newest_first)
            )
            await pace.rest()  # to copy a list of tasks takes a millisecond for ten thousand
    return streams


def newest(states: Sequence[ShardState]) -> tuple[int, ...]:
    """Return the place that the newest task of each stream has or had."""
    return tuple(place for state in states for place in (state.task_sequence, state.largest_serial))


class TaskPage(Struct, frozen=True):
    """A page of tasks; `positions` is where to go on, None at the end."""

    rows: list[TaskRow]
    positions: list[int] | None


async def page(
    states: Sequence[ShardState],
    query: TaskQuery,
    limit_count: int,
    positions: Sequence[int] | None,
) -> TaskPage:
    """Return the next tasks that are wanted; a page ends early when it has cost what it may."""
    pace = Pace()
    sift = TaskSift(query)
    streams = await _streams(states, query, positions, pace)
    heap = [(stream.time, number) for number, stream in enumerate(streams) if stream.has_more]
    heapq.heapify(heap)
    rows: list[TaskRow] = []
    # So many steps bring every page forward, whatever they cost.
    steps_left_count = 2 * len(streams)
    while heap and len(rows) < limit_count and (steps_left_count > 0 or not pace.is_spent):
        steps_left_count -= 1
        _, number = heap[0]
        stream = streams[number]
        if stream.found is not None:
            rows.append(stream.found)
            stream.move_on()
        else:
            stream.look(sift)
        if stream.has_more:
            heapq.heapreplace(heap, (stream.time, number))
        else:
            heapq.heappop(heap)
        await pace.rest()
    return TaskPage(rows, [stream.position for stream in streams] if heap else None)


async def of_promise(state: ShardState, promise_id: str) -> list[TaskRow]:
    """Return all tasks of a promise, finished ones too, the oldest first."""
    pace = Pace()
    found: dict[str, Task] = {
        task.id: task
        for task in state.cold.tasks_of(promise_id)
        if task.id not in state.hidden_tasks
    }
    beginnings = (
        task_ids.invoke_id(promise_id),
        task_ids.resume_id(promise_id, ""),
        task_ids.notify_id(promise_id, ""),
    )
    names = list(state.tasks)
    for first in range(0, len(names), NAMES_LOOK_COUNT):
        for name in names[first : first + NAMES_LOOK_COUNT]:
            if name.startswith(beginnings):
                task = state.tasks.get(name)
                if task is not None and task.root_id == promise_id:
                    found[name] = task
        await pace.rest()
    rows = [shown_tasks.of_task(state, task) for task in found.values()]
    promise = state.find_promise(promise_id)
    workflow = state.workflows.get(promise_id)
    if workflow is not None and promise is not None:
        rows.append(shown_tasks.of_workflow(state, workflow, promise))
    elif promise is not None and promise.task_version is not None:
        rows.append(shown_tasks.of_fulfilled(promise))
    rows.sort(key=lambda row: (row.created_on or 0, row.id))
    return rows

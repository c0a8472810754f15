"""Lists of unfinished tasks, of both APIs and of functions, in the order of their creation.

A shard has two *streams* of tasks, each in the order in which they were made: REST's by their
sequence, the envelope protocol's by their promises' serials. A page merges the streams by the time
of creation, looks at a bounded number of tasks, and says how far it has come in each stream: the
next page goes on from there. So no task is left out or shown twice, whatever is made or ends in
between.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, final

from msgspec import Struct

from troth.core.grammar import task_ids
from troth.core.grammar.patterns import Pattern
from troth.core.limits import INTEGER_MAX
from troth.core.model import Promise, Task
from troth.core.state.shard_state import ShardState
from troth.core.tables.serial_index import SerialIndex
from troth.core.workflows import WorkflowTask

from . import shown_tasks
from .pace import Pace
from .rows import TaskFamily, TaskRow

LOOK_COUNT: Final = 64
"""How many tasks of one stream are looked at before the others are asked again."""

COLD_LOOK_COUNT: Final = 50
"""How many tasks that are not in memory are read between two rests."""

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

    def admits_of(self, state: ShardState, row: TaskRow) -> bool:
        """Return whether a row of the promise that was asked for is wanted, and may be shown."""
        if row.family is TaskFamily.FUNCTION and not self._is_own(state, row.promise_id):
            return False
        return row.family in self._query.families and self.admits(row)

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
    """One shard's tasks of one API, read from its index a little at a time."""

    def __init__(
        self,
        state: ShardState,
        index: SerialIndex,
        tasks: Mapping[str, Task] | Mapping[str, WorkflowTask],
        position: int,
        *,
        newest_first: bool,
    ) -> None:
        self.state = state
        self.position = position
        self.found: TaskRow | None = None
        self._index = index
        self._tasks = tasks
        self._newest_first = newest_first
        self._read: deque[tuple[int, Task | WorkflowTask]] = deque()
        self._read_to = INTEGER_MAX if newest_first and position == BEGINNING else position
        self._is_read = False
        self._fill()

    def _fill(self) -> None:
        """Read on, over at most as many entries as may be looked at; nothing read is left."""
        read = self._index.below if self._newest_first else self._index.above
        for place, name in read(self._read_to, LOOK_COUNT):
            self._read_to = place
            self._read.append((place, self._tasks[name]))
        self._is_read = len(self._read) < LOOK_COUNT

    @property
    def has_more(self) -> bool:
        return bool(self._read)

    @property
    def time(self) -> int:
        """Return when what comes next was made, as the heap compares it."""
        task = self._read[0][1]
        if isinstance(task, Task):
            made_on = task.created_on or 0
        else:
            promise = self.state.promises.get(task.id)
            made_on = 0 if promise is None else promise.created_on
        return -made_on if self._newest_first else made_on

    def look(self, sift: TaskSift) -> None:
        """Pass over tasks that are not wanted, up to one that is."""
        for _ in range(len(self._read)):
            self.found = sift.row(self.state, self._read[0][1])
            if self.found is not None:
                return
            self.move_on()

    def move_on(self) -> None:
        """Count what comes next as looked at."""
        self.position, _ = self._read.popleft()
        self.found = None
        if not self._read and not self._is_read:
            self._fill()


def _streams(
    states: Sequence[ShardState], query: TaskQuery, positions: Sequence[int] | None
) -> list[_TaskStream]:
    streams: list[_TaskStream] = []
    for state in states:
        for index, tasks in (
            (state.task_index, state.tasks),
            (state.workflow_index, state.workflows),
        ):
            position = BEGINNING if positions is None else positions[len(streams)]
            streams.append(
                _TaskStream(state, index, tasks, position, newest_first=query.newest_first)
            )
    return streams


def newest(states: Sequence[ShardState]) -> tuple[int, ...]:
    """Return the place that the newest task of each stream has or had."""
    return tuple(place for state in states for place in (state.task_sequence, state.largest_serial))


class TaskPage(Struct, frozen=True):
    """A page of tasks; `positions` is where to go on, None at the end."""

    rows: list[TaskRow]
    positions: list[int] | None


class TaskPart(Struct, frozen=True):
    """Tasks of some shards. `marks` has for each row its stream, and the position there after it.

    `positions` is where to go on, unless it `is_end`.
    """

    rows: list[TaskRow]
    marks: list[tuple[int, int]]
    positions: list[int]
    is_end: bool


async def page(
    states: Sequence[ShardState],
    query: TaskQuery,
    limit_count: int,
    positions: Sequence[int] | None,
) -> TaskPage:
    """Return the next tasks that are wanted; a page ends early when it has cost what it may."""
    found = await part(states, query, limit_count, positions)
    return TaskPage(found.rows, None if found.is_end else found.positions)


async def part(
    states: Sequence[ShardState],
    query: TaskQuery,
    limit_count: int,
    positions: Sequence[int] | None,
) -> TaskPart:
    """Do as `page`, and say where in its stream each row is."""
    pace = Pace()
    sift = TaskSift(query)
    streams = _streams(states, query, positions)
    heap = [(stream.time, number) for number, stream in enumerate(streams) if stream.has_more]
    heapq.heapify(heap)
    rows: list[TaskRow] = []
    marks: list[tuple[int, int]] = []
    # So many steps bring every page forward, whatever they cost.
    steps_left_count = 2 * len(streams)
    while heap and len(rows) < limit_count and (steps_left_count > 0 or not pace.is_spent):
        steps_left_count -= 1
        _, number = heap[0]
        stream = streams[number]
        if stream.found is not None:
            rows.append(stream.found)
            stream.move_on()
            marks.append((number, stream.position))
        else:
            stream.look(sift)
        if stream.has_more:
            heapq.heapreplace(heap, (stream.time, number))
        else:
            heapq.heappop(heap)
        await pace.rest()
    return TaskPart(rows, marks, [stream.position for stream in streams], not heap)


async def page_of(
    state: ShardState, promise_id: str, query: TaskQuery, limit_count: int, position: int
) -> TaskPage:
    """Return the next tasks of one promise, finished ones too; a position counts from its first."""
    pace = Pace()
    found: list[Task | WorkflowTask | Promise] = [*await _tasks_of(state, promise_id, pace)]
    promise = state.find_promise(promise_id)
    workflow = state.workflows.get(promise_id)
    if promise is not None and workflow is not None:
        found.insert(0, workflow)
    elif promise is not None and promise.task_version is not None:
        found.insert(0, promise)
    if query.newest_first:
        found.reverse()
    sift = TaskSift(query)
    rows: list[TaskRow] = []
    for place in range(max(position, 0), len(found)):
        row = _row_of(state, found[place], promise)
        if sift.admits_of(state, row):
            rows.append(row)
        if len(rows) == limit_count and place + 1 < len(found):
            return TaskPage(rows, [place + 1])
        await pace.rest()
    return TaskPage(rows, None)


async def _tasks_of(state: ShardState, promise_id: str, pace: Pace) -> list[Task]:
    """Return a promise's tasks of REST in the order of creation."""
    found: dict[str, Task] = {}
    after: bytes | None = b""
    while after is not None:
        cold, after = state.cold.tasks_of(promise_id, after, COLD_LOOK_COUNT)
        found |= {task.id: task for task in cold if task.id not in state.hidden_tasks}
        await pace.rest()
    root = state.roots.get(promise_id)
    names = (
        task_ids.invoke_id(promise_id),
        *(() if root is None else [task.id for task in root.tasks]),
        *state.task_notes.unfinished(promise_id),
        *state.task_notes.finished(promise_id),
    )
    for name in names:
        task = state.tasks.get(name)
        if task is not None and task.root_id == promise_id:
            found[name] = task
    await pace.rest()
    return sorted(found.values(), key=lambda task: (task.created_on or 0, task.id))


def _row_of(
    state: ShardState, found: Task | WorkflowTask | Promise, promise: Promise | None
) -> TaskRow:
    if isinstance(found, Task):
        return shown_tasks.of_task(state, found)
    if isinstance(found, Promise):
        return shown_tasks.of_fulfilled(found)
    assert promise is not None, "the task of a pending promise"
    return shown_tasks.of_workflow(state, found, promise)


def workflow_row(state: ShardState, promise_id: str) -> TaskRow | None:
    """Return the task of the envelope protocol of a promise; None if it has none."""
    promise, workflow = state.find_promise(promise_id), state.workflows.get(promise_id)
    if promise is None or (workflow is None and promise.task_version is None):
        return None
    return _row_of(state, workflow or promise, promise)

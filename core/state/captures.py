"""What a shard hands to a checkpoint: everything that changed since the last one.

The objects are the state's own where those never change (promises, callbacks, schedules, locks) and
copies where they do (tasks). None stands for something that is gone, bytes for a pending promise
that is folded (`core/tables/folding.py`): such are written, and read again, as they are.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from troth.core.bulk import BulkPart
from troth.core.catalog import Entry
from troth.core.executions import Execution, Usage
from troth.core.model import Callback, Lock, Promise, Schedule, Task
from troth.core.records import ShardMessage
from troth.core.tables.folding import FoldedRow
from troth.core.workflows import Await, Listener, WorkflowTask

from .counts import Counts

OutboxKey = tuple[int, int]
"""Target shard and sequence of an outbox message."""

PairKey = tuple[str, str]
"""A promise, and who waits for it: a workflow task or an address."""


class ShardHeader(Struct, frozen=True):
    """What a shard must know in addition to its entities.

    `sequence` is the shard sequence of the last record that the checkpoint covers, `position` a log
    sequence such that all of the shard's records up to it are covered. The `live_` counts say how
    many rows a complete checkpoint has. `has_workflows` says that there was ever a workflow task.
    `counts` is None in some data directories of version 1, whose release did not count by state.
    `completions` are those under way, with their times; what is left of them are rows like any.
    `time_ms` is the time of the shard's last turn.
    `bulk_parts` say how far the shard is with each bulk job.
    """

    shard: int
    sequence: int
    position: int
    task_sequence: int
    largest_serial: int
    inbox: dict[int, int]
    outbox_sequence: dict[int, int]
    promises_count: int
    tasks_count: int
    live_promises_count: int
    live_tasks_count: int
    callbacks_count: int
    schedules_count: int
    locks_count: int
    outbox_count: int
    task_counter_floor: int = 0
    entries_count: int = 0
    executions_count: int = 0
    usage_count: int = 0
    workflows_count: int = 0
    awaits_count: int = 0
    listeners_count: int = 0
    workflow_floor: int = 0
    waiting_place: int = 0
    has_workflows: bool = False
    leases_resumed_on: int = 0
    claims_end_on: int = 0
    counts: Counts | None = None
    completions: dict[str, int] = {}
    bulk_parts: dict[str, BulkPart] = {}
    time_ms: int = 0


class Capture(Struct):
    """The changes of one shard, by id.

    `deleted_promises` and `deleted_tasks` are the ids under which something was deleted since the
    last checkpoint, with the serial or sequence that an earlier checkpoint has it by. What that one
    wrote is to go, with its index entries, also if the id is in use again and its new entity is
    among the changes. A task that lives again is such a one. `packed_names` are those that folded
    promises refer to.
    """

    header: ShardHeader
    promises: dict[str, Promise | bytes | None]
    tasks: dict[str, Task | None]
    callbacks: dict[str, Callback | None]
    schedules: dict[str, Schedule | None]
    locks: dict[str, Lock | None]
    outbox: dict[OutboxKey, ShardMessage | None]
    deleted_promises: dict[str, int] = {}
    deleted_tasks: dict[str, int] = {}
    entries: dict[str, Entry | None] = {}
    executions: dict[str, Execution | None] = {}
    usage: dict[str, Usage | None] = {}
    workflows: dict[str, WorkflowTask | None] = {}
    awaits: dict[PairKey, Await | None] = {}
    listeners: dict[PairKey, Listener | None] = {}
    packed_names: dict[int, bytes] = {}

    def other_rows(self) -> tuple[dict[Any, Any], ...]:
        """Return all rows but those of promises and tasks, by kind."""
        return (
            self.callbacks,
            self.schedules,
            self.locks,
            self.outbox,
            self.entries,
            self.executions,
            self.usage,
            self.workflows,
            self.awaits,
            self.listeners,
        )

    @property
    def rows_count(self) -> int:
        """The number of entities that changed."""
        return len(self.promises) + len(self.tasks) + sum(map(len, self.other_rows()))


class Loaded(Struct):
    """What is live in a shard, as a checkpoint has it; `counts` are of all that it has.

    There may be millions of promises and tasks. They are read one after the other, once, in the
    order of their serials and sequences: first the promises, then the tasks.
    """

    header: ShardHeader
    counts: Counts
    promises: Iterator[Promise | FoldedRow]
    tasks: Iterator[Task]
    callbacks: list[Callback]
    schedules: list[Schedule]
    locks: list[Lock]
    outbox: dict[OutboxKey, ShardMessage]
    entries: list[Entry] = []
    executions: list[Execution] = []
    usage: list[Usage] = []
    workflows: list[WorkflowTask] = []
    awaits: list[Await] = []
    listeners: list[Listener] = []

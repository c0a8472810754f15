"""Dealing entities out to the shards of a new data directory, and writing them there.

Every entity goes to the shard that the new placement gives it, with what hangs on it. What
shards count is counted again, since entities of several shards come together: the sequences of
tasks, and the places of who waits. Serials stay, so the order of creation stays.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, final

from troth.core.executions import Usage, added
from troth.core.grammar import task_ids
from troth.core.model import PENDING, Promise, Task, replace
from troth.core.state.captures import Capture, ShardHeader
from troth.core.state.counts import Counts
from troth.core.state.shard_state import ShardState
from troth.core.workflows import Await, Listener
from troth.persistence.checkpoints.checkpoints import Checkpoints
from troth.persistence.placement import PlacementRule, by_id, by_rule

WRITE_COUNT: Final = 50_000
"""How many entities one commit takes: some 30 MB."""

_REQUIRED: Final = ("promises", "tasks", "callbacks", "schedules", "locks", "outbox")

_Row = TypeVar("_Row")


@final
class _NewShard:
    """One new shard: the rows that are not written yet, and what its header will say."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.counts = Counts.zero()
        self.promises_count = self.tasks_count = self.live_promises_count = 0
        self.waiting_place = 0
        self.completions: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.rows: dict[str, dict[Any, Any]] = {}

    def keep(self, kind: str, key: object, row: object) -> None:
        """Take up a row that comes only once."""
        self.rows.setdefault(kind, {})[key] = row
        self.kept[kind] = self.kept.get(kind, 0) + 1

    def next_place(self) -> int:
        self.waiting_place += 1
        return self.waiting_place

    def header(self, old: list[ShardState]) -> ShardHeader:
        """Return the header of all that came here; it knows what each of the old shards knew."""
        kept = self.kept.get
        return ShardHeader(
            shard=self.index,
            sequence=0,
            position=0,
            task_sequence=self.tasks_count,
            largest_serial=max(state.largest_serial for state in old),
            inbox={},
            outbox_sequence={},
            promises_count=self.promises_count,
            tasks_count=self.tasks_count,
            live_promises_count=self.live_promises_count,
            live_tasks_count=self.counts.unfinished_tasks_count,
            callbacks_count=kept("callbacks", 0),
            schedules_count=kept("schedules", 0),
            locks_count=kept("locks", 0),
            outbox_count=0,
            task_counter_floor=max(state.task_counter_floor for state in old),
            entries_count=kept("entries", 0),
            executions_count=kept("executions", 0),
            usage_count=kept("usage", 0),
            workflows_count=kept("workflows", 0),
            awaits_count=kept("awaits", 0),
            listeners_count=kept("listeners", 0),
            workflow_floor=max(state.workflow_floor for state in old),
            waiting_place=self.waiting_place,
            has_workflows=any(state.has_workflows for state in old),
            leases_resumed_on=max(state.lease_floor.resumed_on for state in old),
            claims_end_on=max(state.lease_floor.claims_end_on for state in old),
            counts=self.counts.copy(),
            completions=dict(self.completions),
        )

    def capture(self, old: list[ShardState]) -> Capture:
        """Return what is not written yet, with the header as of now."""
        taken, self.rows = self.rows, {}
        rows: dict[str, Any] = {name: taken.pop(name, {}) for name in _REQUIRED}
        return Capture(self.header(old), **rows, **taken)


@final
class Dealer:
    """Deals entities out to new shards and writes them; what is left, in `finish`."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoints],
        placement: PlacementRule,
        group_shards: Sequence[int],
        old: list[ShardState],
    ) -> None:
        """Begin with empty shards. `old` are the states that all comes from.

        `checkpoints` are those of the groups, which have so many shards each.
        """
        shard_count = sum(group_shards)
        self._groups = list(zip(checkpoints, _parts(group_shards), strict=True))
        self._of_promise = by_rule(placement, shard_count)
        self._of_name = by_id(shard_count)
        self._old = old
        self._shards = [_NewShard(index) for index in range(shard_count)]
        self._usage: dict[str, Usage] = {}
        self._unwritten_count = 0
        self.entities_count = 0

    def deal_promise(self, promise: Promise) -> None:
        """Deal a promise, of memory or not."""
        shard = self._shards[self._of_promise(promise.id)]
        shard.rows.setdefault("promises", {})[promise.id] = promise
        shard.promises_count += 1
        shard.live_promises_count += promise.state is PENDING
        shard.counts.completed_added(promise)
        self._count_one()

    def deal_task(self, task: Task) -> None:
        """Deal a task; those of one shard come in the order in which they are to be counted."""
        shard = self._shards[self._of_promise(task_ids.home(task.id))]
        shard.tasks_count += 1
        row = replace(task, sequence=shard.tasks_count)
        shard.rows.setdefault("tasks", {})[task.id] = row
        shard.counts.tasks_like(task.root_id)[task.state] += 1
        self._count_one()

    def deal_others(self, state: ShardState, rows: Capture) -> None:
        """Deal what a shard has in memory besides promises and tasks."""
        for promise_id, at in state.completions.items():
            self._of(promise_id).completions[promise_id] = at
        for callback in _there(rows.callbacks):
            self._of(callback.promise_id).keep("callbacks", callback.id, callback)
        for schedule in _there(rows.schedules):
            self._named(schedule.id).keep("schedules", schedule.id, schedule)
        for lock in _there(rows.locks):
            self._named(lock.resource_id).keep("locks", lock.resource_id, lock)
        for name, entry in rows.entries.items():
            self._named(name).keep("entries", name, entry)
        for execution in _there(rows.executions):
            self._of(execution.promise_id).keep("executions", execution.promise_id, execution)
        for workflow in _there(rows.workflows):
            shard = self._of(workflow.id)
            shard.keep("workflows", workflow.id, workflow)
            shard.counts.workflows[workflow.state] += 1
        for usage in _there(rows.usage):
            # Each shard counted its own part of what a function has used.
            before = self._usage.get(usage.function_id)
            self._usage[usage.function_id] = usage if before is None else added(before, usage)
        for pair in sorted(_there(rows.awaits), key=lambda one: one.place):
            shard = self._of(pair.awaited)
            row = Await(pair.awaited, pair.awaiter, shard.next_place())
            shard.keep("awaits", (pair.awaited, pair.awaiter), row)
        for one in sorted(_there(rows.listeners), key=lambda one: one.place):
            shard = self._of(one.promise_id)
            told = Listener(one.promise_id, one.address, shard.next_place(), one.settled_at)
            shard.keep("listeners", (one.promise_id, one.address), told)
        self.entities_count += sum(map(len, rows.other_rows()))

    def _of(self, promise_id: str) -> _NewShard:
        return self._shards[self._of_promise(promise_id)]

    def _named(self, name: str) -> _NewShard:
        return self._shards[self._of_name(name)]

    def _count_one(self) -> None:
        self.entities_count += 1
        self._unwritten_count += 1
        if self._unwritten_count >= WRITE_COUNT:
            self._write()

    def _write(self) -> None:
        self._unwritten_count = 0
        for checkpoints, shards in self._groups:
            checkpoints.write([shard.capture(self._old) for shard in self._shards[shards]])

    def finish(self) -> None:
        """Write what is left, with headers that say all of it."""
        for usage in self._usage.values():
            self._named(usage.function_id).keep("usage", usage.function_id, usage)
        self._write()


def _parts(counts: Sequence[int]) -> Iterator[slice]:
    """Yield which part of the shards is each group's."""
    first = 0
    for count in counts:
        yield slice(first, first + count)
        first += count


def _there(rows: Mapping[Any, _Row | None]) -> list[_Row]:
    """Return the rows of what is not gone."""
    return [row for row in rows.values() if row is not None]

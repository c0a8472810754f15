"""Bulk jobs: one act on everything that a list's filter finds, as plain values.

A *bulk job* is an entry of the catalog. What it may touch is fixed when it starts: everything that
was made later has a greater place in the order of creation than `through`. A job on promises or
schedules is carried out by each shard for its own ones, newest first, and the shard keeps how far
it is as a `BulkPart`; it changes by the same log batch as what was done. A job on tasks keeps one
part, in the job's own shard, with a place for each stream of tasks.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from .model import EMPTY_VALUE, PromiseState, Value


class BulkSubject(StrEnum):
    """What a bulk job is about, by the list whose filter it has."""

    PROMISES = "promises"
    TASKS = "tasks"
    SCHEDULES = "schedules"


class BulkAction(StrEnum):
    """What a bulk job does to each."""

    CANCEL = "cancel"
    REJECT = "reject"
    RESOLVE = "resolve"
    DELETE = "delete"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"


class BulkState(StrEnum):
    """The states of a bulk job. All but RUNNING are final."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class Skip(StrEnum):
    """Why a job passes over something that its filter finds."""

    COMPLETED = "completed"
    PENDING = "pending"
    ORIGIN_PENDING = "originPending"
    IN_USE = "inUse"
    NOT_WAITING = "notWaiting"
    PAUSED = "paused"
    NOT_PAUSED = "notPaused"
    FORBIDDEN = "forbidden"
    CHANGED = "changed"


COMPLETIONS: Final[Mapping[BulkAction, PromiseState]] = {
    BulkAction.CANCEL: PromiseState.REJECTED_CANCELED,
    BulkAction.REJECT: PromiseState.REJECTED,
    BulkAction.RESOLVE: PromiseState.RESOLVED,
}
"""The acts that complete promises, and as what."""

ACTIONS: Final[Mapping[BulkSubject, frozenset[BulkAction]]] = {
    BulkSubject.PROMISES: frozenset({*COMPLETIONS, BulkAction.DELETE}),
    BulkSubject.TASKS: frozenset({BulkAction.RETRY}),
    BulkSubject.SCHEDULES: frozenset({BulkAction.DELETE, BulkAction.PAUSE, BulkAction.RESUME}),
}
"""What can be done to what."""

Times = tuple[int, int]


class BulkFilter(Struct, frozen=True, array_like=True, gc=False):
    """What a job is about, as its list reads the filter that was given.

    `pattern` is of ids; for tasks, of their promises' ids. `families`, `receiver` and `process_id`
    are for tasks, `created` and `completed` (from, before, in ms) for promises.
    """

    pattern: str = "*"
    states: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    created: Times | None = None
    completed: Times | None = None
    families: tuple[str, ...] = ()
    receiver: str | None = None
    process_id: str | None = None


class BulkCounts(Struct, frozen=True, array_like=True, gc=False):
    """How many things a job has done, could not do, and passed over by reason."""

    done_count: int = 0
    failed_count: int = 0
    skipped: dict[str, int] = {}

    @property
    def skipped_count(self) -> int:
        """Return how many were passed over, for any reason."""
        return sum(self.skipped.values())

    @property
    def total_count(self) -> int:
        """Return how many were looked at and counted."""
        return self.done_count + self.failed_count + self.skipped_count

    def plus(self, other: "BulkCounts") -> "BulkCounts":
        """Return the sum of two."""
        skipped = dict(self.skipped)
        for reason, count in other.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
        return BulkCounts(
            self.done_count + other.done_count, self.failed_count + other.failed_count, skipped
        )


NOTHING_DONE: Final = BulkCounts()

Places = tuple[int, ...]
"""Where to continue, in each order of creation: what was looked at lies from there on."""


class BulkPart(Struct, frozen=True, array_like=True, gc=False):
    """How far one shard is with a job; `places` is None when nothing is left."""

    places: Places | None
    counts: BulkCounts = NOTHING_DONE


class BulkJob(Struct, frozen=True, array_like=True, gc=False, tag="bulk-job/1"):
    """A bulk job. `asked` is its filter as it was given, `made_by` who gave it.

    Only ids that begin with `id_prefix` are touched. `through` is the last thing made when it
    started, in each order of creation: of promises and schedules in all shards, or in each, where
    they count in several groups. `matched_count` is None until all that the filter finds has
    been counted, `counts` until the job has ended. A dry run only counts: `counts` is what the job
    would do, and `examples` are some ids that it would do it to.
    """

    id: str
    revision: int
    created_on: int
    account_id: str
    made_by: str
    subject: BulkSubject
    action: BulkAction
    filter: BulkFilter
    asked: dict[str, str]
    rate_count: int
    through: Places
    value: Value = EMPTY_VALUE
    dry_run: bool = False
    id_prefix: str = ""
    state: BulkState = BulkState.RUNNING
    ended_on: int | None = None
    matched_count: int | None = None
    counts: BulkCounts | None = None
    examples: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def start(self) -> Places:
        """Return where a job begins: each order is gone through newest first."""
        return tuple(place + 1 for place in self.through)

    def start_in(self, shard: int) -> Places:
        """Return where a job begins in a shard."""
        return (self.through[shard] + 1,) if len(self.through) > 1 else self.start


class BulkReport(Struct, frozen=True, gc=False):
    """What a slice of a job has found: where to continue, and its counts.

    After a slice that was carried out, `places` and `counts` are those of the shard's whole part,
    and `acts_count` says how many things this slice has tried to do. After one that only counted
    they are the slice's own, with the ids of some that would be done.
    """

    places: Places | None
    counts: BulkCounts
    acts_count: int = 0
    examples: tuple[str, ...] = ()

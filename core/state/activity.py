"""What has happened since the server started, counted where it happens, for metrics and series.

One `Activity` is shared by all shards of a server. A shard counts in it from `Machine.start` on, so
reading the log back counts nothing: what is replayed goes to an `Activity` that is not read. The
numbers are in no checkpoint, and nothing depends on them.

The server's own promises, such as function tasks, are not counted as promises; their leases are.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, final

from troth.core.buckets import Buckets
from troth.core.catalog import RESERVED_PREFIX
from troth.core.grammar.traceparents import sampled_trace_id
from troth.core.model import CLAIMED, Json, Promise, PromiseState, Task, Trace
from troth.core.workflows import ACQUIRED, WorkflowTask

OTHER: Final = "other"
"""The label of all receivers that have none of their own."""

DURATION_BOUNDS_MS: Final = (
    *(1, 10, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 600_000, 3_600_000),
    *(21_600_000, 86_400_000, 604_800_000, 2_592_000_000),
)
WAIT_BOUNDS_MS: Final = (50, 250, 1_000, 5_000, 30_000, 300_000, 3_600_000)
LEASE_BOUNDS_MS: Final = (
    *(5, 50, 250, 1_000, 5_000, 30_000, 60_000, 300_000, 3_600_000, 86_400_000),
)
LATENESS_BOUNDS_MS: Final = (1, 10, 50, 100, 500, 1_000, 5_000, 60_000, 3_600_000)

WAITS_LIMIT_COUNT: Final = 12
"""How many labels of receivers have a histogram of their own: `other`, function tasks, and more."""

LABELS_LIMIT_COUNT: Final = 4_096
"""How many receivers' labels are remembered; that of any other is found out each time."""


class AttemptOutcome(StrEnum):
    """How an attempt ended: how a worker that had claimed a task gave it up."""

    COMPLETED = "completed"
    DROPPED = "dropped"
    EXPIRED = "expired"
    RELEASED = "released"


class Deleter(StrEnum):
    """Who deleted promises."""

    CLIENT = "client"
    RETENTION = "retention"
    BULK = "bulk"


class Firing(StrEnum):
    """What came of a run of a schedule: its promise, none since its id was taken, or no run."""

    CREATED = "created"
    EXISTED = "existed"
    MISSED = "missed"


def anybody(receiver: Json) -> str:
    """Return the label of a receiver where none has one of its own."""
    return OTHER


@final
class Activity:
    """Counts since the server's start, not all of them durable yet; durations are in ms.

    `label_of` names the receiver of a task, with few different names: see `first_comers.py`. What
    is counted for each request is counted by the code that applies records, without a call.
    """

    __slots__ = (
        *("born_count", "bulk", "created_count", "cut", "deleted", "durations", "fired"),
        *("imported_count", "label_of", "lateness", "leases", "scheduled_count", "timed_out"),
        *("waits", "waits_of"),
    )

    def __init__(self) -> None:
        """Count nothing yet."""
        self.label_of: Callable[[Json], str] = anybody
        self.created_count = 0
        self.scheduled_count = 0
        self.imported_count = 0
        self.durations = {state: Buckets(DURATION_BOUNDS_MS) for state in PromiseState}
        """How long promises were pending that have completed, by the state they went to."""
        self.timed_out = dict.fromkeys(PromiseState, 0)
        self.bulk = dict.fromkeys(PromiseState, 0)
        self.deleted = dict.fromkeys(Deleter, 0)
        self.born_count = 0
        """Tasks that were created claimed, and so have waited for no worker."""
        self.waits: dict[str, Buckets] = {OTHER: Buckets(WAIT_BOUNDS_MS)}
        """How long tasks that were ready waited for their claim, by their receiver's label."""
        self.waits_of: dict[Json, Buckets] = {}
        self.leases = {outcome: Buckets(LEASE_BOUNDS_MS) for outcome in AttemptOutcome}
        """How long tasks were held, by how that ended."""
        self.cut = dict.fromkeys(AttemptOutcome, 0)
        """Attempts of unknown length, since they were begun before a restart."""
        self.fired = dict.fromkeys(Firing, 0)
        self.lateness = Buckets(LATENESS_BOUNDS_MS)

    @property
    def completed_count(self) -> int:
        """The number of promises that have completed."""
        return sum(one.count for one in self.durations.values())

    @property
    def claims_count(self) -> int:
        """The number of tasks that were claimed."""
        return self.born_count + sum(one.count for one in self.waits.values())

    def attempts_count(self, outcome: AttemptOutcome) -> int:
        """Return how many attempts ended so."""
        return self.leases[outcome].count + self.cut[outcome]

    def completed_otherwise(self, state: PromiseState) -> int:
        """Return how many promises clients completed one by one: by no deadline and no bulk job."""
        return self.durations[state].count - self.timed_out[state] - self.bulk[state]

    def promise_timed_out(self, promise: Promise, state: PromiseState) -> None:
        """Count that a promise was completed by its deadline."""
        if not promise.id.startswith(RESERVED_PREFIX):
            self.timed_out[state] += 1

    def count_wait(self, receiver: Json, waited_ms: int, trace: Trace | None) -> None:
        """Count how long a task that is claimed was ready."""
        try:
            waits = self.waits_of[receiver]
        except (KeyError, TypeError):  # new, or an object
            waits = self.find_waits(receiver)
        if waited_ms < 0:  # the clock was set back
            waited_ms = 0
        waits.add(waited_ms)
        if trace is not None:
            note_trace(waits, waited_ms, trace)

    def find_waits(self, receiver: Json) -> Buckets:
        """Return where the waits for a receiver are counted that is not in `waits_of`."""
        label = self.label_of(receiver)
        waits = self.waits.get(label)
        if waits is None and len(self.waits) < WAITS_LIMIT_COUNT:
            waits = self.waits[label] = Buckets(WAIT_BOUNDS_MS)
        if waits is None:
            waits = self.waits[OTHER]
        if type(receiver) is str and len(self.waits_of) < LABELS_LIMIT_COUNT:
            self.waits_of[receiver] = waits
        return waits

    def end_attempt(self, task: Task | WorkflowTask, outcome: AttemptOutcome, at: int) -> None:
        """Count that a task's holder, if it has one, gives it up; from then it may be ready."""
        if task.state is CLAIMED or task.state is ACQUIRED:
            since = task.since
            if since is None:
                self.cut[outcome] += 1
            else:
                self.leases[outcome].add(at - since if at > since else 0)
        task.since = at

    def run_fired(self, firing: Firing, late_ms: int) -> None:
        """Count a run of a schedule, and how late it was."""
        self.fired[firing] += 1
        self.lateness.add(max(0, late_ms))


def first_ready_on(created_on: int, not_before: int | None) -> int:
    """Return since when a task is ready that has never been claimed, in ms."""
    return created_on if not_before is None else max(created_on, not_before)


def note_trace(buckets: Buckets, value: float, trace: Trace) -> None:
    """Note the trace of a value that was counted, if its request was sampled."""
    trace_id = sampled_trace_id(trace.traceparent)
    if trace_id is not None:
        buckets.note_example(value, trace_id)

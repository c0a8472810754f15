"""What has happened since the server started, counted where it happens, for metrics and series.

One `Activity` is shared by all shards of a server. A shard counts in it from `Machine.start` on, so
reading the log back counts nothing: what is replayed goes to an `Activity` that is not read. The
numbers are in no checkpoint, and nothing depends on them.

The server's own promises, such as function tasks, are not counted as promises; their leases are.
"""

import re
from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import Final, final

from troth.core.buckets import Buckets
from troth.core.catalog import RESERVED_PREFIX
from troth.core.model import Json, Promise, PromiseState, Trace

OTHER: Final = "other"
"""The label of all receivers that have none of their own."""

DURATION_BOUNDS_S: Final = (
    *(0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3_600.0),
    *(21_600.0, 86_400.0, 604_800.0, 2_592_000.0),
)
WAIT_BOUNDS_S: Final = (0.05, 0.25, 1.0, 5.0, 30.0, 300.0, 3_600.0)
LEASE_BOUNDS_S: Final = (0.005, 0.05, 0.25, 1.0, 5.0, 30.0, 60.0, 300.0, 3_600.0, 86_400.0)
LATENESS_BOUNDS_S: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0, 3_600.0)

WAITS_LIMIT_COUNT: Final = 12
"""How many labels of receivers have a histogram of their own: `other`, function tasks, and more."""

LABELS_LIMIT_COUNT: Final = 4_096
"""How many receivers' labels are remembered; that of any other is found out each time."""

_SAMPLED: Final = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf]")


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
    """Counts since the server's start, not all of them durable yet; durations are in seconds.

    `label_of` names the receiver of a task, with few different names: see `first_comers.py`.
    """

    __slots__ = (
        *("attempts", "bulk", "claims_count", "created_count", "deleted", "durations"),
        *("fired", "imported_count", "label_of", "lateness", "leases", "scheduled_count"),
        *("timed_out", "waits", "_waits_of"),
    )

    def __init__(self) -> None:
        """Count nothing yet."""
        self.label_of: Callable[[Json], str] = anybody
        self.created_count = 0
        self.scheduled_count = 0
        self.imported_count = 0
        self.durations = {state: Buckets(DURATION_BOUNDS_S) for state in PromiseState}
        """How long promises were pending that have completed, by the state they went to."""
        self.timed_out = dict.fromkeys(PromiseState, 0)
        self.bulk = dict.fromkeys(PromiseState, 0)
        self.deleted = dict.fromkeys(Deleter, 0)
        self.claims_count = 0
        self.waits: dict[str, Buckets] = {OTHER: Buckets(WAIT_BOUNDS_S)}
        """How long tasks that were ready waited for their claim, by their receiver's label."""
        self._waits_of: dict[Hashable, Buckets] = {}
        self.leases = Buckets(LEASE_BOUNDS_S)
        self.attempts = dict.fromkeys(AttemptOutcome, 0)
        self.fired = dict.fromkeys(Firing, 0)
        self.lateness = Buckets(LATENESS_BOUNDS_S)

    @property
    def completed_count(self) -> int:
        """The number of promises that have completed."""
        return sum(one.count for one in self.durations.values())

    def completed_otherwise(self, state: PromiseState) -> int:
        """Return how many promises clients completed one by one: by no deadline and no bulk job."""
        return self.durations[state].count - self.timed_out[state] - self.bulk[state]

    def promise_timed_out(self, promise: Promise, state: PromiseState) -> None:
        """Count that a promise was completed by its deadline."""
        if not promise.id.startswith(RESERVED_PREFIX):
            self.timed_out[state] += 1

    def claimed(self, receiver: Json, waited_ms: int, trace: Trace | None) -> None:
        """Count the claim of a task that has waited for it since it was ready."""
        self.claims_count += 1
        waits = self._waits_of.get(receiver) if type(receiver) is str else None
        if waits is None:
            waits = self._find_waits(receiver)
        waited_s = waited_ms / 1000 if waited_ms > 0 else 0.0
        waits.add(waited_s)
        if trace is not None:
            note_trace(waits, waited_s, trace)

    def _find_waits(self, receiver: Json) -> Buckets:
        label = self.label_of(receiver)
        waits = self.waits.get(label)
        if waits is None and len(self.waits) < WAITS_LIMIT_COUNT:
            waits = self.waits[label] = Buckets(WAIT_BOUNDS_S)
        if waits is None:
            waits = self.waits[OTHER]
        if type(receiver) is str and len(self._waits_of) < LABELS_LIMIT_COUNT:
            self._waits_of[receiver] = waits
        return waits

    def attempt_ended(self, outcome: AttemptOutcome, held_ms: int | None) -> None:
        """Count the end of a lease. It is unknown how long one was held that a restart has cut."""
        self.attempts[outcome] += 1
        if held_ms is not None:
            self.leases.add(max(0, held_ms) / 1000)

    def run_fired(self, firing: Firing, late_ms: int) -> None:
        """Count a run of a schedule, and how late it was."""
        self.fired[firing] += 1
        self.lateness.add(max(0, late_ms) / 1000)


def note_trace(buckets: Buckets, value_s: float, trace: Trace) -> None:
    """Note the trace of a value that was counted, if its request was sampled."""
    sampled = _SAMPLED.fullmatch(trace.traceparent)
    if sampled is not None:
        buckets.note_example(value_s, sampled[1])

"""What has left memory: the port through which a shard reads completed promises and tasks back.

After a checkpoint a completed promise or task need not stay in memory; the shard reads it through
this port when a command needs it. The real one reads LMDB (`persistence/checkpoints/cold.py`).
Reading is not I/O in the sense of invariant I4: what is read is part of the shard's state and never
changes under its hands.
"""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from troth.core.catalog import is_reserved
from troth.core.commands import TimeRange
from troth.core.grammar.patterns import Pattern
from troth.core.model import Promise, PromiseState, Task
from troth.core.retention_rules import Place


class Query(Struct, frozen=True):
    """What a search asks of one shard's completed promises. `scan_count` bounds the work.

    With `has_task` it finds only those that had a workflow task.
    With `oldest_first` the serials are those above `before_serial`.
    It finds the server's own promises if it is for these (`reserved`), and else none of them.
    """

    pattern: Pattern
    states: tuple[PromiseState, ...]
    tags: dict[str, str]
    limit_count: int
    before_serial: int
    scan_count: int
    reserved: bool = False
    has_task: bool = False
    created: TimeRange | None = None
    completed: TimeRange | None = None
    oldest_first: bool = False

    def is_beyond(self, serial: int) -> bool:
        """Return whether a promise with this serial comes after those that were looked at."""
        return serial > self.before_serial if self.oldest_first else serial < self.before_serial

    def admits(self, promise_id: str) -> bool:
        """Return whether a promise of this id may belong into the result."""
        return is_reserved(promise_id) is self.reserved and self.pattern.matches(promise_id)

    def matches(self, promise: Promise) -> bool:
        """Return whether a promise belongs into the result, apart from its serial."""
        return self.fits(promise) and self.admits(promise.id)

    def fits(self, promise: Promise) -> bool:
        """Return whether a promise belongs into the result, apart from its serial and its id."""
        if promise.state not in self.states:
            return False
        if self.has_task and promise.task_version is None:
            return False
        if self.created is not None and not _is_within(promise.created_on, self.created):
            return False
        if self.completed is not None and not _is_within(promise.completed_on, self.completed):
            return False
        tags = promise.tags
        if not self.tags:
            return True
        return tags is not None and all(tags.get(key) == value for key, value in self.tags.items())


def _is_within(time_ms: int | None, times: TimeRange) -> bool:
    return time_ms is not None and times[0] <= time_ms < times[1]


class Found(Struct, frozen=True):
    """Matches, newest first, and the serial to go on below; None when there is no more."""

    promises: list[Promise]
    next_before: int | None


class Ended(Struct, frozen=True):
    """A completed promise's place in the order of ends."""

    place: Place
    id: str


class ColdStore(Protocol):
    """One shard's completed promises and tasks that are not in memory."""

    def promise(self, promise_id: str) -> Promise | None:
        """Read a completed promise."""
        ...  # pragma: no cover

    def task(self, task_id: str) -> Task | None:
        """Read a finished task: a copy of the caller's own."""
        ...  # pragma: no cover

    def first_serial(self) -> int | None:
        """Return the smallest serial of what searches of clients find; None if there is nothing."""
        ...  # pragma: no cover

    def search(self, query: Query) -> Found:
        """Find completed promises."""
        ...  # pragma: no cover

    def beginning_with(
        self, prefix: str, after: bytes, limit_count: int
    ) -> tuple[list[Promise], bytes | None]:
        """Return completed promises whose ids begin so, in the order of ids, and where to go on.

        `after` is empty for the first ones, else the second result of before, which is None at the
        end.
        """
        ...  # pragma: no cover

    def ended(
        self, state: PromiseState, after: Place, until_ms: int, limit_count: int
    ) -> list[Ended]:
        """Return promises of one state that ended after a place, up to a time, earliest first."""
        ...  # pragma: no cover

    def tasks_of(
        self, root_id: str, after: bytes, limit_count: int
    ) -> tuple[list[Task], bytes | None]:
        """Return finished tasks whose root is this promise, and where to go on; `beginning_with`
        has the same form."""
        ...  # pragma: no cover


class NothingCold:
    """The port of a shard that keeps everything in memory."""

    def promise(self, promise_id: str) -> Promise | None:
        return None

    def task(self, task_id: str) -> Task | None:
        return None

    def first_serial(self) -> int | None:
        return None

    def search(self, query: Query) -> Found:
        return Found([], None)

    def beginning_with(
        self, prefix: str, after: bytes, limit_count: int
    ) -> tuple[list[Promise], bytes | None]:
        return [], None

    def ended(
        self, state: PromiseState, after: Place, until_ms: int, limit_count: int
    ) -> list[Ended]:
        return []

    def tasks_of(
        self, root_id: str, after: bytes, limit_count: int
    ) -> tuple[list[Task], bytes | None]:
        return [], None


def merge(parts: Iterable[Found], limit_count: int, *, oldest_first: bool = False) -> Found:
    """Merge the matches of several places into one page, newest first unless asked otherwise.

    A place that has not looked at everything may still hold matches below where it stopped; so rows
    below the highest such serial are left for the next page. While a checkpoint ends, a promise is
    for a moment both in memory and in the cold store; it is one row all the same.
    """
    parts = list(parts)
    stops = [part.next_before for part in parts if part.next_before is not None]
    horizon = min(stops, default=None) if oldest_first else max(stops, default=None)
    by_serial = {
        promise.serial: promise
        for part in parts
        for promise in part.promises
        if horizon is None
        or promise.serial == horizon
        or (promise.serial < horizon) is oldest_first
    }
    rows = [by_serial[serial] for serial in sorted(by_serial, reverse=not oldest_first)]
    if len(rows) > limit_count:
        del rows[limit_count:]
        return Found(rows, rows[-1].serial)
    return Found(rows, horizon)

"""What a run of a schedule makes: the promise's id, its timeout and its tags, and its trace.

The ids of the trace come from the run, so a run that is made twice has the same. And how many runs
were missed, counted back from a time, a slice in each step: looking for one in a cron expression
takes 35 us, so a thousand are too much for one. What has been counted is a note in memory: after a
crash, the count begins again.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, final

from msgspec import Struct

from .commands import Command, ResumeSchedule
from .grammar.cron import Cron
from .grammar.templates import expand
from .limits import saturating_add
from .model import (
    TAG_BRANCH,
    TAG_INVOCATION,
    TAG_ORIGIN,
    TAG_PARENT,
    TAG_PREFIX,
    TAG_SCHEDULE,
    TAG_TARGET,
    Schedule,
    Trace,
)

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8


class ScheduleRun(Struct, frozen=True):
    """The promise of one run; its param is the schedule's."""

    promise_id: str
    timeout: int
    tags: dict[str, str]


def run_of(schedule: Schedule, run_time: int) -> ScheduleRun:
    """Return what a schedule makes at a time, in ms."""
    promise_id = expand(schedule.promise_id, schedule.id, run_time)
    tags = {**(schedule.promise_tags or {}), TAG_SCHEDULE: schedule.id}
    if TAG_TARGET in tags:
        # A workflow mints its children's ids from these.
        tags |= dict.fromkeys((TAG_ORIGIN, TAG_BRANCH, TAG_PARENT, TAG_PREFIX), promise_id)
    else:
        tags[TAG_INVOCATION] = "true"
    return ScheduleRun(promise_id, saturating_add(run_time, schedule.promise_timeout), tags)


def ids_of_run(schedule_id: str, run_time: int) -> tuple[int, int]:
    """Return the ids of the trace and of the span with which a run at a time, in ms, begins."""
    made = blake2b(
        f"{run_time} {schedule_id}".encode("utf-8", "surrogatepass"),
        digest_size=_TRACE_ID_BYTES + _SPAN_ID_BYTES,
        person=b"troth run",
    ).digest()
    return int.from_bytes(made[:_TRACE_ID_BYTES]) or 1, int.from_bytes(made[_TRACE_ID_BYTES:]) or 1


def trace_of_run(
    schedule_id: str, run_time: int, samples: Callable[[int], bool] | None
) -> Trace | None:
    """Return the trace of a run, if `samples` says so of its id."""
    if samples is None:
        return None
    trace_id, span_id = ids_of_run(schedule_id, run_time)
    return Trace(f"00-{trace_id:032x}-{span_id:016x}-01") if samples(trace_id) else None


@final
class MissedRuns(Struct):
    """The runs of a schedule from its next run up to `until`, as far as they have been counted.

    No more than `limit_count` of them are made up for. It is about the schedule as it was: once
    that has changed, count again.
    """

    schedule: Schedule
    until: int
    limit_count: int
    _counted_count: int = 0
    _earliest: int | None = None

    def count(self, cron: Cron, most_count: int) -> bool:
        """Count so many more, the latest first; whether enough is known."""
        # Counted from the first run itself, because `@every` has no other grid than that.
        first = self._first()
        wanted_count = min(max(self.limit_count, 1) - self._counted_count, most_count)
        until = self.until if self._earliest is None else self._earliest - 1
        due = cron.latest_between_ms(first, until, wanted_count)
        if due:
            self._earliest = due[0]
        self._counted_count += len(due)
        return len(due) < wanted_count or self._counted_count >= max(self.limit_count, 1)

    @property
    def are_all_made_up(self) -> bool:
        """Return whether none is left out. It is known when `count` says so."""
        return self._counted_count < self.limit_count

    def resumed_at(self, cron: Cron) -> int | None:
        """Return the first run that is not left out."""
        if self.limit_count:
            return self._earliest
        return cron.next_after_ms(self._first() if self._earliest is None else self._earliest)

    def _first(self) -> int:
        first = self.schedule.next_run_time
        assert first is not None, "a schedule that never runs misses nothing"
        return first


class ContinueResume(Command, frozen=True):
    """Count a slice of what a paused schedule has missed; resume it when that is known."""

    resume: ResumeSchedule
    missed: MissedRuns

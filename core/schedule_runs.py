"""What a run of a schedule makes: the promise's id, its timeout and its tags, and its trace.

The ids of the trace come from the run, so a run that is made twice has the same.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from msgspec import Struct

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

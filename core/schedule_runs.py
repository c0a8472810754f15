"""What a run of a schedule makes: the promise's id, its timeout and its tags."""

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
)


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

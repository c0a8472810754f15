"""Histories of tasks and locks whose leases run out, made by hand: broken ones are rejected."""

from typing import Any

import pytest

from troth.core.codes import Code
from troth.core.commands import AcquireLock, ClaimTask, CompleteTask, ReleaseLock
from troth.core.model import Lock, TaskKind
from troth.core.replies import Claimed, Reply

from .lease_models import (
    UNSYNCED_MS,
    Absence,
    LeasedLockModel,
    LeasedTaskModel,
    LockOperation,
    TimedLock,
)
from .linearizability import Operation, check

# Locks

TTL_MS = 10


def acquire(called: float, returned: float, who: str, until_ms: int | None) -> LockOperation:
    """Between 100 ms and 200 ms of the server's time; without `until_ms` it is refused."""
    timed = TimedLock(AcquireLock("lock", who, who, TTL_MS), 100, 200)
    if until_ms is None:
        return Operation(called, timed, returned, Reply(Code.LOCK_HELD))
    lock = Lock("lock", who, who, TTL_MS, until_ms)
    return Operation(called, timed, returned, Reply(Code.CREATED, lock=lock))


def release(called: float, returned: float, who: str, code: Code) -> LockOperation:
    timed = TimedLock(ReleaseLock("lock", who), 100, 105)
    return Operation(called, timed, returned, Reply(code))


LOST_ACQUIRE = Operation[TimedLock, Reply](0, TimedLock(AcquireLock("lock", "a", "a", 10), 0, 0))

BROKEN_LOCKS: dict[str, list[LockOperation]] = {
    "held by two": [acquire(0, 1, "a", 160), acquire(2, 3, "b", 165)],
    "held by two, asked at the same time": [acquire(0, 3, "a", 160), acquire(1, 2, "b", 165)],
    "refused although it was given back": [
        acquire(0, 1, "a", 160),
        release(2, 3, "a", Code.NO_CONTENT),
        acquire(4, 5, "b", None),
    ],
    "refused although nobody ever held it": [acquire(0, 1, "b", None)],
    "refused although its time was over": [acquire(0, 1, "a", 99), acquire(2, 3, "b", None)],
    "given back twice": [
        acquire(0, 1, "a", 160),
        release(2, 3, "a", Code.NO_CONTENT),
        release(4, 5, "a", Code.NO_CONTENT),
    ],
    "lost before its time": [
        acquire(0, 1, "a", 160),
        release(2, 3, "a", Code.LOCK_NOT_FOUND),
    ],
}


@pytest.mark.parametrize("name", BROKEN_LOCKS)
def test_a_broken_history_of_a_lock_is_rejected(name: str) -> None:
    assert check(LeasedLockModel(), BROKEN_LOCKS[name]) == ["lock"]


SOUND_LOCKS: dict[str, list[LockOperation]] = {
    "one after the other": [
        acquire(0, 1, "a", 160),
        acquire(2, 3, "b", None),
        release(4, 5, "a", Code.NO_CONTENT),
        acquire(6, 7, "b", 165),
    ],
    "its time is over": [acquire(0, 1, "a", 150), acquire(2, 3, "b", 160)],
    "renewed": [acquire(0, 1, "a", 150), acquire(2, 3, "a", 155)],
    "refused for one whose answer was lost": [LOST_ACQUIRE, acquire(1, 2, "b", None)],
    "taken after one whose answer was lost": [LOST_ACQUIRE, acquire(1, 2, "b", 160)],
}


def test_a_lock_has_its_full_time_again_after_an_absence() -> None:
    """Until 160, away from 155 to 180: so it is nobody else's before 190, and free from 190 on."""
    away = [Absence(155, 180, 180)]
    refused = TimedLock(AcquireLock("lock", "b", "b", TTL_MS), 188, 189)
    held = [acquire(0, 1, "a", 160), Operation(2, refused, 3, Reply(Code.LOCK_HELD))]

    assert check(LeasedLockModel(away), held) == []
    assert check(LeasedLockModel(), held) == ["lock"]
    assert check(LeasedLockModel(away), [acquire(0, 1, "a", 160), acquire(2, 3, "b", 200)]) == []
    too_soon = [acquire(0, 1, "a", 160), acquire(2, 3, "b", 195)]
    assert check(LeasedLockModel(away), too_soon) == ["lock"]


def test_a_clock_that_is_set_forward_makes_more_of_what_may_not_be_on_disk() -> None:
    """Until 160, gone at 30,160 by a clock that has run for less than 10 s, and skipped 29.

    Seed 107 of `--groups 0` met it: the machine lost its power in the moment of the step.
    """
    refused = TimedLock(AcquireLock("lock", "b", "b", TTL_MS), 31_002, 31_003)
    held = [acquire(0, 1, "a", 160), Operation(2, refused, 3, Reply(Code.LOCK_HELD))]

    ran = Absence(30_160, 31_000, 31_000)
    assert check(LeasedLockModel([ran]), held) == ["lock"]
    skipped = Absence(30_160, 31_000, 31_000, unsynced_ms=UNSYNCED_MS + 29_000)
    assert check(LeasedLockModel([skipped]), held) == []


@pytest.mark.parametrize("name", SOUND_LOCKS)
def test_a_sound_history_of_a_lock_is_accepted(name: str) -> None:
    assert check(LeasedLockModel(), SOUND_LOCKS[name]) == []


# Tasks

TASK = "__invoke:root"
GRANTED = Reply(Code.CREATED, claimed=Claimed(TaskKind.INVOKE, "root", "root"))
DONE = Reply(Code.CREATED)


def claim(called: float, returned: float, counter: int, reply: Reply | None) -> Any:
    return Operation(called, ClaimTask(TASK, counter, "p", 10), returned, reply)


def finish(called: float, returned: float, counter: int, reply: Reply | None) -> Any:
    return Operation(called, CompleteTask(TASK, counter), returned, reply)


BROKEN_TASKS: dict[str, list[Any]] = {
    "a double claim": [claim(0, 1, 1, GRANTED), claim(2, 3, 1, GRANTED)],
    "a double claim at the same time": [claim(0, 3, 1, GRANTED), claim(1, 2, 1, GRANTED)],
    "a stale counter": [claim(0, 1, 2, GRANTED), claim(2, 3, 1, GRANTED)],
    "claimed again when it was done": [
        claim(0, 1, 1, GRANTED),
        finish(2, 3, 1, DONE),
        claim(4, 5, 2, GRANTED),
    ],
    "done by who has lost it": [
        claim(0, 1, 1, GRANTED),
        claim(2, 3, 2, GRANTED),
        finish(4, 5, 1, DONE),
    ],
    "done by nobody": [finish(0, 1, 1, DONE)],
    "refused as claimed by nobody": [claim(0, 1, 1, Reply(Code.TASK_CLAIMED))],
    "claimed after it was seen to be done": [
        claim(0, 1, 1, Reply(Code.TASK_COMPLETED)),
        claim(2, 3, 2, GRANTED),
    ],
}


@pytest.mark.parametrize("name", BROKEN_TASKS)
def test_a_broken_history_of_a_task_is_rejected(name: str) -> None:
    assert check(LeasedTaskModel(), BROKEN_TASKS[name]) == ["root"]


SOUND_TASKS: dict[str, list[Any]] = {
    "done": [claim(0, 1, 1, GRANTED), finish(2, 3, 1, DONE), finish(4, 5, 1, Reply(Code.OK))],
    "lost and claimed anew": [
        claim(0, 1, 1, GRANTED),
        claim(2, 3, 2, GRANTED),
        finish(4, 5, 1, Reply(Code.TASK_COUNTER)),
        finish(6, 7, 2, DONE),
    ],
    "claimed without an answer, then done": [
        claim(0, float("inf"), 1, None),
        claim(1, 2, 1, Reply(Code.TASK_CLAIMED)),
        finish(3, 4, 1, DONE),
    ],
}


@pytest.mark.parametrize("name", SOUND_TASKS)
def test_a_sound_history_of_a_task_is_accepted(name: str) -> None:
    assert check(LeasedTaskModel(), SOUND_TASKS[name]) == []

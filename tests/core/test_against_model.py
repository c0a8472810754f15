"""The machines against the model: the same random commands, the same answers, the same state.

After Resonate's differential test: runs go on until every pair of command and reply code that the
specification allows has been seen, and every row of the task life cycle has been used.
"""

from collections import Counter

import pytest

from tests.helpers.seeds import seeds_count
from troth.core.codes import Code
from troth.core.lifecycles import TASK, TaskEvent
from troth.core.model import TaskState

from .drive import Drive

RUNS_COUNT = seeds_count(100, 500)
RUNS_LIMIT_COUNT = 500
STEPS_COUNT = 150

COMPLETION_REFUSALS = (
    *(Code.PROMISE_RESOLVED, Code.PROMISE_REJECTED),
    *(Code.PROMISE_CANCELED, Code.PROMISE_TIMEDOUT),
)
ALLOWED = {
    "CreatePromise": {
        *(Code.OK, Code.CREATED, Code.PROMISE_EXISTS),
        *(Code.RECEIVER_NOT_FOUND, Code.TASK_FENCED),
    },
    "ReadPromise": {Code.OK, Code.PROMISE_NOT_FOUND},
    "CompletePromise": {
        *(Code.OK, Code.CREATED, Code.PROMISE_NOT_FOUND, Code.TASK_FENCED),
        *COMPLETION_REFUSALS,
    },
    "CreateCallback": {
        *(Code.OK, Code.CREATED, Code.SAME_ROOT),
        *(Code.PROMISE_NOT_FOUND, Code.TASK_FENCED),
    },
    "CreateSubscription": {Code.OK, Code.CREATED, Code.PROMISE_NOT_FOUND},
    "ClaimTask": {
        *(Code.CREATED, Code.TASK_NOT_FOUND, Code.TASK_CLAIMED),
        *(Code.TASK_COMPLETED, Code.TASK_COUNTER),
    },
    "CompleteTask": {
        *(Code.OK, Code.CREATED, Code.TASK_NOT_FOUND),
        *(Code.TASK_STATE, Code.TASK_COUNTER),
    },
    "DropTask": {Code.OK, Code.CREATED, Code.TASK_NOT_FOUND, Code.TASK_COUNTER},
    "HeartbeatTasks": {Code.OK},
    "CreateSchedule": {Code.OK, Code.CREATED, Code.SCHEDULE_EXISTS},
    "ReadSchedule": {Code.OK, Code.SCHEDULE_NOT_FOUND},
    "UpdateSchedule": {Code.OK, Code.SCHEDULE_NOT_FOUND},
    "PauseSchedule": {Code.OK, Code.SCHEDULE_NOT_FOUND},
    "ResumeSchedule": {Code.OK, Code.SCHEDULE_NOT_FOUND},
    "DeleteSchedule": {Code.NO_CONTENT, Code.SCHEDULE_NOT_FOUND},
    "AcquireLock": {Code.CREATED, Code.LOCK_HELD},
    "ReleaseLock": {Code.NO_CONTENT, Code.LOCK_NOT_FOUND},
    "HeartbeatLocks": {Code.OK},
}
EVENTS = {
    *("time", "schedule", "sent", "not sent", "retry", "outdated", "crash", "search"),
    *("message", "message again", "acknowledgement lost", "late", "away", "clock set back"),
}


@pytest.mark.seeds
@pytest.mark.slow
def test_random_commands_are_answered_as_the_model_says() -> None:
    """One seed a run, alternating one shard and four, timers on time and late."""
    allowed = {(name, code) for name, codes in ALLOWED.items() for code in codes}
    seen: Counter[tuple[str, Code]] = Counter()
    events: Counter[str] = Counter()
    transitions: set[tuple[TaskState, TaskEvent]] = set()
    for seed in range(RUNS_LIMIT_COUNT):
        has_all = set(seen) == allowed and transitions == set(TASK) and set(events) == EVENTS
        if seed >= RUNS_COUNT and has_all:
            break
        drive = Drive(seed, shard_count=(1, 4)[seed % 2], is_lazy=seed % 4 >= 2)
        try:
            drive.run(STEPS_COUNT)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        seen += drive.seen
        events += drive.events
        transitions |= drive.system.transitions

    assert set(seen) == allowed
    assert transitions == set(TASK)
    assert set(events) == EVENTS

"""Both APIs on the same promises: the machines against the model.

As `test_against_model.py`: runs go on until every pair of command and reply code has been seen, and
every row of the table of workflow tasks, through every command.
"""

from collections import Counter

import pytest

from tests.helpers.seeds import seeds_count
from troth.core.codes import Code

from .workflow_drive import WorkflowDrive

RUNS_COUNT = seeds_count(60, 300)
RUNS_LIMIT_COUNT = 300
STEPS_COUNT = 300
NOT_THERE, STATE, VERSION = Code.TASK_NOT_FOUND, Code.WORKFLOW_STATE, Code.WORKFLOW_VERSION
FULL = Code.TOO_MANY_WAITING

ALLOWED = {
    "EnsurePromise": {Code.OK, NOT_THERE, STATE, VERSION},
    "SettlePromise": {Code.OK, Code.PROMISE_NOT_FOUND, NOT_THERE, STATE, VERSION},
    "RegisterAwait": {Code.OK, Code.PROMISE_NOT_FOUND, Code.AWAITER_UNUSABLE, FULL},
    "RegisterListener": {Code.OK, Code.PROMISE_NOT_FOUND, FULL},
    "EnsureSchedule": {Code.OK},
    "ReadWorkflow": {Code.OK, NOT_THERE},
    "CreateWorkflow": {Code.OK, STATE, Code.NO_WORKFLOW_TASK},
    "AcquireWorkflow": {Code.OK, NOT_THERE, STATE, VERSION},
    "SuspendWorkflow": {
        *(Code.OK, Code.AWAITED_SETTLED, NOT_THERE, STATE, VERSION),
        *(Code.AWAITED_NOT_FOUND, FULL),
    },
    "FulfillWorkflow": {Code.OK, NOT_THERE, STATE, VERSION},
    "ReleaseWorkflow": {Code.OK, NOT_THERE, STATE, VERSION},
    "RenewWorkflows": {Code.OK},
    "HaltWorkflow": {Code.OK, NOT_THERE, STATE},
    "ContinueWorkflow": {Code.OK, NOT_THERE, STATE},
}
EVENTS = {
    *("execute sent", "execute not sent", "execute again", "unblocked", "late", "crash"),
    *("message", "message again", "acknowledgement lost", "evicted", "search", "schedule"),
}
STATES = ("pending", "acquired", "suspended", "halted", "fulfilled")


def table_rows() -> set[tuple[str, str, Code]]:
    """The rows of envelope.md 5: which command is answered how in which state."""
    ok_in = {
        "CreateWorkflow": ("pending", "acquired", "fulfilled"),  # acquired: the same once more
        "AcquireWorkflow": ("pending", "acquired"),
        "SuspendWorkflow": ("acquired",),
        "fence": ("acquired",),
        "FulfillWorkflow": ("acquired",),
        "ReleaseWorkflow": ("acquired",),
        "HaltWorkflow": ("pending", "acquired", "suspended", "halted"),
        "ContinueWorkflow": ("halted",),
    }
    rows = {(name, state, Code.OK) for name, states in ok_in.items() for state in states}
    for name, states in ok_in.items():
        rows |= {(name, state, STATE) for state in STATES if state not in states}
    return rows | {
        ("CreateWorkflow", "acquired", STATE),
        ("AcquireWorkflow", "acquired", STATE),
        ("SuspendWorkflow", "acquired", Code.AWAITED_SETTLED),
    }


@pytest.mark.seeds
@pytest.mark.slow
def test_commands_of_both_apis_are_answered_as_the_model_says() -> None:
    """One seed a run; every other one makes checkpoints; timers on time and late."""
    allowed = {(name, code) for name, codes in ALLOWED.items() for code in codes}
    seen: Counter[tuple[str, Code]] = Counter()
    events: Counter[str] = Counter()
    rows: Counter[tuple[str, str, Code]] = Counter()
    for seed in range(RUNS_LIMIT_COUNT):
        has_all = allowed <= set(seen) and set(events) >= EVENTS and table_rows() <= set(rows)
        if seed >= RUNS_COUNT and has_all:
            break
        drive = WorkflowDrive(
            seed, (1, 4)[seed % 2], is_lazy=seed % 4 >= 2, makes_checkpoints=seed % 8 >= 4
        )
        try:
            drive.run(STEPS_COUNT)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        seen += drive.seen
        events += drive.events
        rows += drive.rows

    assert {pair for pair in seen if pair[0] in ALLOWED} == allowed
    assert set(events) >= EVENTS
    assert set(rows) >= table_rows()

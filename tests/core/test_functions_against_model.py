"""The machines against the model, with function tasks and the catalog among everything else.

As `test_against_model.py`: runs go on until every pair of command and reply code has been seen, and
function tasks have ended in every way there is.
"""

from collections import Counter

import pytest

from tests.helpers.seeds import seeds_count
from troth.core.codes import Code

from .function_drive import FunctionDrive

RUNS_COUNT = seeds_count(60, 240)
RUNS_LIMIT_COUNT = 240
STEPS_COUNT = 150
NOT_THERE, NOT_HELD = Code.EXECUTION_NOT_FOUND, Code.EXECUTION_NOT_HELD
FINISHED = Code.EXECUTION_FINISHED

ALLOWED = {
    "CreateEntry": {Code.CREATED, Code.ENTRY_EXISTS},
    "ReadEntry": {Code.OK, Code.ENTRY_NOT_FOUND},
    "ReplaceEntry": {Code.OK, Code.ENTRY_NOT_FOUND, Code.ENTRY_CHANGED},
    "DeleteEntry": {Code.NO_CONTENT, Code.ENTRY_NOT_FOUND, Code.ENTRY_CHANGED},
    "StorePackage": {Code.CREATED, Code.OK, Code.PROMISE_EXISTS},
    "CreateExecution": {Code.CREATED, Code.OK, Code.PROMISE_EXISTS},
    "ReadExecution": {Code.OK, NOT_THERE},
    "AssignExecution": {
        *(Code.CREATED, Code.OK, NOT_THERE, FINISHED),
        *(Code.TASK_CLAIMED, Code.TASK_COUNTER),
    },
    "ReportExecution": {Code.OK, NOT_THERE, NOT_HELD, FINISHED},
    "ReturnExecution": {Code.NO_CONTENT, NOT_THERE, NOT_HELD, FINISHED},
    "FinishExecution": {Code.CREATED, Code.OK, NOT_THERE, NOT_HELD, FINISHED},
    "CancelExecution": {Code.CREATED, Code.OK, NOT_THERE, FINISHED},
}
# A result, nodes lost, too long on a node, canceled, waited too long.
ENDINGS = {
    *(("RESOLVED", "200"), ("RESOLVED", "500")),
    *(("REJECTED", "200"), ("REJECTED", "500")),
    *(("REJECTED", "502"), ("REJECTED", "504")),
    *(("REJECTED_CANCELED", "410"), ("REJECTED_TIMEDOUT", "504")),
}
EVENTS = {"package deleted", "no package", "late", "crash", "evicted", "search"}


@pytest.mark.seeds
@pytest.mark.slow
def test_commands_about_functions_are_answered_as_the_model_says() -> None:
    """One seed a run; every other one makes checkpoints; timers on time and late."""
    allowed = {(name, code) for name, codes in ALLOWED.items() for code in codes}
    seen: Counter[tuple[str, Code]] = Counter()
    events: Counter[str] = Counter()
    endings: Counter[tuple[str, str]] = Counter()
    for seed in range(RUNS_LIMIT_COUNT):
        has_all = allowed <= set(seen) and set(events) >= EVENTS and set(endings) == ENDINGS
        if seed >= RUNS_COUNT and has_all:
            break
        drive = FunctionDrive(
            seed, (1, 3)[seed % 2], is_lazy=seed % 4 >= 2, makes_checkpoints=seed % 8 >= 4
        )
        try:
            drive.run(STEPS_COUNT)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        seen += drive.seen
        events += drive.events
        endings += drive.endings()

    assert {pair for pair in seen if pair[0] in ALLOWED} == allowed
    assert set(events) >= EVENTS
    assert set(endings) == ENDINGS

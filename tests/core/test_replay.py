"""The log is the state: what is read back from it equals what was there, wherever it is cut.

Cuts are between steps, as the log writes whole batches. After a cut nothing between shards is lost
or applied twice (design.md I6), also when acknowledgments were lost.
"""

import copy
from collections import Counter

import pytest

from tests.helpers.seeds import seeds
from troth.core import commands as c
from troth.core import records as r
from troth.core.model import PromiseState, TaskKind
from troth.core.state.shard_state import TimerKey
from troth.core.workflows import ACQUIRED

from .drive import Drive
from .dumps import dump
from .function_drive import FunctionDrive
from .model import Model
from .system import System
from .views import message_key
from .workflow_drive import WorkflowDrive

Moment = tuple[int, int, Model]
"""A length of the log in steps, the time then, and what was true then."""


def drive_with_moments(
    kind: type[Drive], seed: int, shard_count: int
) -> tuple[Drive, list[Moment]]:
    """A random run, remembered at some of its moments."""
    drive = kind(seed, shard_count, is_lazy=False)
    moments: list[Moment] = []
    for _ in range(12):
        drive.run(10)
        moments.append((len(drive.system.log), drive.system.now, copy.deepcopy(drive.model)))
    return drive, moments


def expected_tasks(system: System) -> set[str]:
    """The tasks that the callbacks of completed promises must have become."""
    completed = {
        promise.id
        for machine in system.machines
        for promise in machine.state.promises.values()
        if promise.state is not PromiseState.PENDING
    }
    written = (r.decode(body) for step in system.log for _, body in step)
    return {
        record.callback.id
        for record in written
        if isinstance(record, r.CallbackCreated) and record.callback.promise_id in completed
    }


def assert_nothing_is_under_way(system: System) -> None:
    """Every message between shards has been applied once, and its sender knows."""
    for machine in system.machines:
        assert not machine.state.outbox
        for target, sequence in machine.state.outbox.sequences.items():
            assert system.machines[target].state.inbox[machine.state.index] == sequence


def deadlines(system: System) -> list[dict[TimerKey, int]]:
    """All timers but those that send a workflow's task, which are notes."""
    return [
        {
            key: time
            for key, time in timers.items()
            if key[0] is not c.WORKFLOW_TIMER or machine.state.workflows[key[1]].state is ACQUIRED
        }
        for machine, timers in zip(system.machines, system.timers, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("shard_count", [1, 4])
@pytest.mark.parametrize("seed", seeds(0, 4, 12))
@pytest.mark.parametrize("kind", [Drive, FunctionDrive, WorkflowDrive])
def test_replay_gives_the_same_state(kind: type[Drive], seed: int, shard_count: int) -> None:
    """Live and replay are one: every field and every index is the same, timers and sends too."""
    drive = kind(seed, shard_count, is_lazy=seed % 2 == 1)
    drive.run(150)
    live = drive.system
    replayed = System(shard_count, live.options, live.log, live.now)

    for there, here in zip(live.machines, replayed.machines, strict=True):
        assert dump(there.state) == dump(here.state)

    restarted = live.restarted()
    # `System` has compared each with its deadline; those of leases are later after a restart.
    assert [set(one) for one in deadlines(live)] == [set(one) for one in deadlines(restarted)]
    # Workflows that wait for a worker are sent again, whatever became of their messages.
    assert live.workflows.sending.items() <= restarted.workflows.sending.items()
    assert live.workflows.unblocks == restarted.workflows.unblocks
    # Whatever was given to delivery is given to it again; what had stalled is tried at once.
    assert live.delivering.items() <= (restarted.delivering | live.delivering).items()
    gone = live.delivering.keys() - restarted.delivering.keys()
    tried = restarted.delivering.keys() - live.delivering.keys()
    assert tried <= live.stalled.keys()
    assert len(gone) <= len(tried), "only an older task of the same root may have the turn"


@pytest.mark.slow
@pytest.mark.seeds
@pytest.mark.parametrize("shard_count", [1, 4])
@pytest.mark.parametrize("seed", seeds(100, 3, 8))
@pytest.mark.parametrize("kind", [Drive, FunctionDrive, WorkflowDrive])
def test_a_crash_at_any_moment_keeps_what_was_true_then(
    kind: type[Drive], seed: int, shard_count: int
) -> None:
    """A cut at a moment gives the model of that moment, and the messages on their way arrive."""
    drive, moments = drive_with_moments(kind, seed, shard_count)
    for step_count, now, model in moments:
        past = System(shard_count, drive.system.options, drive.system.log[:step_count], now)
        system = past.restarted()
        model.resume_time(now)
        for schedule in model.schedules.values():
            if schedule.paused_on is None:
                schedule.follow_clock(now)
        assert system.everything() == model.everything()

        while system.posts:
            source, target = min(system.posts)
            first = system.posts[source, target][0]
            is_new = first.sequence > system.machines[target].state.inbox.get(source, 0)
            system.deliver(source, target)
            if is_new:
                model.arrive(message_key(first.message))
            model.settle(now)
            system.fire_due()
        system.deliver_all()
        assert system.everything() == model.everything()
        assert model.transit == []
        assert_nothing_is_under_way(system)


def resumes_received(system: System) -> Counter[str]:
    """How often each resume message between shards was applied."""
    return Counter(
        record.message.callback.id
        for step in system.log
        for record in (r.decode(body) for _, body in step)
        if isinstance(record, r.MessageReceived) and isinstance(record.message, r.ResumeMessage)
    )


def test_every_callback_becomes_its_task_once_wherever_the_log_ends() -> None:
    """Cut after any step of a run: no callback's task is missing, none was made twice."""
    message_count = 0
    for seed in range(200, 210):
        drive = Drive(seed, 4, is_lazy=False)
        drive.run(250)
        for step_count in range(seed % 3, len(drive.system.log) + 1, 3):
            system = drive.system.restarted(step_count)
            system.deliver_all()
            assert_nothing_is_under_way(system)
            tasks = {task.id for task in system.tasks() if task.kind is not TaskKind.INVOKE}
            assert tasks == expected_tasks(system), f"seed {seed}"
            received = resumes_received(system)
            assert set(received.values()) <= {1}, f"seed {seed}"
        message_count += len(received)
    assert message_count >= 10, "the runs send too little between shards to say anything"


def test_two_crashes_in_a_row_lose_and_repeat_nothing() -> None:
    """A crash while the messages of the last crash are delivered again, at every point of it."""
    drive = Drive(301, 4, is_lazy=False)
    drive.run(150)
    for step_count in range(0, len(drive.system.log), 7):
        first = drive.system.restarted(step_count)
        for source, target in list(first.posts):
            first.deliver(source, target)
            second = first.restarted()
            second.deliver_all()
            assert_nothing_is_under_way(second)
            tasks = {task.id for task in second.tasks() if task.kind is not TaskKind.INVOKE}
            assert tasks == expected_tasks(second)

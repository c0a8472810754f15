"""Each rule of the watch notices what it is there for, in histories made by hand."""

from collections.abc import Callable

import pytest

from troth.core import records as r
from troth.core.codes import Code
from troth.core.machine import Step
from troth.core.model import (
    EMPTY_VALUE,
    Callback,
    Lock,
    Promise,
    PromiseState,
    Schedule,
    Task,
    TaskKind,
    TaskState,
    Value,
    replace,
)
from troth.core.replies import Claimed, Reply, TaskMessage
from troth.core.retention_rules import RetentionRule
from troth.persistence.wal.log import LogRecord
from troth.shards.hashing import shard_of

from .invariants import Watch
from .ledger import BrokenPromise

RESOLVED, TIMEDOUT = PromiseState.RESOLVED, PromiseState.REJECTED_TIMEDOUT
TASK = "__invoke:p"
SEED = r.TaskSeed("poll://any@group")
RULE = RetentionRule((RESOLVED,), 1_000)


def made(name: str = "p", serial: int = 1) -> r.PromiseCreated:
    return r.PromiseCreated(name, serial, 100, 0, EMPTY_VALUE, None, None, None, SEED)


def ended(state: PromiseState = RESOLVED, on: int = 10) -> r.PromiseCompleted:
    return r.PromiseCompleted("p", state, Value(data="x"), None, on, on)


def claimed(process_id: str = "a", expires_at: int = 20) -> r.TaskClaimed:
    return r.TaskClaimed(TASK, process_id, 10, expires_at)


def locked(execution_id: str) -> r.LockAcquired:
    return r.LockAcquired(Lock("lock", execution_id, "process", 10, 20))


def waits(promise_id: str = "p") -> r.CallbackCreated:
    name = "__notify:p:one"
    callback = Callback(name, TaskKind.NOTIFY, promise_id, promise_id, 100, "poll://uni@g/1", 0)
    return r.CallbackCreated(callback)


SCHEDULE = Schedule("s", 1, "*/5 * * * * *", "run/{{.timestamp}}", 10, 0, 5_000)


def fired(run_time: int, following: int, at: int = 60_000) -> r.ScheduleFired:
    message = r.PromiseMessage(f"run/{run_time}", 100_000, EMPTY_VALUE, {})
    return r.ScheduleFired("s", run_time, following, message, run_time, at)


def received(sequence: int, name: str = "run/1") -> r.MessageReceived:
    message = r.PromiseMessage(name, 100, EMPTY_VALUE, {})
    return r.MessageReceived(0, sequence, message, 1, 1)


BROKEN: dict[str, tuple[list[r.Record], str]] = {
    "a promise made twice": ([made(), made()], "made twice"),
    "a promise that ends twice": ([made(), ended(), ended()], "ended twice"),
    "an end of nothing": ([ended()], "never made"),
    "a timeout before its time": ([made(), ended(TIMEDOUT, 99)], "too early"),
    "a completion after the timeout": ([made(), ended(RESOLVED, 100)], "after its timeout"),
    "a callback for what has ended": ([made(), ended(), waits()], "waits for what has ended"),
    "a callback made twice": ([made(), waits(), waits()], "made twice"),
    "a task claimed by two": ([made(), claimed("a"), claimed("b")], "claimed while"),
    "a task claimed again by its holder": ([made(), claimed(), claimed()], "claimed while"),
    "a renewal that comes too late": ([made(), claimed(), claimed("a", 30)], "came back"),
    "a counter claimed twice": (
        [made(), claimed(), r.TaskReleased(TASK), "same counter", claimed()],  # type: ignore[list-item]
        "claimed twice",
    ),
    "a task completed by nobody": ([made(), r.TaskCompleted(TASK, 1)], "completed while"),
    "a task that nobody has, released": ([made(), r.TaskReleased(TASK)], "released while"),
    "a task that goes out while it is claimed": (
        [made(), claimed(), r.TaskEnqueued(TASK, 10)],
        "goes out while",
    ),
    "a lock held by two": ([locked("a"), locked("b")], "was taken from"),
    "a lock freed twice": ([locked("a"), *[r.LockReleased("lock")] * 2], "freed twice"),
    "a slot fired twice": (
        [r.ScheduleCreated(SCHEDULE), fired(5_000, 10_000), fired(5_000, 10_000)],
        "fired twice",
    ),
    "a slot left out": (
        [r.ScheduleCreated(SCHEDULE), fired(10_000, 15_000)],
        "fired at 10000, not at 5000",
    ),
    "a next slot that is wrong": (
        [r.ScheduleCreated(SCHEDULE), fired(5_000, 15_000)],
        "leaves out 10000",
    ),
    "a slot fired too early": (
        [r.ScheduleCreated(SCHEDULE), fired(5_000, 10_000, 4_999)],
        "too early",
    ),
    "a message that nobody has sent": ([received(1)], "has not sent"),
    "a message out of order": ([received(2)], "applied message 2 after 0"),
    "an outbox that forgets too early": (
        [r.MessagesAcknowledged(0, 1)],
        "forgot what its target has not applied",
    ),
    "a deletion of what is pending": (
        [made(), r.PromisesDeleted(["p"], [], 1, 5_000)],
        "no rule says so",
    ),
    "a deletion too early": (
        [made(), ended(), r.PromisesDeleted(["p"], [], 1, 1_009)],
        "no rule says so",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_record_against_the_rules_is_noticed(name: str) -> None:
    watch = Watch(1, (RULE,))
    records, complaint = BROKEN[name]

    for record in records[:-1]:
        if isinstance(record, str):  # as if releasing had not counted
            watch.shadow[0].tasks[TASK].counter = 1
        else:
            watch.check(0, record)
    with pytest.raises(BrokenPromise, match=complaint):
        watch.check(0, records[-1])


def test_what_is_right_is_not_complained_about() -> None:
    watch = Watch(1, (RULE,))
    sound: list[r.Record] = [
        made(),
        waits(),
        r.TaskEnqueued(TASK, 10),
        claimed(),
        r.TaskReleased(TASK),
        claimed("b"),
        r.TaskCompleted(TASK, 5),
        ended(),
        r.TaskDelivered("__notify:p:one"),
        r.PromisesDeleted(["p"], [TASK, "__notify:p:one"], 2, 1_010),
        made("p", 2),
        locked("a"),
        locked("a"),
        r.LockReleased("lock"),
        locked("b"),
        r.ScheduleCreated(SCHEDULE),
        fired(5_000, 10_000),
        fired(10_000, 15_000),
    ]
    for record in sound:
        watch.check(0, record)

    assert watch.deleted == {"p"}
    assert watch.slots_count == 2


def test_an_effect_that_is_earlier_than_its_cause_is_noticed() -> None:
    """The cause is a slot of a schedule in shard 0, whose promise is in shard 1."""
    name, others = "run/5000", 2
    while shard_of(name, others) != 1:
        name += "-"
    promise = r.PromiseMessage(name, 100_000, EMPTY_VALUE, {})
    cause = r.ScheduleFired("s", 5_000, 10_000, promise, 5_000, 60_000)
    for at, is_sound in ((60_000, True), (59_999, False)):
        watch = Watch(others)
        watch.check(0, r.ScheduleCreated(SCHEDULE))
        watch.check(0, cause)
        effect = r.MessageReceived(0, 1, promise, 1, at)
        if is_sound:
            watch.check(1, effect)
        else:
            with pytest.raises(BrokenPromise, match="applied at 59999 what 0 sent at 60000"):
                watch.check(1, effect)


# The log after a crash

ENTRIES = [LogRecord(0, number, r.encode(made(f"p{number}", number))) for number in (1, 2, 3)]


def logged(durable_count: int) -> Watch:
    watch = Watch(1)
    watch.appended(ENTRIES)
    watch.durable(durable_count)
    return watch


def test_a_crash_may_keep_or_lose_what_is_not_durable() -> None:
    for kept_count in (1, 2, 3):
        watch = logged(1)
        found = list(enumerate(ENTRIES[:kept_count], 1))
        watch.recovered(kept_count + 1, found)
        assert len(watch.shadow[0].promises) == kept_count


def test_a_crash_that_loses_or_changes_records_is_noticed() -> None:
    with pytest.raises(BrokenPromise, match="1 durable records are lost"):
        logged(2).recovered(2, [(1, ENTRIES[0])])
    with pytest.raises(BrokenPromise, match="record 1 is"):
        logged(1).recovered(2, [(1, ENTRIES[1])])
    with pytest.raises(BrokenPromise, match="nobody has appended"):
        logged(3).recovered(5, [])
    with pytest.raises(BrokenPromise, match="nobody has appended"):
        logged(1).durable(4)


# What leaves (I1)

PENDING = Promise("p", 1, PromiseState.PENDING, 100, 0)
OVER = replace(PENDING, state=RESOLVED, value=Value(data="x"))
LOCK = Lock("lock", "a", "process", 10, 20)
INVOKE = Task(TASK, TaskKind.INVOKE, "p", "p", "poll://any@group", 100, 1, 0)
NOTIFY = Task("__notify:p:one", TaskKind.NOTIFY, "p", "p", "poll://uni@g/1", 100, 1, 0)

TOO_EARLY: dict[str, Callable[[Watch], None]] = {
    "a promise": lambda watch: watch.answered(Reply(Code.OK, promise=replace(PENDING, id="q"))),
    "an end": lambda watch: watch.answered(Reply(Code.OK, promise=OVER)),
    "a callback": lambda watch: watch.answered(Reply(Code.CREATED, callback=waits().callback)),
    "a lock": lambda watch: watch.answered(Reply(Code.CREATED, lock=LOCK)),
    "a claim of a promise that ended": lambda watch: watch.answered(
        Reply(Code.CREATED, claimed=Claimed(TaskKind.INVOKE, "p", "p", OVER))
    ),
    "a completed task": lambda watch: watch.answered(
        Reply(Code.CREATED, task=replace(INVOKE, state=TaskState.COMPLETED))
    ),
    "a later counter": lambda watch: watch.sending(TaskMessage(replace(INVOKE, counter=2))),
    "a message of an unknown task": lambda watch: watch.sending(
        TaskMessage(replace(INVOKE, id="__invoke:q", root_id="q"))
    ),
    "news of what has not ended": lambda watch: watch.sending(TaskMessage(NOTIFY)),
}


@pytest.mark.parametrize("name", TOO_EARLY)
def test_what_leaves_before_it_is_durable_is_noticed(name: str) -> None:
    watch = Watch(1)
    watch.check(0, made())

    with pytest.raises(BrokenPromise, match=r"durable|has not ended"):
        TOO_EARLY[name](watch)


def test_two_tasks_of_a_root_on_their_way_are_noticed() -> None:
    watch = Watch(1)
    watch.check(0, made())
    watch.check(0, claimed())
    other = replace(INVOKE, id="__resume:p:q", kind=TaskKind.RESUME)

    with pytest.raises(BrokenPromise, match="is under way"):
        watch.stepped(watch.shadow[0], Step(Reply(Code.OK), [], [], sends=[TaskMessage(other)]))

"""What several clients see at the same time is what one after the other could have seen."""

from contextlib import suppress
from random import Random
from typing import Any

import pytest
import trio

from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import Lock, Promise, PromiseState, TaskKind, Value
from troth.core.replies import Claimed, Reply

from .checks import check_recovered
from .linear_models import LockModel, LockOperation, PromiseModel, TaskModel, TimedLock
from .linearizability import Operation, check
from .plan import Plan
from .server import Unreachable
from .simulation import run_deterministically
from .trouble import make_trouble
from .workers import FAR_MS
from .world import World

RESOLVED, REJECTED = PromiseState.RESOLVED, PromiseState.REJECTED
CANCELED, PENDING = PromiseState.REJECTED_CANCELED, PromiseState.PENDING

History = list[Operation[Command, Reply]]


def record(seed: int, *, clients_count: int = 5, requests_count: int = 20) -> History:
    """Let clients work on three promises at the same time while the server keeps crashing."""
    world = World(Plan(seed, steps_count=10_000), check_recovered)

    async def client(number: int) -> None:
        random = world.random(f"client {number}")
        for request in range(requests_count):
            await trio.sleep(random.expovariate(1 / 0.05))
            await world.server_is_up()
            with suppress(Unreachable):
                command = some_request(random, f"{number}/{request}")
                await world.ask(f"client{number}", command, random)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world.nursery = nursery
            nursery.start_soon(world.run_server)
            await world.server_is_up()
            nursery.start_soon(make_trouble, world, 0.5)
            async with trio.open_nursery() as clients:
                for number in range(clients_count):
                    clients.start_soon(client, number)
            nursery.cancel_scope.cancel()

    run_deterministically(seed, main, instruments=[world.steps])
    return world.history.promises


def some_request(random: Random, name: str) -> Command:
    """A request on one of three promises; keys and `strict` are such that they often meet."""
    identifier = f"race/{random.choice('abc')}"
    key = random.choice((None, "one", "two"))
    strict = random.random() < 0.3
    kind = random.random()
    if kind < 0.3:
        return CreatePromise(identifier, FAR_MS, idempotency_key=key, strict=strict)
    if kind < 0.5:
        state = random.choice((RESOLVED, REJECTED, CANCELED))
        return CompletePromise(identifier, state, Value(data=name), key, strict)
    return ReadPromise(identifier)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_concurrent_histories_have_an_explanation(seed: int) -> None:
    history = record(seed)

    assert sum(operation.output is not None for operation in history) >= 50
    assert check(PromiseModel(), history) == [], f"seed {seed}"


@pytest.mark.slow
def test_histories_hold_crashes_and_overlaps() -> None:
    """Otherwise the test above would prove nothing."""
    histories = [record(seed) for seed in range(10)]
    overlaps_count = sum(
        one.called < other.called < one.returned
        for history in histories
        for one in history
        for other in history
        if one.output is not None
    )
    unknown_count = sum(one.output is None for history in histories for one in history)

    assert overlaps_count >= 100
    assert unknown_count >= 20


@pytest.mark.slow
def test_a_stale_read_in_a_real_history_is_found() -> None:
    """Turn the last answer of a completed promise back into what it was before."""
    found_count = 0
    for seed in range(10):
        history = record(seed)
        ends = [
            place
            for place, one in enumerate(history)
            if isinstance(one.input, ReadPromise)
            and one.output is not None
            and one.output.promise is not None
            and one.output.promise.state is not PENDING
        ]
        # The end was seen before the last of these was even asked for.
        if len(ends) < 2 or history[ends[0]].returned > history[ends[-1]].called:
            continue
        last = history[ends[-1]]
        if history[ends[0]].input != last.input:
            continue
        assert isinstance(last.input, ReadPromise)
        stale = Reply(Code.OK, promise=pending(last.input.id))
        history[ends[-1]] = Operation(last.called, last.input, last.returned, stale)
        assert check(PromiseModel(), history) == [last.input.id], f"seed {seed}"
        found_count += 1
    assert found_count >= 1


# Histories made by hand


def pending(identifier: str) -> Promise:
    return Promise(identifier, 1, PENDING, FAR_MS, 0)


def ended(identifier: str, data: str) -> Promise:
    return Promise(identifier, 1, RESOLVED, FAR_MS, 0, value=Value(data=data))


CREATE, READ = CreatePromise("p", FAR_MS), ReadPromise("p")
MADE = Reply(Code.CREATED, promise=pending("p"))
SEEN_PENDING = Reply(Code.OK, promise=pending("p"))


def complete(data: str) -> CompletePromise:
    return CompletePromise("p", RESOLVED, Value(data=data))


def completed(data: str) -> Reply:
    return Reply(Code.CREATED, promise=ended("p", data))


def seen(data: str) -> Reply:
    return Reply(Code.OK, promise=ended("p", data))


BROKEN: dict[str, History] = {
    "made twice": [Operation(0, CREATE, 2, MADE), Operation(1, CREATE, 3, MADE)],
    "completed twice": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 4, completed("x")),
        Operation(3, complete("y"), 5, completed("y")),
    ],
    "a lost write": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 3, completed("x")),
        Operation(4, complete("y"), 5, completed("y")),
        Operation(6, READ, 7, seen("y")),
    ],
    "forgotten": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, READ, 3, Reply(Code.PROMISE_NOT_FOUND)),
    ],
    "a stale read": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 5, completed("x")),
        Operation(3, READ, 4, seen("x")),
        Operation(6, READ, 7, SEEN_PENDING),
    ],
    "reads that go back while the write is under way": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 9, completed("x")),
        Operation(3, READ, 4, seen("x")),
        Operation(5, READ, 6, SEEN_PENDING),
    ],
    "a value that nobody wrote": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x")),
        Operation(3, READ, 4, seen("y")),
    ],
    "read before anybody wrote": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, READ, 3, seen("x")),
        Operation(4, complete("x"), 5, completed("x")),
    ],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_rejected(name: str) -> None:
    assert check(PromiseModel(), BROKEN[name]) == ["p"]


SOUND: dict[str, History] = {
    "nothing": [],
    "one after the other": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, READ, 3, SEEN_PENDING),
        Operation(4, complete("x"), 5, completed("x")),
        Operation(6, READ, 7, seen("x")),
    ],
    "a read may see what is not answered yet": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 9, completed("x")),
        Operation(3, READ, 4, SEEN_PENDING),
        Operation(5, READ, 6, seen("x")),
    ],
    "no answer, but it happened": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x")),
        Operation(3, READ, 4, SEEN_PENDING),
        Operation(5, READ, 6, seen("x")),
    ],
    "no answer, and it never happened": [
        Operation(0, CREATE),
        Operation(1, READ, 2, Reply(Code.PROMISE_NOT_FOUND)),
        Operation(3, CREATE, 4, MADE),
    ],
    "the later call was first": [
        Operation(0, complete("x"), 9, Reply(Code.PROMISE_RESOLVED)),
        Operation(1, CREATE, 2, MADE),
        Operation(3, complete("y"), 4, completed("y")),
    ],
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_accepted(name: str) -> None:
    assert check(PromiseModel(), SOUND[name]) == []


def test_objects_are_judged_one_by_one() -> None:
    other = [
        Operation[Command, Reply](0, ReadPromise("q"), 1, Reply(Code.PROMISE_NOT_FOUND)),
    ]

    assert check(PromiseModel(), BROKEN["made twice"] + other) == ["p"]


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
    assert check(LockModel(), BROKEN_LOCKS[name]) == ["lock"]


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


@pytest.mark.parametrize("name", SOUND_LOCKS)
def test_a_sound_history_of_a_lock_is_accepted(name: str) -> None:
    assert check(LockModel(), SOUND_LOCKS[name]) == []


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
    assert check(TaskModel(), BROKEN_TASKS[name]) == ["root"]


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
    assert check(TaskModel(), SOUND_TASKS[name]) == []

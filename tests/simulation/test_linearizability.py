"""What several clients see at the same time is what one after the other could have seen."""

from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import pytest
import trio

from tests.helpers.seeds import seeds
from troth.core.codes import Code
from troth.core.commands import (
    AcquireLock,
    ClaimTask,
    Command,
    CompletePromise,
    CompleteTask,
    CreatePromise,
    DeletePromise,
    DropTask,
    ReadPromise,
    ReleaseLock,
)
from troth.core.model import Fence, Promise, PromiseState, Value
from troth.core.replies import Reply

from .checks import check_recovered
from .linearizability import LockModel, Operation, PromiseModel, RootModel, check
from .plan import Plan
from .server import Unreachable
from .simulation import run_deterministically
from .trouble import make_trouble, make_trouble_between
from .workers import FAR_MS
from .world import World

RESOLVED, REJECTED = PromiseState.RESOLVED, PromiseState.REJECTED
CANCELED, PENDING = PromiseState.REJECTED_CANCELED, PromiseState.PENDING

History = list[Operation[Command, Reply]]

IDS = "ade"
"""In three shards, so in three groups if there are as many."""

Requests = Callable[[Random, str], Command]


def record(
    seed: int,
    request_of: Requests | None = None,
    *,
    clients_count: int = 5,
    requests_count: int = 20,
    groups_count: int = 1,
    chances: tuple[tuple[str, float], ...] = (),
) -> History:
    """Let clients work on three objects at the same time while the server keeps crashing.

    `request_of` makes a client's next request; without it they are about promises.
    """
    request_of = request_of or some_request
    history: History = []
    times = count()
    # What the network repeats would happen a second time and be in no history.
    without = frozenset(["request_doubled"])
    plan = Plan(
        seed, steps_count=10_000, without=without, groups_count=groups_count, chances=chances
    )
    world = World(plan, check_recovered)

    async def client(number: int) -> None:
        random = world.random(f"client {number}")
        for request in range(requests_count):
            await trio.sleep(random.expovariate(1 / 0.05))
            await world.server_is_up()
            command = request_of(random, f"{number}/{request}")
            called = next(times)
            try:
                reply = await world.ask(f"client{number}", command, random)
            except Unreachable:
                history.append(Operation(called, command))
            else:
                history.append(Operation(called, command, next(times), reply))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world.steps.check = world.check_step
            nursery.start_soon(world.steps.raise_broken)
            nursery.start_soon(world.run_server)
            await world.server_is_up()
            nursery.start_soon(make_trouble, world, 0.5 * groups_count)
            nursery.start_soon(make_trouble_between, world, 0.5 * groups_count)
            async with trio.open_nursery() as clients:
                for number in range(clients_count):
                    clients.start_soon(client, number)
            nursery.cancel_scope.cancel()

    run_deterministically(seed, main, instruments=[world.steps])
    return history


def some_request(random: Random, name: str) -> Command:
    """A request on one of three promises; keys and `strict` are such that they often meet."""
    identifier = random.choice(IDS)
    key = random.choice((None, "one", "two"))
    strict = random.random() < 0.3
    kind = random.random()
    if kind < 0.3:
        return CreatePromise(identifier, FAR_MS, idempotency_key=key, strict=strict)
    if kind < 0.5:
        state = random.choice((RESOLVED, REJECTED, CANCELED))
        return CompletePromise(identifier, state, Value(data=name), key, strict)
    return ReadPromise(identifier)


def some_request_or_deletion(random: Random, name: str) -> Command:
    """A request on one of three promises, which often is that it be deleted."""
    if random.random() < 0.25:
        return DeletePromise(random.choice(IDS))
    return some_request(random, name)


def some_lock_request(random: Random, name: str) -> Command:
    """A request on one of three locks, by one of three executions."""
    resource, execution = random.choice(IDS), random.choice("xyz")
    if random.random() < 0.6:
        return AcquireLock(resource, execution, name, FAR_MS)
    return ReleaseLock(resource, execution)


def some_task_request(random: Random, name: str) -> Command:
    """A request on one of three roots and their tasks, whose messages nobody receives."""
    root, counter = random.choice(IDS), random.choice((1, 1, 1, 2, 2, 3))
    task_id = f"__invoke:{root}"
    kind = random.random()
    if kind < 0.25:
        tags = {"resonate:invoke": "poll://nobody"}
        return CreatePromise(root, FAR_MS, tags=tags)
    if kind < 0.28:
        return CompletePromise(root, RESOLVED)
    if kind < 0.7:
        return ClaimTask(task_id, counter, name, FAR_MS)
    return DropTask(task_id, counter) if kind < 0.95 else CompleteTask(task_id, counter)


def some_fenced_request(random: Random, name: str) -> Command:
    """A request on one of three roots and their tasks, or on behalf of such a task.

    What is made on its behalf has a name of its own, and lives anywhere.
    """
    kind = random.random()
    if kind < 0.1:
        return CreatePromise(random.choice(IDS), FAR_MS, tags={"resonate:invoke": "poll://nobody"})
    if kind < 0.5:
        return some_task_request(random, name)
    fence = Fence(f"__invoke:{random.choice(IDS)}", random.choice((1, 1, 1, 2, 2, 3)))
    return CreatePromise(f"of/{name}", FAR_MS, fence=fence)


GROUPS_SEEDS = seeds(0, 1, 75)
"""Of each kind of history over several groups: 300 in all."""


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", GROUPS_SEEDS)
@pytest.mark.parametrize(
    ("request_of", "model"),
    [
        (some_request_or_deletion, PromiseModel()),
        (some_lock_request, LockModel()),
        (some_task_request, RootModel()),
        (some_fenced_request, RootModel()),
    ],
)
def test_concurrent_histories_over_groups_have_an_explanation(
    seed: int, request_of: Requests, model: Any
) -> None:
    """Each request may be forwarded, and processes and links end while it is under way."""
    history = record(seed, request_of, groups_count=2 + seed % 3)

    assert sum(operation.output is not None for operation in history) >= 20
    assert check(model, history) == [], f"seed {seed}"


@pytest.mark.slow
def test_requests_over_groups_are_made_on_behalf_of_tasks_and_refused() -> None:
    """Otherwise the test above would prove little about fences."""
    codes = Counter(
        operation.output.code
        for seed in range(6)
        for operation in record(seed, some_fenced_request, groups_count=3)
        if operation.output is not None and getattr(operation.input, "fence", None) is not None
    )

    assert codes.keys() == {Code.CREATED, Code.TASK_FENCED}
    assert codes[Code.CREATED] >= 10
    assert codes[Code.TASK_FENCED] >= 10


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(0, 2, 12))
def test_concurrent_histories_of_locks_have_an_explanation(seed: int) -> None:
    history = record(seed, some_lock_request)

    assert check(LockModel(), history) == [], f"seed {seed}"


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(0, 2, 12))
def test_concurrent_histories_of_tasks_have_an_explanation(seed: int) -> None:
    history = record(seed, some_task_request)

    assert check(RootModel(), history) == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_of", "expected"),
    [
        (
            some_request_or_deletion,
            {Code.CREATED, Code.NO_CONTENT, Code.PROMISE_NOT_FOUND, Code.PROMISE_PENDING},
        ),
        (
            some_lock_request,
            {Code.CREATED, Code.NO_CONTENT, Code.LOCK_HELD, Code.LOCK_NOT_FOUND},
        ),
        (
            some_task_request,
            {
                *(Code.CREATED, Code.TASK_CLAIMED, Code.TASK_COUNTER, Code.TASK_STATE),
                *(Code.TASK_COMPLETED, Code.TASK_NOT_FOUND, Code.PROMISE_RESOLVED),
            },
        ),
    ],
)
def test_histories_of_other_kinds_hold_every_answer(
    request_of: Requests, expected: set[Code]
) -> None:
    """Otherwise the tests above would prove little."""
    codes = Counter(
        operation.output.code
        for seed in range(12)
        for operation in record(seed, request_of)
        if operation.output is not None
    )

    assert set(codes) >= expected
    assert codes[Code.CREATED] >= 50


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(0, 2, 12))
def test_concurrent_histories_of_promises_that_are_deleted_have_an_explanation(seed: int) -> None:
    history = record(seed, some_request_or_deletion)

    assert check(PromiseModel(), history) == [], f"seed {seed}"


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(0, 4, 30))
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


CREATE, READ, DELETE = CreatePromise("p", FAR_MS), ReadPromise("p"), DeletePromise("p")
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
    "forgotten": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, READ, 3, Reply(Code.PROMISE_NOT_FOUND)),
    ],
    "deleted while it was pending": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, DELETE, 3, Reply(Code.NO_CONTENT)),
    ],
    "deleted twice": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 3, completed("x")),
        Operation(4, DELETE, 6, Reply(Code.NO_CONTENT)),
        Operation(5, DELETE, 7, Reply(Code.NO_CONTENT)),
    ],
    "back after its deletion": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 3, completed("x")),
        Operation(4, DELETE, 5, Reply(Code.NO_CONTENT)),
        Operation(6, READ, 7, seen("x")),
    ],
    "in use although it is pending": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, DELETE, 3, Reply(Code.PROMISE_IN_USE)),
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
    "made again by a late request after its deletion": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, CREATE),
        Operation(3, complete("x"), 4, completed("x")),
        Operation(5, DELETE, 6, Reply(Code.PROMISE_IN_USE)),
        Operation(7, DELETE, 8, Reply(Code.NO_CONTENT)),
        Operation(9, READ, 10, SEEN_PENDING),
        Operation(11, DELETE, 12, Reply(Code.PROMISE_PENDING)),
    ],
    "a deletion that nobody heard of": [
        Operation(0, CREATE, 1, MADE),
        Operation(2, complete("x"), 3, completed("x")),
        Operation(4, DELETE),
        Operation(5, READ, 6, seen("x")),
        Operation(7, READ, 8, Reply(Code.PROMISE_NOT_FOUND)),
        Operation(9, DELETE, 10, Reply(Code.PROMISE_NOT_FOUND)),
    ],
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


TASK = "__invoke:p"
GRANTED, GONE = Reply(Code.CREATED), Reply(Code.NO_CONTENT)
HELD, CLAIMED = Reply(Code.LOCK_HELD), Reply(Code.TASK_CLAIMED)


def acquire(execution: str) -> AcquireLock:
    return AcquireLock("p", execution, "w", FAR_MS)


def claim(process: str, counter: int = 1) -> ClaimTask:
    return ClaimTask(TASK, counter, process, FAR_MS)


BROKEN_LOCKS: dict[str, History] = {
    "held by two": [Operation(0, acquire("x"), 2, GRANTED), Operation(1, acquire("y"), 3, GRANTED)],
    "a release that is forgotten": [
        Operation(0, acquire("x"), 1, GRANTED),
        Operation(2, ReleaseLock("p", "x"), 3, GONE),
        Operation(4, acquire("y"), 5, HELD),
    ],
    "released by another": [
        Operation(0, acquire("x"), 1, GRANTED),
        Operation(2, ReleaseLock("p", "y"), 3, GONE),
    ],
    "refused although nobody can hold it": [Operation(0, acquire("x"), 1, HELD)],
}
BROKEN_TASKS: dict[str, History] = {
    "a double claim": [
        Operation(0, CREATE, 1, GRANTED),
        Operation(2, claim("v"), 4, GRANTED),
        Operation(3, claim("w"), 5, GRANTED),
    ],
    "a claim with a counter that is over": [
        Operation(0, CREATE, 1, GRANTED),
        Operation(2, claim("v"), 3, GRANTED),
        Operation(4, DropTask(TASK, 1), 5, GRANTED),
        Operation(6, claim("w"), 7, GRANTED),
    ],
    "a claim after the root has ended": [
        Operation(0, CREATE, 1, GRANTED),
        Operation(2, complete("x"), 3, GRANTED),
        Operation(4, claim("v"), 5, GRANTED),
    ],
    "a lost claim": [
        Operation(0, CREATE, 1, GRANTED),
        Operation(2, claim("v"), 3, GRANTED),
        Operation(4, CompleteTask(TASK, 1), 5, Reply(Code.TASK_STATE)),
    ],
}


@pytest.mark.parametrize("name", BROKEN_LOCKS)
def test_a_broken_history_of_a_lock_is_rejected(name: str) -> None:
    assert check(LockModel(), BROKEN_LOCKS[name]) == ["p"]


@pytest.mark.parametrize("name", BROKEN_TASKS)
def test_a_broken_history_of_a_task_is_rejected(name: str) -> None:
    assert check(RootModel(), BROKEN_TASKS[name]) == ["p"]


def test_sound_histories_of_locks_and_tasks_are_accepted() -> None:
    """With answers that are missing, and requests at the same time."""
    locks = [
        Operation[Command, Reply](0, acquire("x")),
        Operation[Command, Reply](1, acquire("y"), 2, HELD),
        Operation[Command, Reply](3, ReleaseLock("p", "x")),
        Operation[Command, Reply](4, acquire("y"), 5, GRANTED),
    ]
    tasks = [
        Operation[Command, Reply](0, CREATE, 1, GRANTED),
        Operation[Command, Reply](2, claim("v"), 5, CLAIMED),
        Operation[Command, Reply](3, claim("w"), 4, GRANTED),
        Operation[Command, Reply](6, DropTask(TASK, 1)),
        Operation[Command, Reply](7, claim("v", counter=2), 8, GRANTED),
    ]

    assert check(LockModel(), locks) == []
    assert check(RootModel(), tasks) == []


def test_objects_are_judged_one_by_one() -> None:
    other = [
        Operation[Command, Reply](0, ReadPromise("q"), 1, Reply(Code.PROMISE_NOT_FOUND)),
    ]

    assert check(PromiseModel(), BROKEN["made twice"] + other) == ["p"]

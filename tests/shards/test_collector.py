"""What shards remember is nothing to the garbage collector, however much it is.

A look at everything would otherwise take 1.5 ms for every 1,000 leases, in one pass of the loop.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import trio
from trio.testing import MockClock

from troth.core import commands as c
from troth.core import workflow_commands as w
from troth.core.catalog import Capabilities, FunctionKind, execution_promise_id
from troth.core.executions import ExecutionPlan
from troth.core.model import ClaimRequest, PromiseState
from troth.shards.collector import LOOK_AFTER_S, Collector

from .passing import FAR_MS, ask_all, running
from .stage import settle
from .test_longest_pass import GROUP, INVOKE

MADE_COUNT = 1_000
OTHERS_COUNT = 500
"""What the loop and the test itself add in between."""
TARGET = {"resonate:target": GROUP}
PLAN = ExecutionPlan("account", "function", FunctionKind.HTTP, Capabilities(), url="http://x/")

KINDS: dict[str, list[Callable[[int], c.Command]]] = {
    "promise": [lambda n: c.CreatePromise(f"p{n}", FAR_MS, tags={"x": str(n)})],
    "completed promise": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS),
        lambda n: c.CompletePromise(f"p{n}", PromiseState.RESOLVED),
    ],
    "waiting task": [lambda n: c.CreatePromise(f"p{n}", FAR_MS, tags=INVOKE)],
    "enqueued task": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS, tags=INVOKE),
        lambda n: c.TaskSent(f"__invoke:p{n}", 1),
    ],
    "claimed task": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS, tags=INVOKE, claim=ClaimRequest("x", 10**9))
    ],
    "lock": [lambda n: c.AcquireLock(f"l{n}", "e", "x", 10**9)],
    "callbacks": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS),
        lambda n: c.CreateCallback(f"p{n}", f"r{n}", FAR_MS, GROUP),
        lambda n: c.CreateSubscription(f"p{n}", "s", FAR_MS, GROUP),
    ],
    "resumed roots": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS),
        lambda n: c.CreateCallback(f"p{n}", f"r{n}", FAR_MS, GROUP),
        lambda n: c.CompletePromise(f"p{n}", PromiseState.RESOLVED),
    ],
    "acquired workflow": [lambda n: w.CreateWorkflow(f"w{n}", FAR_MS, "x", 10**9, tags=TARGET)],
    "suspended workflow": [
        lambda n: c.CreatePromise(f"p{n}", FAR_MS),
        lambda n: w.CreateWorkflow(f"w{n}", FAR_MS, "x", 10**9, tags=TARGET),
        lambda n: w.SuspendWorkflow(f"w{n}", 1, (f"p{n}",)),
        lambda n: w.RegisterListener(f"p{n}", f"{GROUP}/{n}"),
    ],
    "schedule": [lambda n: c.CreateSchedule(f"s{n}", "0 0 1 1 *", f"s{n}.{{{{.timestamp}}}}", 9)],
    "execution": [
        lambda n: c.CreateExecution(execution_promise_id(str(n)), FAR_MS, PLAN),
        lambda n: c.AssignExecution(f"__invoke:{execution_promise_id(str(n))}", 1, "node", 10**9),
    ],
}


def tracked() -> Counter[type]:
    """The objects that the collector knows, by type."""
    for _ in range(3):  # it finds out about tuples in tuples one by one
        gc.collect()
    return Counter(map(type, gc.get_objects()))


@pytest.fixture
def only_new() -> Iterator[None]:
    """Leave what the process has already out of all looks: with pytest that is most of it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_remembered_is_not_collected(kind: str, only_new: None) -> None:
    async with running(2) as shards:
        await ask_all(shards, [c.CreatePromise("first", FAR_MS)])
        for make in KINDS[kind]:  # what only the first of a kind needs, such as a module
            await ask_all(shards, [make(MADE_COUNT)])
        await settle()  # messages may be on their way still
        before = tracked()
        for make in KINDS[kind]:
            await ask_all(shards, [make(number) for number in range(MADE_COUNT)])
        await settle()
        added = tracked() - before
    assert added.total() < OTHERS_COUNT, added.most_common(5)


async def test_what_takes_the_place_of_others_is_looked_at_in_time(mock_clock: MockClock) -> None:
    """As many objects go as come, so there are never more for the collector to count."""
    young: list[int] = []

    def look(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            young.append(len(gc.get_objects(0)))

    held: list[object] = [[] for _ in range(20 * MADE_COUNT)]
    gc.collect()
    collector = Collector(worked_s=trio.current_time)
    trio.lowlevel.add_instrument(collector)
    gc.callbacks.append(look)
    try:
        for first in range(0, len(held), MADE_COUNT):
            for number in range(first, first + MADE_COUNT):
                held[number] = []
            mock_clock.jump(LOOK_AFTER_S)
            await trio.lowlevel.checkpoint()
    finally:
        gc.callbacks.remove(look)
        trio.lowlevel.remove_instrument(collector)
    assert len(young) >= len(held) / MADE_COUNT
    assert max(young) <= MADE_COUNT + OTHERS_COUNT


async def test_time_in_which_the_loop_does_not_work_does_not_count(mock_clock: MockClock) -> None:
    worked_s = 0.0
    collector = Collector(worked_s=lambda: worked_s)
    looks: list[str] = []
    collector.after_io_wait(0)
    gc.callbacks.append(lambda phase, _: looks.append(phase))
    try:
        for _ in range(10):
            mock_clock.jump(LOOK_AFTER_S)
            collector.after_io_wait(0)
        assert not looks
        worked_s += LOOK_AFTER_S
        mock_clock.jump(LOOK_AFTER_S)
        collector.after_io_wait(0)
        assert looks == ["start", "stop"]
    finally:
        gc.callbacks.pop()

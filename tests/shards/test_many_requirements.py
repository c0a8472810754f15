"""Placement when executions of one account have very many different requirements."""

from collections import Counter
from random import Random

import pytest
import trio
import trio.testing

from troth.shards.placement import execution_queues
from troth.shards.placement.execution_queues import SHOWN_COUNT
from troth.shards.placement.executions import Need, Offer
from troth.shards.placement.placement import _LOOK_COUNT

from .placement_world import FakeNode, World, running

MANY_COUNT = 10_000
EVENT_LIMIT_COUNT = 512
"""The most comparisons and entries that one event may cost."""


class Costs:
    """Counts what an event does with requirements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        meets, enter = Offer.meets, execution_queues._Kind.enter

        def counted_meets(offer: Offer, requirement: Need) -> bool:
            self.counts["meets"] += 1
            return meets(offer, requirement)

        def counted_enter(
            kind: execution_queues._Kind, line: execution_queues._Line, number: int
        ) -> None:
            self.counts["enter"] += 1
            enter(kind, line, number)

        monkeypatch.setattr(Offer, "meets", counted_meets)
        monkeypatch.setattr(execution_queues._Kind, "enter", counted_enter)

    def check(self) -> None:
        """Fail if there were too many since the last look."""
        assert max(self.counts.values(), default=0) <= EVENT_LIMIT_COUNT
        self.counts.clear()


async def test_an_event_does_not_cost_all_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compared all with the node, and entered all anew, for each of its executions."""
    world = World()
    node = world.node("n", account="b", shared=True, memory_mb=10)
    for number in range(MANY_COUNT):
        world.create(f"big{number}", memory_mb=100 + number)
    costs = Costs(monkeypatch)
    for number in range(20):
        world.create(f"small{number}")
        costs.check()
    for _ in range(20):
        node.take()
        promise_id = next(iter(world.placement.nodes["n"].executions))
        world.claim(promise_id)
        world.placement.ending(promise_id, 1)
        costs.check()
        world.finish(promise_id)
        costs.check()
        while world.placement._is_looking:
            world.placement._look_behind()
            costs.check()

    assert sorted(node.runs()) == sorted(f"small{number}" for number in range(20))
    assert world.placement.waiting_count("a") == MANY_COUNT


async def test_what_is_behind_goes_to_a_node_that_is_free(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when there are more executions than one node has room for."""
    world = World()
    for number in range(MANY_COUNT):
        world.create(f"big{number}", memory_mb=100 + number)
    for number in range(5):
        world.create(f"small{number}", memory_mb=7)
    costs = Costs(monkeypatch)
    nodes = [world.node(f"n{number}", slots=2, memory_mb=10) for number in range(3)]
    costs.check()
    async with running(world):
        steps_count = MANY_COUNT // _LOOK_COUNT + 20
        for _ in range(steps_count):
            await trio.testing.wait_all_tasks_blocked()
        for node in nodes:
            node.take()
    placed = [name for node in nodes for name in node.runs()]
    assert sorted(placed) == [f"small{number}" for number in range(5)]
    world.check()


async def test_what_is_behind_is_looked_at_after_what_was_shown_has_gone() -> None:
    """The node was free already when nothing more was shown for it."""
    world = World()
    world.create("shown", memory_mb=7)
    for number in range(100):
        world.create(f"big{number}", memory_mb=100 + number)
    world.create("behind", memory_mb=8)
    node = world.node("n", slots=3, memory_mb=10)
    node.take()
    assert node.runs() == ["shown"]
    while world.placement._is_looking:
        world.placement._look_behind()
    node.take()
    assert node.runs() == ["shown", "behind"]
    world.check()


async def test_one_step_looks_at_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for number in range(MANY_COUNT):
        world.create(f"big{number}", memory_mb=100 + number)
    world.node("n", memory_mb=10)
    costs = Costs(monkeypatch)
    steps_count = 0
    while world.placement._is_looking:
        world.placement._look_behind()
        costs.check()
        steps_count += 1
    assert steps_count >= (MANY_COUNT - SHOWN_COUNT) // _LOOK_COUNT


async def test_an_account_with_many_requirements_delays_no_other() -> None:
    """And its own come forward while nodes are never free."""
    world = World()
    small = world.node("n", account="c", shared=True, memory_mb=10)
    world.create("first")
    for number in range(300):
        world.create(f"big{number}", memory_mb=100 + number)
    world.create("wanted", memory_mb=9)
    for number in range(400):
        world.create(f"b{number}", account="b")
    for _ in range(350):
        small.take()
        world.finish(next(iter(world.placement.nodes["n"].executions)))

    runs = small.runs()
    assert "wanted" in runs
    assert runs[:4] == ["first", "b0", "b1", "b2"]


async def test_the_oldest_goes_first_where_a_node_can_run_all() -> None:
    world = World()
    names = [f"t{number}" for number in range(300)]
    for number, name in enumerate(names):
        world.create(name, memory_mb=1 + number)
    node = world.node("n", memory_mb=1_000)
    for _ in names:
        node.take()
        world.finish(next(iter(world.placement.nodes["n"].executions)))
        world.check()
    assert node.runs() == names


@pytest.mark.parametrize("seed", range(12))
async def test_in_any_order_nothing_waits_for_a_node_that_is_free(
    seed: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three requirements shown."""
    print("seed", seed)
    monkeypatch.setattr(execution_queues, "SHOWN_COUNT", 3)
    random = Random(seed)
    world = World()
    nodes: list[FakeNode] = []
    disabled: set[str] = set()
    async with running(world):
        for number in range(600):
            action = random.random()
            if action < 0.5 or len(world.tasks) < 5:
                account = random.choice("abc")
                world.create(f"t{number}", account, memory_mb=random.randrange(1, 40))
            elif action < 0.85:
                world.finish(random.choice(list(world.tasks)))
            elif action < 0.9:
                disabled ^= {random.choice("abc")}
                world.placement.withhold(disabled)
            elif len(nodes) < 6:
                memory_mb = random.randrange(1, 40)
                account, shared = random.choice("abc"), random.random() < 0.6
                nodes.append(
                    world.node(f"n{number}", account, shared=shared, slots=2, memory_mb=memory_mb)
                )
            else:
                node = random.choice(nodes)
                world.change(
                    node, offers=world.placement.nodes[node.id].entry.offers, slots_count=2
                )
            if random.random() < 0.4:
                await trio.sleep(1)
                assert not world.placement._is_looking
                world.check()
        await trio.sleep(1)
        world.check()

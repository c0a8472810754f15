"""Surveys over much: every row once, in order, however little a page may cost."""

import random
import time

import pytest
import trio

from troth.core.model import INVOKE, Promise, PromiseState, Task
from troth.core.state.shard_state import ShardState
from troth.core.workflows import WorkflowState as State
from troth.core.workflows import WorkflowTask
from troth.shards.surveys import id_texts, pace
from troth.shards.surveys import tasks as survey
from troth.shards.surveys.id_texts import IdTexts
from troth.shards.surveys.rows import UNFINISHED, TaskRow
from troth.shards.surveys.smallest import Smallest
from troth.shards.surveys.tasks import TaskQuery
from troth.shards.wheel import TimingWheel

FAR_MS = 4_102_444_800_000


def states(shard_count: int, tasks_count: int) -> list[ShardState]:
    """Shards with as many tasks, of both kinds."""
    made = [ShardState(index, lambda _: 0) for index in range(shard_count)]
    for number in range(tasks_count):
        state = made[number * 7 % shard_count]
        name = f"p{number}"
        if number % 2:
            task = Task(f"__invoke:{name}", INVOKE, name, name, "r", FAR_MS, number, number // 3)
            state.tasks[task.id] = task
            state.task_index.append(task.sequence, task.id)
        else:
            tags = {"resonate:target": "poll://any@g"}
            promise = Promise(name, number, PromiseState.PENDING, FAR_MS, number // 3, tags=tags)
            state.promises[name] = promise
            state.workflows[name] = WorkflowTask(name, State.PENDING)
            state.workflow_index.append(promise.serial, name)
    return made


async def all_rows(made: list[ShardState], query: TaskQuery, limit_count: int) -> list[TaskRow]:
    """The rows of all pages."""
    rows: list[TaskRow] = []
    positions: list[int] | None = None
    while True:
        page = await survey.page(made, query, limit_count, positions)
        assert len(page.rows) <= limit_count
        rows += page.rows
        if page.positions is None:
            return rows
        assert page.positions != positions, "no progress"
        positions = page.positions


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_that_end_early_have_every_task_once(
    newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = states(5, 700)
    query = TaskQuery(UNFINISHED, newest_first=newest_first)
    whole = await all_rows(made, query, 1_000)
    assert sorted(row.promise_id for row in whole) == sorted(f"p{one}" for one in range(700))
    times = [row.created_on or 0 for row in whole]
    assert times == sorted(times, reverse=newest_first)
    monkeypatch.setattr(pace, "ANSWER_LIMIT_S", 0.0)
    for limit_count in (1, 13, 1_000):
        assert await all_rows(made, query, limit_count) == whole
    rare = TaskQuery(UNFINISHED, newest_first=newest_first, root="p69*")
    found = [row.promise_id for row in await all_rows(made, rare, 100)]
    assert sorted(found) == sorted(["p69", *(f"p69{one}" for one in range(10))])


async def test_what_ends_between_two_pages_disturbs_no_other() -> None:
    made = states(3, 300)
    first = await survey.page(made, TaskQuery(UNFINISHED), 100, None)
    for state in made:
        for name in list(state.workflows)[::2]:
            del state.workflows[name]
            state.workflow_index.discard(state.promises.pop(name).serial)
    rest = []
    positions = first.positions
    while positions is not None:
        page = await survey.page(made, TaskQuery(UNFINISHED), 50, positions)
        rest += page.rows
        positions = page.positions
    seen = [row.id for row in (*first.rows, *rest)]
    assert len(seen) == len(set(seen))
    left = {name for state in made for name in (*state.tasks, *state.workflows)}
    assert left <= set(seen)


async def test_a_look_gives_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is, no slice is longer than it may be by more than one step."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    made = states(4, 20_000)
    query = TaskQuery(UNFINISHED, receiver="nobody has this one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        began_s = time.thread_time()
        assert await all_rows(made, query, 100) == []
        used_s = time.thread_time() - began_s
        nursery.cancel_scope.cancel()
    assert turns >= used_s / (2 * pace.SLICE_S) - 1


@pytest.mark.parametrize("seed", range(10))
def test_ids_in_memory_are_found_by_their_beginning(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes and goes between two questions; separators in ids do not matter."""
    monkeypatch.setattr(id_texts, "TEXT_COUNT", 5)
    chance = random.Random(seed)
    state, texts = ShardState(0, lambda _: 0), IdTexts()
    serial, live = 0, {}
    for _ in range(40):
        for _ in range(chance.randrange(8)):
            serial += 1
            live[serial] = chance.choice(("a", "a.", "b\0", "a.\0a.", "\0")) + str(serial)
            state.promise_index.append(serial, live[serial])
        for gone in chance.sample(sorted(live), chance.randrange(len(live) // 3 + 1)):
            del live[gone]
            state.promise_index.discard(gone)
        for beginning in ("a", "a.", "b", "\0", "c", ""):
            ids = set(live.values())
            found = [one for part in texts.beginning_with(state, beginning) for one in part]
            wanted = sorted(one for one in ids if one.startswith(beginning))
            assert sorted(one for one in found if one in ids) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_the_smallest_are_found(seed: int) -> None:
    chance = random.Random(seed)
    numbers = chance.sample(range(10_000), 500)
    limit_count, after = chance.randrange(1, 100), chance.choice([None, chance.randrange(10_000)])
    smallest: Smallest[int] = Smallest(limit_count, after)
    for first in range(0, 500, 17):
        smallest.offer(numbers[first : first + 17])
    wanted = sorted(one for one in numbers if after is None or one > after)
    assert smallest.found() == (wanted[:limit_count], len(wanted) > limit_count)


@pytest.mark.parametrize("seed", range(20))
def test_slots_of_a_wheel_are_in_the_order_of_time(seed: int) -> None:
    chance = random.Random(seed)
    now_ms = chance.randrange(10**12)
    wheel: TimingWheel[int] = TimingWheel(now_ms)
    deadlines = {key: now_ms + int(10 ** chance.uniform(0, 13)) for key in range(300)}
    deadlines[300] = now_ms - 5
    for key, deadline_ms in deadlines.items():
        wheel.arm(key, deadline_ms)
    found: list[int] = []
    last = -1
    for parts in wheel.slots(2**62):
        slot = {key: at for part in parts for key, at in part.items()}
        assert slot == {key: deadlines[key] for key in slot}
        assert min(slot.values()) > last
        last = max(slot.values())
        found += slot
    assert sorted(found) == sorted(deadlines)
    until_ms = now_ms + 100_000
    early = {key for parts in wheel.slots(until_ms) for part in parts for key in part}
    assert {key for key, at in deadlines.items() if at <= until_ms} <= early

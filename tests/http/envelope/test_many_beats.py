"""A heartbeat that names very many tasks is read in slices, and a suspension for very many is
refused."""

import gc
import time
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
from msgspec import Raw

from tests.http.client import World, running
from tests.http.envelope.conversation import Conversation
from troth.core.limits import AWAITED_LIMIT_COUNT, BODY_LIMIT_BYTES, LARGE_BODY_BYTES
from troth.core.state.shard_state import ShardState
from troth.http.envelope import wire
from troth.http.envelope.beats import renew_many
from troth.http.wire.principals import Principal, PrincipalKind
from troth.shards.shards import Shards

MANY_COUNT = 20_000
LONGEST_S = 0.020
"""The budget of a pass is 10 ms; on a busy machine twice as much."""


class Passes(trio.abc.Instrument):
    """Measures the longest pass in processor time."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began_s = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        self._began_s = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's name and arguments
        self.longest_s = max(self.longest_s, time.thread_time() - self._began_s)


def named(count: int, last: object = 1) -> list[dict[str, object]]:
    """The tasks that a heartbeat names; the real one is the last but one."""
    others = [{"id": f"nothing{number}", "version": 1} for number in range(count)]
    return [*others, {"id": "t", "version": 1}, {"id": "other", "version": last}]


async def claimed(conversation: Conversation) -> None:
    """The task t, held by w at version 1."""
    await conversation.create("t")
    await conversation.claim("t")


def states_of(world: World) -> list[ShardState]:
    """The shards' states."""
    shards = world.api.shards
    assert isinstance(shards, Shards)
    return shards.states()


async def test_many_tasks_are_renewed() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await claimed(conversation)
        (state,) = [one for one in states_of(world) if "t" in one.workflows]
        before_ms = state.workflows["t"].expires_at
        world.clock.time_ms += 100
        spoken = await conversation.say("task.heartbeat", {"pid": "w", "tasks": named(MANY_COUNT)})
        assert (spoken.status, spoken.data) == (200, {})
        assert state.workflows["t"].expires_at == before_ms + 100


class Renewed:
    """Shards that take note of what is renewed."""

    async def renew_workflows(self, pid: str, tasks: list[tuple[str, int]]) -> int:
        await trio.lowlevel.checkpoint()
        self.pid = pid
        self.tasks = tasks
        return 0


@pytest.mark.slow
async def test_no_pass_is_long_while_a_heartbeat_is_read() -> None:
    """As large as a body may be; it was 34 ms."""
    count = BODY_LIMIT_BYTES // 32
    tasks = b",".join([b'{"id":"task%06d","version":1}' % number for number in range(count)])
    data = Raw(b'{"pid":"w","tasks":[%b]}' % tasks)
    api: Any = SimpleNamespace(shards=Renewed())
    passes = Passes()
    gc.disable()
    trio.lowlevel.add_instrument(passes)
    try:
        await renew_many(api, Principal(PrincipalKind.ANONYMOUS, frozenset()), data)
    finally:
        trio.lowlevel.remove_instrument(passes)
        gc.enable()
    assert (api.shards.pid, len(api.shards.tasks)) == ("w", count)
    assert api.shards.tasks[-1] == (f"task{count - 1:06}", 1)
    assert passes.longest_s < LONGEST_S


@pytest.mark.parametrize("last", ["1", -1, 1.5, None])
async def test_nothing_is_renewed_if_one_of_many_is_wrong(last: object) -> None:
    """The last one is, and the refusal is that of a small heartbeat."""
    async with running() as world:
        conversation = Conversation(world)
        small = await conversation.say("task.heartbeat", {"pid": "w", "tasks": named(1, last)})
        large = await conversation.say(
            "task.heartbeat", {"pid": "w", "tasks": named(MANY_COUNT, last)}
        )
        assert small.status == 400
        expected = small.text.replace("tasks[2]", f"tasks[{MANY_COUNT + 1}]")
        assert (large.status, large.text) == (400, expected)


async def test_an_empty_pid_is_refused_as_in_a_small_one() -> None:
    async with running() as world:
        conversation = Conversation(world)
        tasks = named(MANY_COUNT)
        spoken = await conversation.say("task.heartbeat", {"pid": "", "tasks": tasks})
        assert spoken.status == 400
        assert "data.pid" in spoken.text


async def test_a_task_is_suspended_for_so_many_and_no_more() -> None:
    async with running() as world:
        conversation = Conversation(world)
        await claimed(conversation)
        await conversation.good("promise.create", id="p", timeoutAt=2**62)
        actions = [{"data": {"awaited": "p", "awaiter": "t"}}] * (AWAITED_LIMIT_COUNT + 1)
        data = {"id": "t", "version": 1, "actions": actions}
        spoken = await conversation.say("task.suspend", data)
        assert spoken.status == 422
        assert str(AWAITED_LIMIT_COUNT) in spoken.text
        assert (await conversation.task("t"))["state"] == "acquired"
        spoken = await conversation.say("task.suspend", {**data, "actions": actions[1:]})
        assert spoken.status == 200


def test_a_heartbeat_that_is_read_in_slices_is_large() -> None:
    assert len(str(named(MANY_COUNT))) > LARGE_BODY_BYTES
    assert wire.HEARTBEAT == "task.heartbeat"

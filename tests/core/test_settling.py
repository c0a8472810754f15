"""Commands that are carried out in a row, and taken together, do what each does by itself.

Creates leave what is counted and ordered to `ShardState.settle`; whatever looks at that, or changes
it, comes after.
"""

import random

import pytest

from tests.helpers.seeds import seeds
from troth.core import commands as c
from troth.core.machine import Machine, Step
from troth.core.model import Promise, PromiseState, Value
from troth.core.replies import Reply
from troth.core.workflow_commands import EnsurePromise

from .dumps import dump

NAMES = [f"p{number}" for number in range(12)]
END_MS = 10**12


def machine() -> Machine:
    """One shard with all ids, whose serials are 1, 2, 3."""
    last = iter(range(1, 10**6))
    made = Machine(0, lambda _: 0, lambda: next(last))
    made.state.tracks_changes = True
    return made


def any_command(chance: random.Random, now_ms: int) -> c.Command:
    """Mostly creates of what has nothing but its data."""
    name = chance.choice(NAMES)
    timeout = chance.choice([END_MS, END_MS, now_ms - 1, now_ms + 3])
    match chance.randrange(12):
        case 0:
            return c.CreatePromise(name, timeout, tags={"team": "a"})
        case 1:
            return c.CreatePromise(name, timeout, tags={"resonate:invoke": "poll://g"})
        case 2:
            return c.CreatePromise(name, timeout, idempotency_key="key")
        case 3:
            return c.CompletePromise(name, PromiseState.RESOLVED)
        case 4:
            return c.ReadPromise(name)
        case 5:
            return c.DeletePromise(name)
        case 6:
            return c.SearchPromises("*", tuple(PromiseState), {}, 10, 10**9, 100)
        case 7:
            return EnsurePromise(name, timeout)
        case _:
            return c.CreatePromise(name, timeout, Value(None, "data"))


def what_follows(made: Machine, reply: Reply | Step) -> Reply:
    """The reply; what else there is, is left out."""
    made.state.timers.clear()
    made.state.touched_roots.clear()
    return reply.reply if isinstance(reply, Step) else reply


@pytest.mark.parametrize("seed", seeds(1, 20, 200))
def test_a_part_of_several_commands_is_all_of_them(seed: int) -> None:
    chance = random.Random(seed)
    alone, together = machine(), machine()
    now_ms = 1_000
    for _ in range(30):
        now_ms += chance.randrange(3)
        records: list[object] = []
        timers: list[Promise] = []
        for _ in range(chance.randint(1, 9)):
            command = any_command(chance, now_ms)
            step = alone.step(command, now_ms)
            records += step.records
            timers += step.promise_timers
            reply = what_follows(together, together.carry_out(command, now_ms))
            assert reply == step.reply
        assert together.take_rest() == (records, timers)
        assert dump(together.state) == dump(alone.state)
        assert together.state.promises_count == alone.state.promises_count
        assert together.state.changes.promises == alone.state.changes.promises
        assert together.state.promises.folded_count == alone.state.promises.folded_count
        assert together.activity.created_count == alone.activity.created_count

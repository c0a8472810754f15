"""Tags that a start has loaded are read in the end, while others have their turn."""

import trio

from troth.core.limits import TAGS_SLICE_COUNT
from troth.core.model import PENDING, Promise
from troth.core.state.late_tags import read_tags_later
from troth.core.state.shard_state import ShardState
from troth.shards.upkeep.tag_reader import read_tags

from .stage import FAR_MS


def loaded(index: int, count: int) -> ShardState:
    """Return a shard with promises whose tags are to be read."""
    state = ShardState(index, lambda _: index)
    read_tags_later(state)  # nothing yet
    for number in range(count):
        tags = {"a": "x" if number % 2 else "y"}
        state.promises.add_folded(Promise(f"p{number}", number, PENDING, FAR_MS, 0, tags=tags))
        state.promise_index.append(number, f"p{number}")
    read_tags_later(state)
    return state


async def test_all_tags_are_read_in_the_end(autojump_clock: trio.testing.MockClock) -> None:
    states = [loaded(0, 0), loaded(1, 3 * TAGS_SLICE_COUNT), loaded(2, 5)]
    assert [len(state.index_for({"a": "x"})) for state in states] == [0, 3 * TAGS_SLICE_COUNT, 5]
    await read_tags(states)
    found = [state.index_for({"a": "x"}).ids() for state in states]
    assert [len(ids) for ids in found] == [0, 3 * TAGS_SLICE_COUNT // 2, 2]
    assert found[2] == ["p1", "p3"]
    assert not states[1].index_for({"a": "x"}, reserved=True)

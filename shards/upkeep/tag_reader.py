"""Reading the tags of what a start has loaded, while the server works already (`tag_index.py`).

It takes a millisecond of a pass, and leaves as much to others, so half a million promises are read
within two seconds. Until then searches by tags look at more promises than they need to.
"""

from collections.abc import Sequence
from typing import Final

import trio

from troth.core.state.late_tags import read_tags as read_some_tags
from troth.core.state.shard_state import ShardState

_SHARE_S: Final = 0.001
"""How long it reads in a pass of the loop, and how long it sleeps then."""


async def read_tags(states: Sequence[ShardState]) -> None:
    """Read the tags of all that these shards have loaded. Raises RowUnreadable."""
    end_s = trio.current_time() + _SHARE_S
    for state in states:
        while read_some_tags(state):
            if trio.current_time() >= end_s:
                await trio.sleep(_SHARE_S)
                end_s = trio.current_time() + _SHARE_S
